#include "graph/planner.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <map>

#include "base/float_environment.h"

namespace lowbit::graph {
namespace {

size_t bytes_of(const TensorType& type) { return static_cast<size_t>(type.shape.elements()) * size_of(type.dtype); }
constexpr size_t kMaxKeptBytes = size_t{1} << 26;  // of what depends on no input; what goes beyond is computed anew

size_t aligned(size_t bytes) { return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment; }

// Both layouts are the same memory.
bool is_indifferent(const Shape& shape) {
  return has_layouts(shape) && (shape[1] == 1 || shape.elements() == shape[0] * shape[1] || shape.elements() == 0);
}

// Memory that one or several values share: a stretch of the arena, a constant, or the caller's.
struct Storage {
  enum class Kind { arena, constant, input, output };
  Kind kind = Kind::arena;
  size_t index = 0;      // input or output
  void* data = nullptr;  // constant
  size_t bytes = 0;
  int first = INT_MAX, last = -1;  // steps
  int needed = -1;                 // last node that needs any value in it
  bool slack = false;              // some step reads past its end
  size_t offset = 0;
};

// Which nodes a plan runs, for which values.
struct Job {
  std::vector<int> nodes;
  std::vector<int> outputs;
};

class Planner {
 public:
  // `kept`: values that are there already, row-major.
  Planner(const Program& program, std::span<const TensorType> types, const Job& job, const std::map<int, Buffer>& kept,
          int threads)
      : program_(program), types_(types), job_(job), kept_(kept), threads_(threads), plan_(std::make_unique<Plan>()) {
    places_.assign(types_.size(), {-1, -1});
    last_use_.assign(types_.size(), -1);
  }

  std::unique_ptr<Plan> run() {
    find_last_uses();
    place_inputs_and_constants();
    for (size_t i = 0; i < job_.nodes.size(); ++i) add_node(static_cast<int>(i));
    for (size_t i = 0; i < job_.outputs.size(); ++i) add_output(i);
    pack_arena();
    bind();
    return std::move(plan_);
  }

 private:
  enum { kContiguous, kChannelsLast };
  using Places = std::array<int, 2>;  // storage by layout; -1: not there in that layout

  struct Operand {
    int value;
    int layout;
    int storage;
  };

  const Program::Node& node(int index) const {
    return program_.nodes[static_cast<size_t>(job_.nodes[static_cast<size_t>(index)])];
  }
  const TensorType& type(int value) const { return types_[static_cast<size_t>(value)]; }
  Places& places(int value) { return places_[static_cast<size_t>(value)]; }
  Storage& storage(int index) { return storages_[static_cast<size_t>(index)]; }

  void find_last_uses() {
    for (size_t i = 0; i < job_.nodes.size(); ++i)
      for (int value : node(static_cast<int>(i)).inputs)
        if (value >= 0) last_use_[static_cast<size_t>(value)] = static_cast<int>(i);
    for (int output : job_.outputs) last_use_[static_cast<size_t>(output)] = INT_MAX;
  }

  void place_inputs_and_constants() {
    for (size_t i = 0; i < program_.inputs.size(); ++i) {
      const int value = program_.inputs[i].value;
      place(value, kContiguous,
            add_storage({.kind = Storage::Kind::input, .index = i, .bytes = bytes_of(type(value))}));
    }
    for (size_t value = 0; value < program_.values.size(); ++value) {
      const Constant& constant = program_.values[value].constant;
      if (constant.buffer == nullptr) continue;
      place(static_cast<int>(value), kContiguous,
            add_storage({.kind = Storage::Kind::constant,
                         .data = constant.buffer->as<void>(),
                         .bytes = bytes_of(constant.type)}));
    }
    for (const auto& [value, buffer] : kept_)
      place(value, kContiguous,
            add_storage({.kind = Storage::Kind::constant, .data = buffer.as<void>(), .bytes = bytes_of(type(value))}));
  }

  int add_storage(Storage storage) {
    storages_.push_back(storage);
    return static_cast<int>(storages_.size()) - 1;
  }

  void place(int value, int layout, int index) {
    places(value)[static_cast<size_t>(layout)] = index;
    if (is_indifferent(type(value).shape)) places(value)[static_cast<size_t>(1 - layout)] = index;
    storage(index).needed = std::max(storage(index).needed, last_use_[static_cast<size_t>(value)]);
  }

  // Where the value lies in that layout, converted if it does not yet.
  int get(int value, int layout) {
    const int there = places(value)[static_cast<size_t>(layout)];
    return there >= 0 ? there : copy(value, 1 - layout, layout, add_storage({.bytes = bytes_of(type(value))}));
  }

