#include "graph/planner.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <map>

#include "base/float_environment.h"
#include "graph/joins.h"

namespace lowbit::graph {
namespace {

size_t aligned(size_t bytes) { return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment; }

// Both layouts are the same memory.
bool is_indifferent(const Shape& shape) {
  return has_layouts(shape) && (shape[1] == 1 || shape.elements() == shape[0] * shape[1] || shape.elements() == 0);
}

// How far apart the elements of an axis lie in a value of that layout; axes of one element lie anywhere.
bool is_dense(const Shape& shape, const Shape& strides, Layout layout) {
  const Shape dense = strides_of(shape, layout);
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (shape[axis] > 1 && strides[axis] != dense[axis]) return false;
  return true;
}

// Whether elements along the innermost axis are neighbours.
bool is_adjacent(const Shape& shape, const Shape& strides, Layout layout) {
  if (shape.rank() == 0) return true;
  const int axis = layout == Layout::channels_last && has_layouts(shape) ? 1 : shape.rank() - 1;
  return shape[axis] <= 1 || strides[axis] == 1;
}

// Memory that one or several values share: a stretch of the arena, a constant, or the caller's.
struct Storage {
  enum class Kind { arena, constant, input, output };
  Kind kind = Kind::arena;
  size_t index = 0;      // input or output
  void* data = nullptr;  // constant
  int64_t bytes = 0;
  int first = INT_MAX, last = -1;  // steps
  int needed = -1;                 // last node that needs any value in it
  bool slack = false;              // some step reads past its end
  size_t offset = 0;
};

class Planner {
 public:
  // `kept`: values that are there already, row-major.
  Planner(const Program& program, std::span<const TensorType> types, const Job& job, const std::map<int, Buffer>& kept,
          std::span<const int64_t> symbols, int threads)
      : program_(program),
        types_(types),
        job_(job),
        kept_(kept),
        symbols_(symbols),
        threads_(threads),
        plan_(std::make_unique<Plan>()),
        last_use_(types.size(), -1),
        places_(types.size()),
        homes_(find_homes(program, types, job)),
        wholes_(types.size()),
        is_home_(types.size(), 0) {}

  std::unique_ptr<Plan> run() {
    find_last_uses();
    place_inputs_and_constants();
    for (size_t i = 0; i < job_.nodes.size(); ++i) add_node(i);
    for (size_t i = 0; i < job_.outputs.size(); ++i) add_output(i);
    pack_arena();
    bind();
    return std::move(plan_);
  }

 private:
  enum { kContiguous, kChannelsLast };

  struct Spot {
    int storage = -1;
    int64_t offset = 0;  // bytes
    Shape strides;
    bool exists() const { return storage >= 0; }
  };

  // By layout. A part is not dense: only operators that say so read it or write it.
  struct Places {
    Spot whole[2], part[2];
  };

  struct Operand {
    int value;
    int layout;
    Spot spot;
  };

  // The memory of a join, once some value was written into it.
  struct Whole {
    int storage = -1;
    int layout = kContiguous;
  };

  const Program::Node& node(int index) const { return program_.nodes[job_.nodes[index]]; }
  const TensorType& type(int value) const { return types_[value]; }
  const std::string& name(int value) const { return program_.values[value].name; }
  Places& places(int value) { return places_[value]; }
  Storage& storage(int index) { return storages_[index]; }
  static Layout layout_of(int layout) { return layout == kChannelsLast ? Layout::channels_last : Layout::contiguous; }

  void find_last_uses() {
    for (size_t i = 0; i < job_.nodes.size(); ++i)
      for (int value : node(i).inputs)
        if (value >= 0) last_use_[value] = i;
    for (int output : job_.outputs) last_use_[output] = INT_MAX;
  }

