#include "graph/planner.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

namespace lowbit::graph {
namespace {

size_t bytes_of(const TensorType& type) { return static_cast<size_t>(type.shape.elements()) * size_of(type.dtype); }
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

class Planner {
 public:
  Planner(const Program& program, std::span<const TensorType> inputs, int threads)
      : program_(program), threads_(threads), plan_(std::make_unique<Plan>()) {
    plan_->inputs.assign(inputs.begin(), inputs.end());
    plan_->symbols = bind_symbols(program, inputs);
    types_ = infer_types(program, inputs, plan_->symbols);
    places_.assign(types_.size(), {-1, -1});
    last_use_.assign(types_.size(), -1);
  }

  std::unique_ptr<Plan> run() {
    find_last_uses();
    place_inputs_and_constants();
    for (size_t i = 0; i < program_.nodes.size(); ++i) add_node(static_cast<int>(i));
    for (size_t i = 0; i < program_.outputs.size(); ++i) add_output(i);
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

  const TensorType& type(int value) const { return types_[static_cast<size_t>(value)]; }
  Places& places(int value) { return places_[static_cast<size_t>(value)]; }
  Storage& storage(int index) { return storages_[static_cast<size_t>(index)]; }

  void find_last_uses() {
    for (size_t i = 0; i < program_.nodes.size(); ++i)
      for (int value : program_.nodes[i].inputs)
        if (value >= 0) last_use_[static_cast<size_t>(value)] = static_cast<int>(i);
    for (const Program::Output& output : program_.outputs) last_use_[static_cast<size_t>(output.value)] = INT_MAX;
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
    const Program::Node& node = program_.nodes[static_cast<size_t>(index)];
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
    const int value = program_.outputs[i].value;
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
  int threads_;
  std::unique_ptr<Plan> plan_;
  std::vector<TensorType> types_;
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

std::unique_ptr<Plan> make_plan(const Program& program, std::span<const TensorType> inputs, int threads) {
  return Planner(program, inputs, threads).run();
}

}  // namespace lowbit::graph