  int copy(int value, int from, int to, int target) {
    const Operand x{value, from, places(value)[static_cast<size_t>(from)]}, y{value, to, target};
    place(value, to, target);
    emit(*program_.copy, "layout", program_.values[static_cast<size_t>(value)].name, {&x, 1}, {&y, 1});
    return target;
  }

  // The caller's buffers have nothing readable behind them.
  int get_with_slack(int value, int layout) {
    int index = get(value, layout);
    if (storage(index).kind == Storage::Kind::input)
      index = copy(value, layout, layout, add_storage({.bytes = bytes_of(type(value))}));
    storage(index).slack = true;
    return index;
  }

  size_t emit(const Op& op, std::string_view op_name, std::string_view name, std::span<const Operand> inputs,
              std::span<const Operand> outputs) {
    const int step = static_cast<int>(plan_->steps.size());
    plan_->steps.push_back({&op, op_name, name, plan_->tensors.size(), inputs.size(), outputs.size()});
    for (const auto operands : {inputs, outputs}) {
      for (const Operand& operand : operands) {
        operands_.push_back(operand.storage);
        if (operand.storage < 0) {
          plan_->tensors.emplace_back();
          continue;
        }
        const TensorType& t = type(operand.value);
        const Layout layout = operand.layout == kChannelsLast ? Layout::channels_last : Layout::contiguous;
        plan_->tensors.push_back({t.dtype, t.shape, strides_of(t.shape, layout), nullptr});
        Storage& s = storage(operand.storage);
        s.first = std::min(s.first, step);
        s.last = std::max(s.last, step);
      }
    }
    return plan_->steps.size() - 1;
  }

  void add_node(int index) {
    const Program::Node& node = this->node(index);
    if (std::all_of(node.outputs.begin(), node.outputs.end(),
                    [&](int value) { return type(value).shape.elements() == 0; })) {
      for (int value : node.outputs) place(value, kContiguous, add_storage({.bytes = 0}));
      return;
    }
    if (node.impl->is_view()) return add_view(node);
    const Op& op = *node.impl;
    const int same = shared_layout(node);
    std::vector<Operand> inputs, outputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) inputs.push_back(input_operand(node, i, same));
    for (size_t i = 0; i < node.outputs.size(); ++i) outputs.push_back(output_operand(node, i, same, inputs, index));
    const size_t step = emit(op, node.op, node.name, inputs, outputs);

    std::vector<TensorType> in, out;
    for (int value : node.inputs) in.push_back(value < 0 ? TensorType{} : type(value));
    for (int value : node.outputs) out.push_back(type(value));
    const size_t scratch = op.scratch_bytes(in, out, threads_);
    const int at = static_cast<int>(step);
    scratch_.push_back(scratch == 0 ? -1 : add_storage({.bytes = scratch, .first = at, .last = at}));
    scratch_steps_.push_back(step);
  }

  void add_view(const Program::Node& node) {
    const int from = node.inputs[0], to = node.outputs[0];
    place(to, kContiguous, get(from, kContiguous));
  }

  // The layout of the node's `same` operands that has the fewest bytes converted.
  int shared_layout(const Program::Node& node) {
    size_t missing[2] = {0, 0};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const int value = node.inputs[i];
      if (value < 0 || node.impl->input_layout(i) != Layout::same || !has_layouts(type(value).shape)) continue;
      for (size_t layout : {kContiguous, kChannelsLast})
        if (places(value)[layout] < 0) missing[layout] += bytes_of(type(value));
    }
    return missing[kChannelsLast] < missing[kContiguous] ? kChannelsLast : kContiguous;
  }

  int resolve(Layout layout, const Shape& shape, int same) const {
    if (!has_layouts(shape)) return kContiguous;
    return layout == Layout::channels_last ? kChannelsLast : layout == Layout::same ? same : kContiguous;
  }

  Operand input_operand(const Program::Node& node, size_t i, int same) {
    const int value = node.inputs[i];
    if (value < 0 || is_packed(node, i)) return {value, kContiguous, -1};
    const Layout wish = node.impl->input_layout(i);
    int layout = resolve(wish, type(value).shape, same);
    if (wish == Layout::any && places(value)[kContiguous] < 0) layout = kChannelsLast;
    return {value, layout, node.impl->reads_slack(i) ? get_with_slack(value, layout) : get(value, layout)};
  }

  // A constant that the operator took at prepare.
  bool is_packed(const Program::Node& node, size_t i) const {
    return program_.values[static_cast<size_t>(node.inputs[i])].is_constant && !node.impl->reads(i);
  }