  void place_inputs_and_constants() {
    for (size_t i = 0; i < program_.inputs.size(); ++i) {
      const int value = program_.inputs[i].value;
      place_whole(value, kContiguous,
                  add_storage({.kind = Storage::Kind::input, .index = i, .bytes = bytes_of(type(value))}));
    }
    for (size_t value = 0; value < program_.values.size(); ++value) {
      const Constant& constant = program_.values[value].constant;
      if (constant.buffer == nullptr) continue;
      place_whole(value, kContiguous,
                  add_storage({.kind = Storage::Kind::constant,
                               .data = constant.buffer->as<void>(),
                               .bytes = bytes_of(constant.type)}));
    }
    for (const auto& [value, buffer] : kept_)
      place_whole(
          value, kContiguous,
          add_storage({.kind = Storage::Kind::constant, .data = buffer.as<void>(), .bytes = bytes_of(type(value))}));
  }

  int add_storage(Storage storage) {
    storages_.push_back(storage);
    return std::ssize(storages_) - 1;
  }

  // Notes that the value lies there; also for the other layout, where that is the same memory.
  void place(int value, int layout, const Spot& spot) {
    const Shape& shape = type(value).shape;
    for (int each : {layout, 1 - layout}) {
      if (each != layout && !is_indifferent(shape)) continue;
      if (shape.elements() == 0 || is_dense(shape, spot.strides, layout_of(each))) {
        places(value).whole[each] = {spot.storage, spot.offset, strides_of(shape, layout_of(each))};
      } else if (is_adjacent(shape, spot.strides, layout_of(each))) {
        places(value).part[each] = spot;
      }
    }
    Storage& s = storage(spot.storage);
    s.needed = std::max(s.needed, last_use_[value]);
  }

  Spot place_whole(int value, int layout, int storage) {
    const Spot spot{storage, 0, strides_of(type(value).shape, layout_of(layout))};
    place(value, layout, spot);
    return spot;
  }

  // Where the value lies in that layout already.
  Spot find(int value, int layout, bool parts) {
    const Places& at = places(value);
    return at.whole[layout].exists() || !parts ? at.whole[layout] : at.part[layout];
  }

  // Where the value lies in that layout, copied if it does not yet.
  Spot get(int value, int layout, bool parts) {
    const Spot there = find(value, layout, parts);
    return there.exists() ? there : copy_whole(value, layout);
  }

  Spot copy_whole(int value, int layout) {
    const Operand x = any_place(value, layout);
    const Spot to = place_whole(value, layout, add_storage({.bytes = bytes_of(type(value))}));
    copy(x, {value, layout, to}, "layout", name(value));
    return to;
  }

  // Where the value lies, best in that layout.
  Operand any_place(int value, int layout) {
    const Spot spot = find(value, layout, true);
    return spot.exists() ? Operand{value, layout, spot} : Operand{value, 1 - layout, find(value, 1 - layout, true)};
  }

  void copy(const Operand& x, const Operand& y, std::string_view op_name, std::string_view name) {
    emit(*program_.copy, op_name, name, {&x, 1}, {&y, 1});
  }

  // The caller's buffers have nothing readable behind them.
  Spot get_with_slack(int value, int layout, bool parts) {
    Spot spot = get(value, layout, parts);
    if (storage(spot.storage).kind == Storage::Kind::input) spot = copy_whole(value, layout);
    storage(spot.storage).slack = true;
    return spot;
  }

