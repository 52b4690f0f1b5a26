#include "graph/planner.h"

#include "base/float_environment.h"
#include "graph/placing.h"

namespace lowbit::graph {
namespace {

// The values that the job makes, computed now.
std::map<int, Buffer> compute(const Program& program, std::span<const TensorType> types, const Job& job, int threads,
                              std::span<const int64_t> symbols) {
  std::map<int, Buffer> values;
  if (job.outputs.empty()) return values;
  const std::unique_ptr<Plan> plan = place(program, types, job, {}, symbols, threads);
  const Buffer arena(plan->arena_bytes);
  for (const Plan::Binding& binding : plan->arena_bindings)
    plan->tensors[binding.tensor].data = arena.as<std::byte>() + binding.offset;
  for (int value : job.outputs) values.emplace(value, Buffer(bytes_of(types[value])));
  for (const Plan::Binding& binding : plan->call_bindings)
    plan->tensors[binding.tensor].data = values.at(job.outputs[binding.index]).as<std::byte>() + binding.offset;
  const DefaultFloatEnvironment environment;
  for (const Plan::Step& step : plan->steps) run_step(*plan, step, arena.as<std::byte>(), threads, symbols);
  return values;
}

}  // namespace

void run_step(const Plan& plan, const Plan::Step& step, std::byte* arena, int threads,
              std::span<const int64_t> symbols) {
  const Tensor* tensors = plan.tensors.data() + step.first;
  try {
    step.op->run({.inputs = {tensors, step.inputs},
                  .outputs = {tensors + step.inputs, step.outputs},
                  .scratch = arena + step.scratch,
                  .threads = threads,
                  .symbols = symbols});
  } catch (const Error& error) {
    throw Error(error.kind(), describe(step.name, step.op_name) + ": " + error.what());
  }
}

std::unique_ptr<Plan> make_plan(const Program& program, std::span<const TensorType> inputs, int threads) {
  const std::vector<int64_t> symbols = bind_symbols(program, inputs);
  const std::vector<TensorType> types = infer_types(program, inputs, symbols);
  const Jobs jobs = divide(program, types);
  std::map<int, Buffer> kept = compute(program, types, jobs.once, threads, symbols);
  std::unique_ptr<Plan> plan = place(program, types, jobs.always, kept, symbols, threads);
  plan->inputs.assign(inputs.begin(), inputs.end());
  plan->symbols = symbols;
  for (auto& [value, buffer] : kept) {
    plan->kept_bytes += buffer.bytes();
    plan->kept.push_back(std::move(buffer));
  }
  return plan;
}

}  // namespace lowbit::graph
