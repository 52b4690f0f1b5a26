#include "graph/placing.h"

#include <algorithm>
#include <array>

#include "graph/joins.h"
#include "graph/layout.h"

namespace lowbit::graph {
namespace {

constexpr bool is_last(Layout layout) { return layout == Layout::channels_last; }
constexpr Layout other(Layout layout) { return is_last(layout) ? Layout::contiguous : Layout::channels_last; }

class Placing {
 public:
  Placing(const Program& program, std::span<const TensorType> types, const Job& job, const std::map<int, Buffer>& kept,
          std::span<const int64_t> symbols, int threads)
      : program_(program),
        types_(types),
        job_(job),
        kept_(kept),
        symbols_(symbols),
        threads_(threads),
        plan_(std::make_unique<Plan>()),
        last_use_(types.size(), -1),
        readers_(types.size()),
        places_(types.size()),
        joins_(program, types, job) {}

  std::unique_ptr<Plan> run() {
    find_readers();
    place_inputs_and_constants();
    for (size_t i = 0; i < job_.nodes.size(); ++i) add_node(i);
    for (size_t i = 0; i < job_.outputs.size(); ++i) add_output(i);
    plan_->arena_bytes = pack(storages_);
    bind();
    return std::move(plan_);
  }

 private:
  // Of a value, by layout. A part is not dense: only operators that say so read it or write it.
  struct Places {
    std::array<Location, std::size(kLayouts)> wholes, parts;
    Location& whole(Layout layout) { return wholes[is_last(layout)]; }
    Location& part(Layout layout) { return parts[is_last(layout)]; }
  };

  struct Operand {
    int value;
    Layout layout;
    Location location;
  };

  // Of a value, in this job.
  struct Readers {
    int count = 0;
    const Program::Node* only = nullptr;  // if there is one
    bool take_any_order = true;
  };

  const Program::Node& node(int index) const { return program_.nodes[job_.nodes[index]]; }
  const TensorType& type(int value) const { return types_[value]; }
  const std::string& name(int value) const { return program_.values[value].name; }

  void find_readers() {
    for (size_t i = 0; i < job_.nodes.size(); ++i) {
      const Program::Node& reader = node(i);
      for (size_t input = 0; input < reader.inputs.size(); ++input) {
        const int value = reader.inputs[input];
        if (value < 0) continue;
        last_use_[value] = i;
        Readers& readers = readers_[value];
        readers.take_any_order &= reader.impl->reads_orders(input);
        readers.only = readers.count++ == 0 ? &reader : nullptr;
      }
    }
    for (int output : job_.outputs) last_use_[output] = INT_MAX, readers_[output] = {.take_any_order = false};
  }

  void place_inputs_and_constants() {
    for (size_t i = 0; i < program_.inputs.size(); ++i)
      place_whole(program_.inputs[i].value, Layout::contiguous, {.kind = Storage::Kind::input, .index = i});
    const auto place_constant = [&](int value, const Buffer& buffer) {
      place_whole(value, Layout::contiguous, {.kind = Storage::Kind::constant, .data = buffer.as<void>()});
    };
    for (size_t value = 0; value < program_.values.size(); ++value)
      if (const auto& buffer = program_.values[value].constant.buffer) place_constant(value, *buffer);
    for (const auto& [value, buffer] : kept_) place_constant(value, buffer);
  }

  int add_storage(Storage storage) {
    storages_.push_back(storage);
    return std::ssize(storages_) - 1;
  }

  // Notes that the value lies there; also for the other layout, where that is the same memory.
  void place(int value, Layout layout, const Location& location) {
    const Shape& shape = type(value).shape;
    for (Layout each : {layout, other(layout)}) {
      if (each != layout && !is_indifferent(shape)) continue;
      if (shape.elements() == 0 || is_dense(shape, location.strides, each)) {
        places_[value].whole(each) = {location.storage, location.offset, strides_of(shape, each)};
      } else if (is_adjacent(shape, location.strides, each)) {
        places_[value].part(each) = location;
      }
    }
    int& needed = storages_[location.storage].needed;
    needed = std::max(needed, last_use_[value]);
  }