  size_t emit(const Op& op, std::string_view op_name, std::string_view name, std::span<const Operand> inputs,
              std::span<const Operand> outputs) {
    const int step = plan_->steps.size();
    plan_->steps.push_back({&op, op_name, name, plan_->tensors.size(), inputs.size(), outputs.size()});
    for (const auto operands : {inputs, outputs}) {
      for (const Operand& operand : operands) {
        spots_.push_back({operand.spot.storage, operand.spot.offset});
        if (!operand.spot.exists()) {
          plan_->tensors.emplace_back();
          continue;
        }
        const TensorType& t = type(operand.value);
        plan_->tensors.push_back({t, operand.spot.strides, nullptr});
        Storage& s = storage(operand.spot.storage);
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
      for (int value : node.outputs) place_whole(value, kContiguous, add_storage({.bytes = 0}));
      return;
    }
    if (node.impl->is_view()) return add_view(node);
    if (add_part(node) || add_join(node)) return;
    const Op& op = *node.impl;
    const int same = shared_layout(node);
    std::vector<Operand> inputs, outputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) inputs.push_back(input_operand(node, i, same));
    for (size_t i = 0; i < node.outputs.size(); ++i) outputs.push_back(output_operand(node, i, same, inputs, index));
    const size_t step = emit(op, node.op, node.name, inputs, outputs);

    std::vector<TensorType> in, out;
    for (int value : node.inputs) in.push_back(value < 0 ? TensorType{} : type(value));
    for (int value : node.outputs) out.push_back(type(value));
    const int64_t scratch = op.scratch_bytes(in, out, threads_);
    const int at = step;
    scratch_.push_back(scratch == 0 ? -1 : add_storage({.bytes = scratch, .first = at, .last = at}));
    scratch_steps_.push_back(step);
  }

  void add_view(const Program::Node& node) {
    const int from = node.inputs[0], to = node.outputs[0];
    const Spot spot = get(from, kContiguous, false);
    place(to, kContiguous, {spot.storage, spot.offset, strides_of(type(to).shape, Layout::contiguous)});
  }

  // Takes a slice for a part of what it is cut from, where elements stay neighbours.
  bool add_part(const Program::Node& node) {
    if (node.inputs.empty() || node.inputs[0] < 0) return false;
    const int from = node.inputs[0], to = node.outputs[0];
    const std::optional<Op::Part> part = node.impl->part(type(from).shape, symbols_);
    if (!part) return false;
    bool found = false;
    for (int layout : {kContiguous, kChannelsLast}) {
      Spot spot = find(from, layout, true);
      if (!spot.exists()) continue;
      int64_t& stride = spot.strides[part->axis];
      spot.offset += part->start * stride * size_of(type(from).dtype);
      stride *= part->step;
      if (!is_adjacent(type(to).shape, spot.strides, layout_of(layout))) continue;
      place(to, layout, spot);
      found = true;
    }
    return found;
  }

  // Of a join some inputs of which lie where they belong, only the others are copied.
  bool add_join(const Program::Node& node) {
    const int joined = node.outputs[0];
    const std::optional<int> axis = node.impl->join_axis(type(joined).shape);
    if (!axis) return false;
    const Home& home = homes_[joined];
    if (std::none_of(node.inputs.begin(), node.inputs.end(),
                     [&](int value) { return is_home_[value] && homes_[value].whole == home.whole; }))
      return false;
    const int layout = wholes_[home.whole].layout;
    Home place = home;
    for (int value : node.inputs) {
      const Home& own = homes_[value];
      const bool belongs = own.whole == place.whole && own.position == place.position;
      if (type(value).shape.elements() > 0 && !(belongs && is_home_[value]))
        copy(any_place(value, layout), {value, layout, spot_at(place, type(value))}, node.op, node.name);
      if (belongs) is_home_[value] = 1;
      place.position[*axis] += type(value).shape[*axis];
    }
    this->place(joined, layout, spot_at(home, type(joined)));
    is_home_[joined] = 1;
    return true;
  }

  // What lies at that position in a whole that has its memory.
  Spot spot_at(const Home& home, const TensorType& type) {
    const Whole& whole = wholes_[home.whole];
    Spot spot{whole.storage, 0, strides_of(this->type(home.whole).shape, layout_of(whole.layout))};
    for (int axis = 0; axis < type.shape.rank(); ++axis)
      spot.offset += home.position[axis] * spot.strides[axis] * size_of(type.dtype);
    return spot;
  }

