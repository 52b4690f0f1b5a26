#include "graph/planner.h"

#include <cstdio>

#include "base/float_environment.h"
#include "graph/placing.h"

namespace lowbit::graph {
namespace {

std::string in_words(double count) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", count);
  return text;
}

// What is left of the operations that a call may take, as its steps are placed.
class Budget {
 public:
  Budget(const Program& program, const Limits& limits) : program_(program), limit_(limits.operations) {}

  void take(Plan& plan) {
    double waiting = 0;
    const Plan::Step* longest = nullptr;
    for (Plan::Step& step : plan.steps) {
      const Work work = work_of(program_, plan, step);
      const double count = work.operations + work.bytes;
      taken_ += count;
      if (count >= most_) most_ = count, longest = &step;
      waiting += count;
      step.looks = waiting >= kWorthALook;
      if (step.looks) waiting = 0;
    }
    if (longest != nullptr) where_ = describe(longest->name, longest->op_name);
    if (!limit_ || taken_ <= *limit_) return;
    throw Error(ErrorKind::limit, "a call with inputs of these sizes takes " + in_words(taken_) +
                                      " operations, most of them (" + in_words(most_) + ") in " + where_ +
                                      "; this session's limit is " + in_words(*limit_) +
                                      ". If you trust the model, raise it: limits=lowbit.Limits(operations=...)");
  }

 private:
  static constexpr double kWorthALook = 1e6;  // operations: some microseconds

  const Program& program_;
  std::optional<double> limit_;
  double taken_ = 0, most_ = 0;
  std::string where_;
};

template <class T>
int64_t bytes_of(const std::vector<T>& items) {
  return static_cast<int64_t>(items.capacity() * sizeof(T));
}

int64_t bytes_of(const Plan& plan) {
  int64_t bytes = sizeof(Plan) + bytes_of(plan.inputs) + bytes_of(plan.outputs) + bytes_of(plan.symbols) +
                  bytes_of(plan.steps) + bytes_of(plan.tensors) + bytes_of(plan.arena_bindings) +
                  bytes_of(plan.call_bindings) + bytes_of(plan.kept);
  for (const Buffer& buffer : plan.kept) bytes += static_cast<int64_t>(buffer.bytes());
  return bytes;
}

// The values that the job makes, computed now.
std::map<int, Buffer> compute(const Program& program, std::span<const TensorType> types, const Job& job, int threads,
                              std::span<const int64_t> symbols, Budget& budget,
                              const std::function<void(int64_t)>& reserve, Watch& watch) {
  std::map<int, Buffer> values;
  if (job.outputs.empty()) return values;
  const std::unique_ptr<Plan> plan = place(program, types, job, {}, symbols, threads);
  budget.take(*plan);
  auto bytes = static_cast<int64_t>(plan->arena_bytes);
  for (int value : job.outputs) bytes += bytes_of(types[value]);
  reserve(bytes);
  const Buffer arena(plan->arena_bytes);
  for (const Plan::Binding& binding : plan->arena_bindings)
    plan->tensors[binding.tensor].data = arena.as<std::byte>() + binding.offset;
  for (int value : job.outputs) values.emplace(value, Buffer(bytes_of(types[value])));
  for (const Plan::Binding& binding : plan->call_bindings)
    plan->tensors[binding.tensor].data = values.at(job.outputs[binding.index]).as<std::byte>() + binding.offset;
  for (const Plan::Step& step : plan->steps) run_step(*plan, step, arena.as<std::byte>(), threads, symbols, watch);
  return values;
}

}  // namespace

void run_step(const Plan& plan, const Plan::Step& step, std::byte* arena, int threads, std::span<const int64_t> symbols,
              Watch& watch) {
  std::optional<Watching> watching;
  if (step.looks && watch.is_needed()) watching.emplace(&watch, true);
  const Tensor* tensors = plan.tensors.data() + step.first;
  try {
    if (!watching || !should_stop())
      step.op->run({.inputs = {tensors, step.inputs},
                    .outputs = {tensors + step.inputs, step.outputs},
                    .scratch = arena + step.scratch,
                    .threads = threads,
                    .symbols = symbols});
  } catch (const Error& error) {
    throw Error(error.kind(), describe(step.name, step.op_name) + ": " + error.what());
  }
  if (!watch.stopped()) return;
  if (!watch.is_late()) throw Error(ErrorKind::interrupt, "interrupted");
  throw Error(ErrorKind::limit, "the call took longer than this session's limit, " + in_words(*watch.seconds()) +
                                    " seconds, and was ended in " + describe(step.name, step.op_name) +
                                    ". Give it more time: limits=lowbit.Limits(seconds=...)");
}

// Samples are cheap to send and costly to run: whoever fills a request must not choose what a session keeps for it.
void check_batch(const Program& program, std::span<const int64_t> sizes, const Limits& limits) {
  for (size_t i = 0; i < sizes.size() && limits.batch; ++i) {
    const std::string& name = program.symbols[i].name;
    if (sizes[i] > *limits.batch && name.find("batch") != std::string::npos)
      throw Error(ErrorKind::limit, name + " is " + std::to_string(sizes[i]) + ", and this session's limit is " +
                                        std::to_string(*limits.batch) +
                                        ". Call it with fewer samples at once, or raise it: "
                                        "limits=lowbit.Limits(batch=...)");
  }
}

Work work_of(const Program& program, const Plan& plan, const Plan::Step& step) {
  std::vector<TensorType> types;
  for (size_t i = 0; i < step.inputs + step.outputs; ++i) types.push_back(plan.tensors[step.first + i]);
  const std::span<const TensorType> all(types);
  Work work = step.op->work(all.first(step.inputs), all.subspan(step.inputs));
  if (step.op == program.copy.get()) work.operations = 0;
  return work;
}

std::unique_ptr<Plan> make_plan(const Program& program, std::span<const TensorType> inputs, int threads,
                                const Limits& limits, const std::function<void(int64_t)>& reserve, Watch& watch) {
  const DefaultFloatEnvironment environment;
  const Watching none(nullptr, true);  // but in steps that look
  const std::vector<int64_t> symbols = bind_symbols(program, inputs);
  check_batch(program, symbols, limits);
  const std::vector<TensorType> types = infer_types(program, inputs, symbols);
  const Jobs jobs = divide(program, types);
  Budget budget(program, limits);
  std::map<int, Buffer> kept = compute(program, types, jobs.once, threads, symbols, budget, reserve, watch);
  std::unique_ptr<Plan> plan = place(program, types, jobs.always, kept, symbols, threads);
  budget.take(*plan);
  plan->inputs.assign(inputs.begin(), inputs.end());
  plan->symbols = symbols;
  for (auto& [value, buffer] : kept) plan->kept.push_back(std::move(buffer));
  plan->bytes = bytes_of(*plan);
  for (size_t i = 0; i < program.states.size(); ++i)
    if (plan->outputs[program.given_outputs() + i] != inputs[program.given_inputs() + i])
      throw Error(ErrorKind::input, "state '" + program.values[program.inputs[program.given_inputs() + i].value].name +
                                        "' would become " + to_string(plan->outputs[program.given_outputs() + i]));
  for (size_t i = 0; i < program.given_outputs(); ++i) plan->output_bytes += bytes_of(plan->outputs[i]);
  return plan;
}

}  // namespace lowbit::graph
