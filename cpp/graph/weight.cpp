#include "graph/weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "base/half.h"
#include "graph/op.h"

namespace lowbit::graph {
namespace {

template <class T>
std::span<const T> items(const Buffer& buffer) {
  return {buffer.as<const T>(), buffer.bytes() / sizeof(T)};
}

bool all_finite(const Buffer& numbers, DType type) {
  if (type == DType::f32)
    return std::ranges::all_of(items<float>(numbers), [](float number) { return std::isfinite(number); });
  return std::ranges::all_of(items<uint16_t>(numbers),
                             [](uint16_t half) { return std::isfinite(float_from_half(half)); });
}

bool are_positive(const Buffer& scales, DType type) {
  const auto sound = [](float scale) { return std::isfinite(scale) && scale > 0; };
  if (type == DType::f32) return std::ranges::all_of(items<float>(scales), sound);
  return std::ranges::all_of(items<uint16_t>(scales), [&](uint16_t half) { return sound(float_from_half(half)); });
}

std::string problem_of_groups(const Weight& weight) {
  const int64_t size = weight.group_size, depth = weight.depth();
  if (size == 0) return "";
  if (size < 0 || depth % size != 0 || (size % 8 != 0 && size != depth))
    return "the group size must divide the depth, and be a multiple of 8 unless it is the same";
  return "";
}

std::string problem_of_parts(const Weight& weight) {
  const size_t count = weight.channels() * weight.groups();
  if (weight.scale_type != DType::f16 && weight.scale_type != DType::f32) return "scales are neither f16 nor f32";
  if (weight.scales.bytes() != count * size_of(weight.scale_type)) return "there must be a scale for each group";
  if (!are_positive(weight.scales, weight.scale_type)) return "a scale is not finite and positive";
  const std::array<const Buffer*, 3> parts = {&weight.zero_points, &weight.offsets, &weight.values};
  if (std::ranges::count_if(parts, [](const Buffer* part) { return part->bytes() > 0; }) > 1)
    return "zero points, offsets and values exclude each other";
  if (weight.zero_points.bytes() > 0) {
    if (weight.bits == 8 || weight.zero_points.bytes() != count) return "there must be a zero point for each group";
    for (uint8_t zero_point : items<uint8_t>(weight.zero_points))
      if (zero_point >> weight.bits != 0) return "a zero point is no code";
  }
  if (weight.offset_type != DType::f16 && weight.offset_type != DType::f32) return "offsets are neither f16 nor f32";
  if (weight.offsets.bytes() > 0 && (weight.offsets.bytes() != count * size_of(weight.offset_type) ||
                                     !all_finite(weight.offsets, weight.offset_type)))
    return "there must be a finite offset for each group";
  if (weight.values.bytes() > 0) {
    const auto finite = [](float value) { return std::isfinite(value); };
    if (weight.bits == 8 || weight.values.bytes() != sizeof(float) << weight.bits ||
        !std::ranges::all_of(items<float>(weight.values), finite))
      return "there must be a finite value for each code";
  }
  return "";
}

}  // namespace

size_t Weight::code_bytes() const { return channels() * ((depth() * bits + 7) / 8); }

std::string problem_of(const Weight& weight) {
  constexpr std::array<int, 5> known = {1, 2, 3, 4, 8};
  if (std::ranges::find(known, weight.bits) == known.end()) return "a code has 1, 2, 3, 4 or 8 bits";
  if (weight.shape.rank() < 1 || checked_elements({DType::f32, weight.shape}) < 0)
    return "its shape " + to_string(weight.shape) + " is none of a weight";
  if ((weight.bits < 8 || weight.group_size != 0) && (weight.shape.rank() < 2 || weight.shape.elements() == 0))
    return "packed and grouped codes need two axes or more, none of them empty";
  std::string problem = problem_of_groups(weight);
  if (problem.empty() && weight.codes.bytes() != weight.code_bytes())
    problem =
        "its codes take " + std::to_string(weight.code_bytes()) + " bytes, got " + std::to_string(weight.codes.bytes());
  return problem.empty() ? problem_of_parts(weight) : problem;
}

std::string describe(const Weight& weight) {
  std::string text = std::to_string(weight.bits) + "-bit codes with " + std::string(name_of(weight.scale_type)) +
                     " scales " + (weight.group_size == 0 ? "a channel" : "in groups");
  if (weight.zero_points.bytes() > 0) text += " and zero points";
  if (weight.offsets.bytes() > 0) text += " and offsets";
  if (weight.values.bytes() > 0) text += " and values";
  return text;
}

}  // namespace lowbit::graph