  // In a storage of its own.
  Location place_whole(int value, Layout layout, Storage storage = {}) {
    storage.bytes = bytes_of(type(value));
    const Location location{add_storage(storage), 0, strides_of(type(value).shape, layout)};
    place(value, layout, location);
    return location;
  }

  // Where the value lies in that layout already.
  Location find(int value, Layout layout, bool parts) {
    const Location& whole = places_[value].whole(layout);
    return whole.exists() || !parts ? whole : places_[value].part(layout);
  }

  // Where the value lies in that layout, copied if it does not yet.
  Location get(int value, Layout layout, bool parts) {
    const Location there = find(value, layout, parts);
    return there.exists() ? there : copy_whole(value, layout);
  }

  Location copy_whole(int value, Layout layout) {
    const Operand x = any_place(value, layout);
    const Location to = place_whole(value, layout);
    copy(x, {value, layout, to}, "layout", name(value));
    return to;
  }

  // Where the value lies, best in that layout.
  Operand any_place(int value, Layout layout) {
    if (!find(value, layout, true).exists()) layout = other(layout);
    return {value, layout, find(value, layout, true)};
  }

  void copy(const Operand& x, const Operand& y, std::string_view op_name, std::string_view name) {
    emit(*program_.copy, op_name, name, {&x, 1}, {&y, 1});
  }

  // The caller's buffers have nothing readable behind them.
  Location get_with_slack(int value, Layout layout, bool parts) {
    Location location = get(value, layout, parts);
    if (storages_[location.storage].kind == Storage::Kind::input) location = copy_whole(value, layout);
    storages_[location.storage].slack = true;
    return location;
  }

  void emit(const Op& op, std::string_view op_name, std::string_view name, std::span<const Operand> inputs,
            std::span<const Operand> outputs) {
    const int step = plan_->steps.size();
    plan_->steps.push_back({&op, op_name, name, plan_->tensors.size(), inputs.size(), outputs.size()});
    scratch_.push_back(-1);
    for (const auto operands : {inputs, outputs}) {
      for (const Operand& operand : operands) {
        locations_.push_back(operand.location);
        Tensor& tensor = plan_->tensors.emplace_back();
        if (!operand.location.exists()) continue;
        tensor = {type(operand.value), operand.location.strides, nullptr};
        Storage& storage = storages_[operand.location.storage];
        storage.first = std::min(storage.first, step);
        storage.last = std::max(storage.last, step);
      }
    }
  }

  void add_node(int index) {
    const Program::Node& node = this->node(index);
    if (std::all_of(node.outputs.begin(), node.outputs.end(),
                    [&](int value) { return type(value).shape.elements() == 0; })) {
      for (int value : node.outputs) place_whole(value, Layout::contiguous);
      return;
    }
    if (node.impl->is_view()) return add_view(node);
    if (add_part(node) || add_order(node) || add_join(node)) return;
    const Layout same = shared_layout(node);
    std::vector<Operand> inputs, outputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) inputs.push_back(input_operand(node, i, same));
    for (size_t i = 0; i < node.outputs.size(); ++i) outputs.push_back(output_operand(node, i, same, inputs, index));
    emit(*node.impl, node.op, node.name, inputs, outputs);
    plan_->steps.back().layers = node.layers;
    add_scratch(node);
  }

  // For the last step.
  void add_scratch(const Program::Node& node) {
    std::vector<TensorType> inputs, outputs;
    for (int value : node.inputs) inputs.push_back(value < 0 ? TensorType{} : type(value));
    for (int value : node.outputs) outputs.push_back(type(value));
    const int64_t bytes = node.impl->scratch_bytes(inputs, outputs, threads_);
    const int step = std::ssize(plan_->steps) - 1;
    if (bytes > 0) scratch_[step] = add_storage({.bytes = bytes, .first = step, .last = step});
  }