  Operand output_operand(const Program::Node& node, size_t i, int same, const std::vector<Operand>& inputs, int index) {
    const int value = node.outputs[i];
    const int layout = resolve(node.impl->output_layout(i), type(value).shape, same);
    int target = i == 0 ? reusable_input(node, layout, inputs, index) : -1;
    if (target < 0) target = add_storage({.bytes = bytes_of(type(value))});
    place(value, layout, target);
    return {value, layout, target};
  }

  // The storage of the input whose memory output 0 may take, or -1.
  int reusable_input(const Program::Node& node, int layout, const std::vector<Operand>& inputs, int index) {
    const int position = node.impl->in_place();
    if (position < 0) return -1;
    const Operand& operand = inputs[static_cast<size_t>(position)];
    if (operand.storage < 0 || operand.layout != layout) return -1;
    const TensorType &from = type(operand.value), &to = type(node.outputs[0]);
    const Storage& s = storage(operand.storage);
    if (!(from.shape == to.shape) || size_of(from.dtype) != size_of(to.dtype)) return -1;
    if (s.kind != Storage::Kind::arena || s.needed > index) return -1;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (i != static_cast<size_t>(position) && inputs[i].storage == operand.storage) return -1;
    return operand.storage;
  }

  void add_output(size_t i) {
    const int value = job_.outputs[i];
    plan_->outputs.push_back(type(value));
    if (type(value).shape.elements() == 0) return;
    const int index = get(value, kContiguous);
    Storage& s = storage(index);
    if (s.kind == Storage::Kind::arena && !s.slack) {
      s.kind = Storage::Kind::output;
      s.index = i;
    } else {
      const int target = add_storage({.kind = Storage::Kind::output, .index = i, .bytes = bytes_of(type(value))});
      const Operand x{value, kContiguous, index}, y{value, kContiguous, target};
      emit(*program_.copy, "layout", program_.values[static_cast<size_t>(value)].name, {&x, 1}, {&y, 1});
    }
  }

  // Greedy by size: each storage goes into the tightest gap between those that live at the same time.
  void pack_arena() {
    std::vector<Storage*> order, placed;
    for (Storage& s : storages_)
      if (s.kind == Storage::Kind::arena && s.last >= 0) order.push_back(&s);
    std::stable_sort(order.begin(), order.end(),
                     [](const Storage* a, const Storage* b) { return a->bytes > b->bytes; });
    for (Storage* s : order) {
      const size_t size = aligned(s->bytes + Buffer::kSlack);
      size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
      for (const Storage* other : placed) {  // ascending offsets
        if (other->last < s->first || other->first > s->last) continue;
        if (other->offset >= end + size && other->offset - end < best_gap) best = end, best_gap = other->offset - end;
        end = std::max(end, other->offset + aligned(other->bytes + Buffer::kSlack));
      }
      s->offset = best != SIZE_MAX ? best : end;
      plan_->arena_bytes = std::max(plan_->arena_bytes, s->offset + size);
      placed.insert(std::upper_bound(placed.begin(), placed.end(), s,
                                     [](const Storage* a, const Storage* b) { return a->offset < b->offset; }),
                    s);
    }
    const auto memory = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (plan_->arena_bytes > memory) {
      throw Error(ErrorKind::input, "a run at these sizes needs " + std::to_string(plan_->arena_bytes >> 20) +
                                        " MiB of working memory; this machine has " + std::to_string(memory >> 20));
    }
  }

  void bind() {
    for (size_t i = 0; i < operands_.size(); ++i) {
      if (operands_[i] < 0) continue;
      const Storage& s = storage(operands_[i]);
      switch (s.kind) {
        case Storage::Kind::constant:
          plan_->tensors[i].data = s.data;
          break;
        case Storage::Kind::arena:
          plan_->arena_bindings.push_back({i, Plan::Source::arena, s.offset});
          break;
        case Storage::Kind::input:
          plan_->call_bindings.push_back({i, Plan::Source::input, s.index});
          break;
        case Storage::Kind::output:
          plan_->call_bindings.push_back({i, Plan::Source::output, s.index});
          break;
      }
    }
    for (size_t i = 0; i < scratch_.size(); ++i)
      if (scratch_[i] >= 0) plan_->steps[scratch_steps_[i]].scratch = storage(scratch_[i]).offset;
  }

  const Program& program_;
  std::span<const TensorType> types_;
  const Job& job_;
  const std::map<int, Buffer>& kept_;
  int threads_;
  std::unique_ptr<Plan> plan_;
  std::vector<int> last_use_;  // by value: node
  std::vector<Places> places_;
  std::vector<Storage> storages_;
  std::vector<int> operands_;  // storage of each of the plan's tensors
  std::vector<int> scratch_;   // storages
  std::vector<size_t> scratch_steps_;
};

}  // namespace