  // The layout of the node's `same` operands that has the fewest bytes converted.
  int shared_layout(const Program::Node& node) {
    size_t missing[2] = {0, 0};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const int value = node.inputs[i];
      if (value < 0 || node.impl->input_layout(i) != Layout::same || !has_layouts(type(value).shape)) continue;
      for (int layout : {kContiguous, kChannelsLast})
        if (!find(value, layout, node.impl->reads_parts(i)).exists()) missing[layout] += bytes_of(type(value));
    }
    return missing[kChannelsLast] < missing[kContiguous] ? kChannelsLast : kContiguous;
  }

  int resolve(Layout layout, const Shape& shape, int same) const {
    if (!has_layouts(shape)) return kContiguous;
    return layout == Layout::channels_last ? kChannelsLast : layout == Layout::same ? same : kContiguous;
  }

  Operand input_operand(const Program::Node& node, size_t i, int same) {
    const int value = node.inputs[i];
    if (value < 0 || is_packed(node, i)) return {value, kContiguous, {}};
    const Layout wish = node.impl->input_layout(i);
    const bool parts = node.impl->reads_parts(i);
    int layout = resolve(wish, type(value).shape, same);
    if (wish == Layout::any && !find(value, kContiguous, parts).exists() && has_layouts(type(value).shape))
      layout = kChannelsLast;
    return {value, layout,
            node.impl->reads_slack(i) ? get_with_slack(value, layout, parts) : get(value, layout, parts)};
  }

  // A constant that the operator took at prepare.
  bool is_packed(const Program::Node& node, size_t i) const {
    return program_.values[node.inputs[i]].is_constant && !node.impl->reads(i);
  }

  Operand output_operand(const Program::Node& node, size_t i, int same, const std::vector<Operand>& inputs, int index) {
    const int value = node.outputs[i];
    const int layout = resolve(node.impl->output_layout(i), type(value).shape, same);
    Spot target = can_share(node, inputs, value) ? home_of(value, layout, node.impl->writes_parts(i)) : Spot{};
    if (!target.exists() && i == 0) target = reusable_input(node, layout, inputs, index);
    if (!target.exists())
      return {value, layout, place_whole(value, layout, add_storage({.bytes = bytes_of(type(value))}))};
    place(value, layout, target);
    return {value, layout, target};
  }

  // Whether the value may go home: what is read beside an input must not change under the operator.
  bool can_share(const Program::Node& node, const std::vector<Operand>& inputs, int value) const {
    const int whole = homes_[value].whole;
    const int taken = whole < 0 ? -1 : wholes_[whole].storage;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (taken >= 0 && inputs[i].spot.storage == taken && node.impl->reads_slack(i)) return false;
    return true;
  }

  // The value's place in the join that it belongs to, if it can be written there.
  Spot home_of(int value, int layout, bool parts) {
    const Home& home = homes_[value];
    if (home.whole < 0 || home.whole == value) return {};
    const TensorType& type = this->type(home.whole);
    Whole& whole = wholes_[home.whole];
    if (whole.storage >= 0 && whole.layout != layout) return {};
    if (!parts && !is_dense(this->type(value).shape, strides_of(type.shape, layout_of(layout)), layout_of(layout)))
      return {};
    if (whole.storage < 0) whole = {add_storage({.bytes = bytes_of(type), .needed = last_use_[home.whole]}), layout};
    is_home_[value] = 1;
    return spot_at(home, this->type(value));
  }

  // The memory of the input that output 0 may take.
  Spot reusable_input(const Program::Node& node, int layout, const std::vector<Operand>& inputs, int index) {
    const int position = node.impl->in_place();
    if (position < 0) return {};
    const Operand& operand = inputs[position];
    if (!operand.spot.exists() || operand.layout != layout) return {};
    const TensorType &from = type(operand.value), &to = type(node.outputs[0]);
    const Storage& s = storage(operand.spot.storage);
    if (!(from.shape == to.shape) || size_of(from.dtype) != size_of(to.dtype)) return {};
    if (!is_dense(from.shape, operand.spot.strides, layout_of(layout))) return {};
    if (s.kind != Storage::Kind::arena || s.needed > index) return {};
    for (int i = 0; i < std::ssize(inputs); ++i)
      if (i != position && inputs[i].spot.storage == operand.spot.storage) return {};
    return operand.spot;
  }