  void add_view(const Program::Node& node) {
    const int from = node.inputs[0], to = node.outputs[0];
    Location location = find(from, Layout::contiguous, true);
    std::optional<Shape> strides;
    if (location.exists() && takes_any_order(to)) strides = viewed(type(from).shape, location.strides, type(to).shape);
    if (!strides || !is_adjacent(type(to).shape, *strides, Layout::contiguous)) {
      location = get(from, Layout::contiguous, false);
      strides = strides_of(type(to).shape, Layout::contiguous);
    }
    location.strides = *strides;
    place(to, Layout::contiguous, location);
  }

  // Whether a part of something else will do for all who read the value, perhaps transposed.
  bool takes_any_order(int value) const {
    const Readers& readers = readers_[value];
    if (readers.take_any_order) return true;
    return readers.only != nullptr && !readers.only->impl->order().empty() &&
           readers_[readers.only->outputs[0]].take_any_order;
  }

  // Takes a slice for a part of what it is cut from, where elements stay neighbours.
  bool add_part(const Program::Node& node) {
    if (node.inputs.empty() || node.inputs[0] < 0) return false;
    const int from = node.inputs[0], to = node.outputs[0];
    const std::optional<Op::Part> part = node.impl->part(type(from).shape, symbols_);
    if (!part) return false;
    bool found = false;
    for (Layout layout : kLayouts) {
      Location location = find(from, layout, true);
      if (!location.exists()) continue;
      int64_t& stride = location.strides[part->axis];
      location.offset += part->start * stride * size_of(type(from).dtype);
      stride *= part->step;
      if (!is_adjacent(type(to).shape, location.strides, layout)) continue;
      place(to, layout, location);
      found = true;
    }
    return found;
  }

  // Takes a transposed value for the same memory in another order, where it comes out dense, or all who read it take it
  // so.
  bool add_order(const Program::Node& node) {
    const std::span<const int64_t> order = node.impl->order();
    if (order.empty()) return false;
    const int from = node.inputs[0], to = node.outputs[0];
    Location location = find(from, Layout::contiguous, true);
    if (!location.exists()) return false;
    const Shape strides = location.strides;
    for (size_t axis = 0; axis < order.size(); ++axis) location.strides[axis] = strides[order[axis]];
    if (!is_dense(type(to).shape, location.strides, Layout::contiguous) &&
        !(is_adjacent(type(to).shape, location.strides, Layout::contiguous) && readers_[to].take_any_order))
      return false;
    place(to, Layout::contiguous, location);
    return true;
  }

  // Of a join some inputs of which lie in their slots, only the others are copied.
  bool add_join(const Program::Node& node) {
    const int joined = node.outputs[0];
    const std::optional<int> axis = node.impl->join_axis(type(joined).shape);
    if (!axis || std::none_of(node.inputs.begin(), node.inputs.end(), [&](int value) {
          return joins_.is_filled(value) && joins_.slot(value).whole == joins_.slot(joined).whole;
        }))
      return false;
    Slot slot = joins_.slot(joined);
    const Layout layout = joins_.whole(slot).layout;
    place(joined, layout, joins_.locate(slot, type(joined)));
    joins_.fill(joined);
    for (int value : node.inputs) {
      const bool own = joins_.slot(value) == slot;
      if (type(value).shape.elements() > 0 && !(own && joins_.is_filled(value)))
        copy(any_place(value, layout), {value, layout, joins_.locate(slot, type(value))}, node.op, node.name);
      if (own) joins_.fill(value);
      slot.position[*axis] += type(value).shape[*axis];
    }
    return true;
  }

