#include "graph/state.h"

#include <algorithm>
#include <cstring>

#include "base/read_once.h"
#include "graph/layout.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kStretch = 256;  // positions that are booked together

TensorType type_of(const Program& program, const Program::Input& input, std::span<const int64_t> sizes) {
  TensorType type{input.dtype, {}};
  for (const Dim& dim : input.shape) {
    for (size_t i = 0; i < dim.rpn.size(); i += 2)
      if (static_cast<DimOp>(dim.rpn[i]) == DimOp::symbol && sizes[dim.rpn[i + 1]] < 0)
        throw Error(ErrorKind::input, "the size of '" + program.symbols[dim.rpn[i + 1]].name +
                                          "' must be given, since state '" + program.values[input.value].name +
                                          "' has it");
    type.shape.push_back(evaluate(dim, sizes));
  }
  if (checked_elements(type) < 0)
    throw Error(ErrorKind::input, "state '" + program.values[input.value].name + "' would be " + to_string(type) +
                                      ", which is negative or too large");
  return type;
}

// `from`, repeated along its axes of one.
void repeat(const TensorType& from, const std::byte* x, const Tensor& to) {
  const Shape strides = strides_of(from.shape, Layout::contiguous);
  const int64_t size = size_of(from.dtype), rank = to.shape.rank();
  for (int64_t i = 0; i < to.shape.elements(); ++i) {
    int64_t rest = i, offset = 0;
    for (int64_t axis = rank; axis-- > 0; rest /= to.shape[static_cast<int>(axis)])
      if (const int at = static_cast<int>(axis); from.shape[at] != 1) offset += rest % to.shape[at] * strides[at];
    std::memcpy(to.as<std::byte>() + i * size, x + offset * size, static_cast<size_t>(size));
  }
}

}  // namespace

std::vector<int64_t> sizes_of(const Program& program, std::span<const TensorType> given) {
  std::vector<int64_t> sizes(program.symbols.size(), -1);
  for (size_t i = 0; i < given.size(); ++i)
    for (int axis = 0; axis < std::min<int>(given[i].shape.rank(), std::ssize(program.inputs[i].shape)); ++axis)
      if (const std::optional<size_t> symbol = symbol_of(program.inputs[i].shape[axis]))
        sizes[*symbol] = given[i].shape[axis];
  return sizes;
}

std::vector<TensorType> state_types(const Program& program, std::span<const int64_t> sizes) {
  std::vector<TensorType> types;
  for (size_t i = program.given_inputs(); i < program.inputs.size(); ++i)
    types.push_back(type_of(program, program.inputs[i], sizes));
  return types;
}

State::State(const Program& program, Contexts& contexts, std::vector<int64_t> sizes)
    : program_(program), contexts_(contexts), sizes_(std::move(sizes)) {
  sizes_.resize(program.symbols.size(), -1);
  const auto add = [&](const TensorType& type, std::vector<Tensor>& views) {
    memory_.emplace_back(static_cast<size_t>(bytes_of(type)) + Buffer::kSlack);
    views.push_back({type, strides_of(type.shape, Layout::contiguous), memory_.back().data()});
  };
  for (const TensorType& type : state_types(program, sizes_)) add(type, values_);
  for (size_t i = 0; i < program.states.size(); ++i)
    program.states[i].in_place ? next_.push_back(values_[i]) : add(values_[i], next_);
  inputs_.resize(program.inputs.size()), outputs_.resize(program.outputs.size());
  for (size_t i = 0; i < program.states.size(); ++i) begin_with(i);
}

State::~State() { contexts_.give(booked_); }

void State::begin_with(size_t state) {
  const Program::State& made = program_.states[state];
  if (made.begin != nullptr) repeat(made.initial, made.begin->as<std::byte>(), values_[state]);
}

void State::reset() {
  for (size_t i = 0; i < values_.size(); ++i) memory_[i].clear(), begin_with(i);
}

// What is touched, about: whole stretches of the positions that are counted.
int64_t State::used_bytes() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < values_.size(); ++i) {
    const Program::State& state = program_.states[i];
    int64_t whole = bytes_of(values_[i]);
    if (state.count >= 0 && whole > 0) {
      const Tensor& counts = values_[static_cast<size_t>(state.count)];
      const int64_t all = values_[i].shape[state.axis] * Program::State::kBlock;
      int64_t most = 0;
      for (int64_t row = 0; row < counts.shape.elements(); ++row)
        most = std::max(most, std::clamp<int64_t>(read_once(counts.as<const int64_t>() + row), 0, all));
      whole = whole / all * std::min((most / kStretch + 1) * kStretch, all);
    }
    bytes += state.in_place ? whole : 2 * whole;
  }
  return bytes;
}

std::span<const Tensor> State::begin(std::span<const Tensor> given) {
  if (busy_.exchange(true, std::memory_order_acquire))
    throw Error(ErrorKind::input, "this state is in another call: each caller needs a state of its own");
  try {
    const int64_t needed = used_bytes();
    if (needed > booked_) contexts_.hold(needed - booked_);
    if (needed < booked_) contexts_.give(booked_ - needed);
    booked_ = needed;
  } catch (...) {
    end();
    throw;
  }
  inputs_.resize(given.size() + values_.size());
  std::copy(values_.begin(), values_.end(), std::copy(given.begin(), given.end(), inputs_.begin()));
  return inputs_;
}

std::span<const Tensor> State::outputs(std::span<const Tensor> given) {
  outputs_.resize(given.size() + next_.size());
  std::copy(next_.begin(), next_.end(), std::copy(given.begin(), given.end(), outputs_.begin()));
  return outputs_;
}

void State::commit() {
  for (size_t i = 0; i < values_.size(); ++i)
    if (next_[i].data != values_[i].data && bytes_of(values_[i]) > 0)
      std::memcpy(values_[i].data, next_[i].data, static_cast<size_t>(bytes_of(values_[i])));
}

}  // namespace lowbit::graph