  void add_output(size_t i) {
    const int value = job_.outputs[i];
    plan_->outputs.push_back(type(value));
    if (type(value).shape.elements() == 0) return;
    const Spot spot = get(value, kContiguous, false);
    Storage& s = storage(spot.storage);
    if (s.kind == Storage::Kind::arena && !s.slack && s.bytes == bytes_of(type(value))) {
      s.kind = Storage::Kind::output;
      s.index = i;
    } else {
      const int target = add_storage({.kind = Storage::Kind::output, .index = i, .bytes = bytes_of(type(value))});
      copy({value, kContiguous, spot}, {value, kContiguous, {target, 0, spot.strides}}, "layout", name(value));
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
    const size_t memory = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (plan_->arena_bytes > memory) {
      throw Error(ErrorKind::input, "a run at these sizes needs " + std::to_string(plan_->arena_bytes >> 20) +
                                        " MiB of working memory; this machine has " + std::to_string(memory >> 20));
    }
  }

  void bind() {
    for (size_t i = 0; i < spots_.size(); ++i) {
      if (spots_[i].storage < 0) continue;
      const Storage& s = storage(spots_[i].storage);
      const size_t offset = spots_[i].offset;
      switch (s.kind) {
        case Storage::Kind::constant:
          plan_->tensors[i].data = static_cast<std::byte*>(s.data) + offset;
          break;
        case Storage::Kind::arena:
          plan_->arena_bindings.push_back({i, Plan::Source::arena, 0, s.offset + offset});
          break;
        case Storage::Kind::input:
          plan_->call_bindings.push_back({i, Plan::Source::input, s.index, offset});
          break;
        case Storage::Kind::output:
          plan_->call_bindings.push_back({i, Plan::Source::output, s.index, offset});
          break;
      }
    }
    for (size_t i = 0; i < scratch_.size(); ++i)
      if (scratch_[i] >= 0) plan_->steps[scratch_steps_[i]].scratch = storage(scratch_[i]).offset;
  }

  struct Bound {
    int storage;
    int64_t offset;
  };

  const Program& program_;
  std::span<const TensorType> types_;
  const Job& job_;
  const std::map<int, Buffer>& kept_;
  std::span<const int64_t> symbols_;
  int threads_;
  std::unique_ptr<Plan> plan_;
  std::vector<int> last_use_;  // by value: node
  std::vector<Places> places_;
  std::vector<Home> homes_;
  std::vector<Whole> wholes_;  // by joined value
  std::vector<char> is_home_;  // values that lie in their homes
  std::vector<Storage> storages_;
  std::vector<Bound> spots_;  // of each of the plan's tensors
  std::vector<int> scratch_;  // storages
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

// The values that the job makes, computed now.
std::map<int, Buffer> compute(const Program& program, std::span<const TensorType> types, const Job& job, int threads,
                              std::span<const int64_t> symbols) {
  std::map<int, Buffer> values;
  if (job.outputs.empty()) return values;
  const std::unique_ptr<Plan> plan = Planner(program, types, job, {}, symbols, threads).run();
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
  std::unique_ptr<Plan> plan = Planner(program, types, jobs.always, kept, symbols, threads).run();
  plan->inputs.assign(inputs.begin(), inputs.end());
  plan->symbols = symbols;
  for (auto& [value, buffer] : kept) {
    plan->kept_bytes += buffer.bytes();
    plan->kept.push_back(std::move(buffer));
  }
  return plan;
}

}  // namespace lowbit::graph