  // The layout of the node's `same` operands that has the fewest bytes converted.
  Layout shared_layout(const Program::Node& node) {
    const auto missing = [&](Layout layout) {
      int64_t bytes = 0;
      for (size_t i = 0; i < node.inputs.size(); ++i)
        if (const int value = node.inputs[i]; value >= 0 && node.impl->input_layout(i) == Layout::same &&
                                              has_layouts(type(value).shape) &&
                                              !find(value, layout, node.impl->reads_parts(i)).exists())
          bytes += bytes_of(type(value));
      return bytes;
    };
    return missing(Layout::channels_last) < missing(Layout::contiguous) ? Layout::channels_last : Layout::contiguous;
  }

  Layout resolve(Layout layout, const Shape& shape, Layout same) const {
    if (!has_layouts(shape)) return Layout::contiguous;
    if (layout == Layout::same) return same;
    return is_last(layout) ? layout : Layout::contiguous;
  }

  Operand input_operand(const Program::Node& node, size_t i, Layout same) {
    const int value = node.inputs[i];
    if (value < 0 || is_packed(node, i)) return {value, Layout::contiguous, {}};
    const bool parts = node.impl->reads_parts(i) || node.impl->reads_orders(i);
    Layout layout = resolve(node.impl->input_layout(i), type(value).shape, same);
    if (node.impl->input_layout(i) == Layout::any && has_layouts(type(value).shape) &&
        !find(value, Layout::contiguous, parts).exists())
      layout = Layout::channels_last;
    return {value, layout,
            node.impl->reads_slack(i) ? get_with_slack(value, layout, parts) : get(value, layout, parts)};
  }

  // A constant that the operator took at prepare.
  bool is_packed(const Program::Node& node, size_t i) const {
    return program_.values[node.inputs[i]].is_constant && !node.impl->reads(i);
  }

  Operand output_operand(const Program::Node& node, size_t i, Layout same, const std::vector<Operand>& inputs,
                         int index) {
    const int value = node.outputs[i];
    const Layout layout = resolve(node.impl->output_layout(i), type(value).shape, same);
    Location target;
    if (can_share(node, inputs, value)) target = slot_of(value, layout, node.impl->writes_parts(i));
    if (!target.exists() && node.impl->writes_orders(i)) target = transposed(value);
    if (!target.exists() && i == 0) target = reusable_input(node, layout, inputs, index);
    if (!target.exists()) return {value, layout, place_whole(value, layout)};
    place(value, layout, target);
    return {value, layout, target};
  }

  // Where only a transpose reads the value: the place in which that leaves it dense, and has nothing to do.
  Location transposed(int value) {
    const Program::Node* reader = readers_[value].only;
    if (reader == nullptr || reader->impl->order().empty()) return {};
    const std::span<const int64_t> order = reader->impl->order();
    const int to = reader->outputs[0];
    if (order.back() != std::ssize(order) - 1 || joins_.slot(to).whole >= 0) return {};
    Location location = place_whole(to, Layout::contiguous);
    const Shape strides = location.strides;
    for (size_t axis = 0; axis < order.size(); ++axis) location.strides[order[axis]] = strides[axis];
    return location;
  }

  // Whether the value may lie in its slot: what is read beside an input must not change under the operator.
  bool can_share(const Program::Node& node, const std::vector<Operand>& inputs, int value) {
    const Slot& slot = joins_.slot(value);
    const int taken = slot.whole < 0 ? -1 : joins_.whole(slot).storage;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (taken >= 0 && inputs[i].location.storage == taken && node.impl->reads_slack(i)) return false;
    return true;
  }

