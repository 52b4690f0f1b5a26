#include "graph/session.h"

#include <algorithm>
#include <chrono>

#include "base/float_environment.h"
#include "base/threads.h"
#include "graph/directions.h"

namespace lowbit::graph {

namespace {

constexpr int kMaxThreads = 1024;

bool fits(const Plan& plan, std::span<const Tensor> inputs) {
  if (plan.inputs.size() != inputs.size()) return false;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (plan.inputs[i] != inputs[i]) return false;
  return true;
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* first = a.as<const std::byte>();
  const auto* second = b.as<const std::byte>();
  return std::less<>()(first, second + bytes_of(b)) && std::less<>()(second, first + bytes_of(a));
}

}  // namespace

Session::Session(Graph&& graph, Isa isa, int threads, const Limits& limits)
    : program_(prepare(std::move(graph), isa, limits)),
      isa_(isa),
      threads_(threads == 0 ? default_threads() : threads),
      limits_(limits),
      contexts_(static_cast<int64_t>(program_.packed_bytes), program_.memory_limit) {
  if (threads_ < 1 || threads_ > kMaxThreads)
    throw Error(ErrorKind::input,
                "threads must be from 1 to " + std::to_string(kMaxThreads) + ", got " + std::to_string(threads));
  if (threads_ > 1) join_directions(program_);
}

Session::Call::Call(const Session& session, std::span<const Tensor> inputs, Interrupt interrupt, State* state)
    : session_(session),
      inputs_(inputs),
      watch_(session.limits_.seconds, interrupt),
      context_(session.contexts_.lease()) {
  try {
    if (!session.program_.states.empty()) take_state(state);
    plan_ = find_plan();
    session.contexts_.make_room(*context_, *plan_);
  } catch (...) {
    give_back(nullptr);
    throw;
  }
}

void Session::Call::take_state(State* state) {
  const Program& program = session_.program_;
  if (inputs_.size() != program.given_inputs())
    throw Error(ErrorKind::input, "expected " + std::to_string(program.given_inputs()) +
                                      " inputs beside the state, got " + std::to_string(inputs_.size()));
  if (state == nullptr) {
    own_ = session_.state(sizes_of(program, std::vector<TensorType>(inputs_.begin(), inputs_.end())));
    state = own_.get();
  }
  inputs_ = state->begin(inputs_);
  state_ = state;
}

void Session::Call::give_back(Plan* plan) {
  if (state_ != nullptr) state_->end();
  session_.contexts_.give_back(context_, plan);
}

Plan* Session::Call::find_plan() {
  std::vector<std::unique_ptr<Plan>>& plans = context_->plans;
  const auto known = std::find_if(plans.begin(), plans.end(), [&](const auto& plan) { return fits(*plan, inputs_); });
  if (known != plans.end()) return known->get();
  std::vector<TensorType> types;
  for (const Tensor& input : inputs_) types.push_back(input);
  int64_t reserved = 0;
  const auto reserve = [&](int64_t bytes) { session_.contexts_.reserve(*context_, bytes), reserved += bytes; };
  try {
    std::unique_ptr<Plan> plan =
        make_plan(session_.program_, types, session_.threads_, session_.limits_, reserve, watch_);
    session_.contexts_.give(reserved);
    return session_.contexts_.keep(*context_, std::move(plan));
  } catch (...) {
    session_.contexts_.give(reserved);
    throw;
  }
}

Session::Call::~Call() { give_back(plan_); }

void Session::Call::bind(std::span<const Tensor> outputs) {
  const auto& program = session_.program_;
  const std::span<const Tensor> given = inputs_.first(program.given_inputs());
  if (outputs.size() != program.given_outputs()) {
    throw Error(ErrorKind::input, "expected " + std::to_string(program.given_outputs()) + " outputs, got " +
                                      std::to_string(outputs.size()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorType& expected = plan_->outputs[i];
    const std::string& name = program.values[program.outputs[i].value].name;
    if (outputs[i] != expected) {
      throw Error(ErrorKind::input,
                  "output '" + name + "': expected " + to_string(expected) + ", got " + to_string(outputs[i]));
    }
    const auto overlaps = [&](const Tensor& other) { return overlap(outputs[i], other); };
    if (std::any_of(given.begin(), given.end(), overlaps) ||
        std::any_of(outputs.begin(), outputs.begin() + static_cast<ptrdiff_t>(i), overlaps))
      throw Error(ErrorKind::input, "output '" + name + "' shares memory with an input or another output");
  }
  if (state_ != nullptr) outputs = state_->outputs(outputs);
  std::byte* arena = context_->arena.as<std::byte>();
  if (plan_->bound_arena != arena) {
    for (const Plan::Binding& binding : plan_->arena_bindings)
      plan_->tensors[binding.tensor].data = arena + binding.offset;
    plan_->bound_arena = arena;
  }
  for (const Plan::Binding& binding : plan_->call_bindings)
    plan_->tensors[binding.tensor].data =
        (binding.source == Plan::Source::input ? inputs_ : outputs)[binding.index].as<std::byte>() + binding.offset;
}

void Session::Call::step(const Plan::Step& step) {
  run_step(*plan_, step, context_->arena.as<std::byte>(), session_.threads_, plan_->symbols, watch_);
}

void Session::Call::run(std::span<const Tensor> outputs) {
  bind(outputs);
  const DefaultFloatEnvironment environment;
  const Watching none(nullptr, true);  // but in steps that look
  for (const Plan::Step& each : plan_->steps) step(each);
  if (state_ != nullptr) state_->commit();
}

Work Session::Call::work(size_t step) const { return work_of(session_.program_, *plan_, plan_->steps[step]); }

void Session::Call::profile(std::span<const Tensor> outputs, int repeats, std::vector<double>& seconds) {
  bind(outputs);
  const DefaultFloatEnvironment environment;
  const Watching none(nullptr, true);  // but in steps that look
  const size_t steps = plan_->steps.size();
  repeats = std::clamp(repeats, 1, 100000);
  std::vector<std::vector<double>> times(steps);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    watch_.restart();
    auto before = std::chrono::steady_clock::now();
    for (size_t i = 0; i < steps; ++i) {
      step(plan_->steps[i]);
      const auto after = std::chrono::steady_clock::now();
      times[i].push_back(std::chrono::duration<double>(after - before).count());
      before = after;
    }
  }
  seconds.clear();
  for (std::vector<double>& samples : times) {
    std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(samples.size() / 2), samples.end());
    seconds.push_back(samples[samples.size() / 2]);
  }
}

}  // namespace lowbit::graph