Shape strides_of(const Shape& shape, Layout layout) {
  Shape strides = shape;
  int64_t stride = 1;
  const auto set = [&](int axis) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(shape[axis], 1);
  };
  if (layout == Layout::channels_last && has_layouts(shape)) {
    set(1);
    for (int axis = shape.rank(); axis-- > 2;) set(axis);
    set(0);
  } else {
    for (int axis = shape.rank(); axis-- > 0;) set(axis);
  }
  return strides;
}

namespace {

// Two jobs: what depends on no input, once now; the rest, in every call. Views of what is known cost nothing and stay
// in the second.
struct Jobs {
  Job once, always;
};

Jobs divide(const Program& program, std::span<const TensorType> types) {
  const size_t count = program.nodes.size();
  std::vector<char> known(types.size(), 0), wanted(types.size(), 0), kept(types.size(), 0), needed(types.size(), 0);
  std::vector<char> is_known(count, 0), runs_always(count, 0), runs_once(count, 0);
  for (size_t value = 0; value < types.size(); ++value) known[value] = program.values[value].is_constant;
  size_t bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const Program::Node& node = program.nodes[i];
    size_t made = 0;
    for (int value : node.outputs) made += bytes_of(types[static_cast<size_t>(value)]);
    is_known[i] = bytes + made <= kMaxKeptBytes && std::all_of(node.inputs.begin(), node.inputs.end(), [&](int value) {
                    return value < 0 || known[static_cast<size_t>(value)];
                  });
    if (is_known[i]) bytes += made;
    for (int value : node.outputs) known[static_cast<size_t>(value)] = is_known[i];
  }
  const auto any = [](const std::vector<int>& values, const std::vector<char>& flags) {
    return std::any_of(values.begin(), values.end(), [&](int value) { return flags[static_cast<size_t>(value)]; });
  };
  const auto mark = [](const std::vector<int>& values, std::vector<char>& flags) {
    for (int value : values)
      if (value >= 0) flags[static_cast<size_t>(value)] = 1;
  };
  Jobs jobs;
  for (const Program::Output& output : program.outputs) {
    jobs.always.outputs.push_back(output.value);
    wanted[static_cast<size_t>(output.value)] = 1;
  }
  for (size_t i = count; i-- > 0;) {
    const Program::Node& node = program.nodes[i];
    if (is_known[i] && !any(node.outputs, wanted)) continue;
    runs_always[i] = !is_known[i] || node.impl->is_view();
    if (runs_always[i])
      mark(node.inputs, wanted);
    else
      for (int value : node.outputs) kept[static_cast<size_t>(value)] = wanted[static_cast<size_t>(value)];
  }
  needed = kept;
  for (size_t i = count; i-- > 0;) {
    runs_once[i] = is_known[i] && any(program.nodes[i].outputs, needed);
    if (runs_once[i]) mark(program.nodes[i].inputs, needed);
  }
  for (size_t i = 0; i < count; ++i) {
    if (runs_once[i]) jobs.once.nodes.push_back(static_cast<int>(i));
    if (runs_always[i]) jobs.always.nodes.push_back(static_cast<int>(i));
  }
  for (size_t value = 0; value < types.size(); ++value)
    if (kept[value]) jobs.once.outputs.push_back(static_cast<int>(value));
  return jobs;
}

// The values that the job makes, computed now.
std::map<int, Buffer> compute(const Program& program, std::span<const TensorType> types, const Job& job, int threads,
                              std::span<const int64_t> symbols) {
  std::map<int, Buffer> values;
  if (job.outputs.empty()) return values;
  const std::unique_ptr<Plan> plan = Planner(program, types, job, {}, threads).run();
  const Buffer arena(plan->arena_bytes);
  for (const Plan::Binding& binding : plan->arena_bindings)
    plan->tensors[binding.tensor].data = arena.as<std::byte>() + binding.index;
  for (int value : job.outputs) values.emplace(value, Buffer(bytes_of(types[static_cast<size_t>(value)])));
  for (const Plan::Binding& binding : plan->call_bindings)
    plan->tensors[binding.tensor].data = values.at(job.outputs[binding.index]).as<void>();
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
  std::unique_ptr<Plan> plan = Planner(program, types, jobs.always, kept, threads).run();
  plan->inputs.assign(inputs.begin(), inputs.end());
  plan->symbols = symbols;
  for (auto& [value, buffer] : kept) {
    plan->kept_bytes += buffer.bytes();
    plan->kept.push_back(std::move(buffer));
  }
  return plan;
}

}  // namespace lowbit::graph