  // The value's slot in the join that it belongs to, if it can be written there.
  Location slot_of(int value, Layout layout, bool parts) {
    const Slot& slot = joins_.slot(value);
    if (slot.whole < 0 || slot.whole == value) return {};
    const TensorType& joined = type(slot.whole);
    Joins::Whole& whole = joins_.whole(slot);
    if (whole.storage >= 0 && whole.layout != layout) return {};
    if (!parts && !is_dense(type(value).shape, strides_of(joined.shape, layout), layout)) return {};
    if (whole.storage < 0) whole = {add_storage({.bytes = bytes_of(joined), .needed = last_use_[slot.whole]}), layout};
    joins_.fill(value);
    return joins_.locate(slot, type(value));
  }

  // The memory of the input that output 0 may take.
  Location reusable_input(const Program::Node& node, Layout layout, const std::vector<Operand>& inputs, int index) {
    const int position = node.impl->in_place();
    if (position < 0) return {};
    const Operand& operand = inputs[position];
    if (!operand.location.exists() || operand.layout != layout) return {};
    const TensorType &from = type(operand.value), &to = type(node.outputs[0]);
    const Storage& storage = storages_[operand.location.storage];
    if (from.shape != to.shape || size_of(from.dtype) != size_of(to.dtype)) return {};
    if (!is_dense(from.shape, operand.location.strides, layout)) return {};
    if (storage.kind != Storage::Kind::arena || storage.needed > index) return {};
    for (int i = 0; i < std::ssize(inputs); ++i)
      if (i != position && inputs[i].location.storage == operand.location.storage) return {};
    return operand.location;
  }

  void add_output(size_t i) {
    const int value = job_.outputs[i];
    plan_->outputs.push_back(type(value));
    if (type(value).shape.elements() == 0) return;
    const Location location = get(value, Layout::contiguous, false);
    Storage& storage = storages_[location.storage];
    const int64_t bytes = bytes_of(type(value));
    if (storage.kind == Storage::Kind::arena && !storage.slack && storage.bytes == bytes) {
      storage.kind = Storage::Kind::output;
      storage.index = i;
    } else {
      const int target = add_storage({.kind = Storage::Kind::output, .index = i, .bytes = bytes});
      copy({value, Layout::contiguous, location}, {value, Layout::contiguous, {target, 0, location.strides}}, "layout",
           name(value));
    }
  }

  void bind() {
    for (size_t i = 0; i < locations_.size(); ++i) {
      if (!locations_[i].exists()) continue;
      const Storage& storage = storages_[locations_[i].storage];
      const size_t offset = locations_[i].offset;
      switch (storage.kind) {
        case Storage::Kind::constant:
          plan_->tensors[i].data = static_cast<std::byte*>(storage.data) + offset;
          break;
        case Storage::Kind::arena:
          plan_->arena_bindings.push_back({i, Plan::Source::arena, 0, storage.offset + offset});
          break;
        case Storage::Kind::input:
          plan_->call_bindings.push_back({i, Plan::Source::input, storage.index, offset});
          break;
        case Storage::Kind::output:
          plan_->call_bindings.push_back({i, Plan::Source::output, storage.index, offset});
          break;
      }
    }
    for (size_t step = 0; step < scratch_.size(); ++step)
      if (scratch_[step] >= 0) plan_->steps[step].scratch = storages_[scratch_[step]].offset;
  }

  const Program& program_;
  std::span<const TensorType> types_;
  const Job& job_;
  const std::map<int, Buffer>& kept_;
  std::span<const int64_t> symbols_;
  int threads_;
  std::unique_ptr<Plan> plan_;
  std::vector<int> last_use_;  // by value: node
  std::vector<Readers> readers_;
  std::vector<Places> places_;
  Joins joins_;
  std::vector<Storage> storages_;
  std::vector<Location> locations_;  // of each of the plan's tensors
  std::vector<int> scratch_;         // by step: storage
};

}  // namespace

std::unique_ptr<Plan> place(const Program& program, std::span<const TensorType> types, const Job& job,
                            const std::map<int, Buffer>& kept, std::span<const int64_t> symbols, int threads) {
  return Placing(program, types, job, kept, symbols, threads).run();
}

}  // namespace lowbit::graph
