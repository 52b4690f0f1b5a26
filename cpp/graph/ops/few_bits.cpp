#include "graph/ops/few_bits.h"

#include <algorithm>

#include "base/half.h"

namespace lowbit::graph {
namespace {

float number(const Buffer& numbers, DType type, int64_t place) {
  return type == DType::f32 ? numbers.as<float>()[place] : float_from_half(numbers.as<uint16_t>()[place]);
}

}  // namespace

FewBitSource::FewBitSource(const NodeInfo& node, const Weight& weight) {
  source.bits = std::min(weight.bits, 4);
  source.n = weight.channels();
  source.k = source.run = weight.depth();
  source.group_size = weight.group_size;
  source.codes = weight.codes.as<uint8_t>();
  bytes = static_cast<double>(weight.bytes());
  weight.bits == 8 ? split(weight) : set_scales(weight);
  if (source.groups() > kernels::GemmI4Args::kMaxGroups) node.fail("the weight has too many groups");
  if (source.group_size >= (int64_t{1} << 31) / (255 * kernels::highest_code(source.bits)))
    node.fail("sums could leave int32");
}

FewBitSource::FewBitSource(const NodeInfo& node, const Weight& weight, int64_t x_group) {
  const int64_t depth = weight.depth();
  source.bits = weight.bits;
  source.n = weight.channels();
  source.k = depth;
  source.run = std::min(x_group, std::max<int64_t>(depth, 1));
  source.group_size = weight.group_size > 0 ? weight.group_size : depth;
  source.codes = weight.codes.as<uint8_t>();
  bytes = static_cast<double>(weight.bytes());
  if (source.n == 0 || depth == 0) node.fail("the weight is empty");
  if (x_group % 8 != 0) node.fail("groups of the input must be multiples of 8");
  if ((depth + x_group - 1) / x_group > kernels::GemmI4Args::kMaxGroups) node.fail("the input has too many groups");
  if (source.group_size != depth && source.group_size % x_group != 0)
    node.fail("groups of the input must divide those of the weight");
  if (weight.group_size > 0) set_scales(weight);
}

const kernels::GemmI4Kernel& FewBitSource::kernel(const NodeInfo& node) const {
  return kernels::best_of(source.bits == 2 ? kernels::gemm_i2_kernels() : kernels::gemm_i4_kernels(), node.isa);
}

void FewBitSource::set_scales(const Weight& weight) {
  const bool halves = weight.scale_type == DType::f16, offsets = weight.offsets.bytes() > 0;
  if (!halves || (offsets && weight.offset_type != DType::f16)) return set_numbers(weight);
  source.scales = weight.scales.as<uint16_t>();
  if (weight.zero_points.bytes() > 0) source.zero_points = weight.zero_points.as<uint8_t>();
  if (offsets) source.offsets = weight.offsets.as<uint16_t>();
}

void FewBitSource::set_numbers(const Weight& weight) {
  for (int64_t i = 0; i < weight.channels() * weight.groups(); ++i) {
    const float scale = number(weight.scales, weight.scale_type, i);
    const int middle = source.bits == 8 ? 0 : kernels::middle_code(source.bits);
    const float zero_point = weight.zero_points.bytes() > 0 ? weight.zero_points.as<uint8_t>()[i] : middle;
    scales_.push_back(scale);
    offsets_.push_back(weight.offsets.bytes() > 0 ? number(weight.offsets, weight.offset_type, i)
                                                  : -zero_point * scale);
  }
  source.scales = scales_.data(), source.offsets = offsets_.data(), source.wide = true;
}

void FewBitSource::split(const Weight& weight) {
  const int64_t count = weight.channels() * weight.groups(), size = weight.group_size;
  source.k = 2 * weight.depth(), source.run = size;
  taps.clear();
  for (int64_t k = 0; k < weight.depth(); k += size) taps.insert(taps.end(), 2, k);
  const auto* codes = weight.codes.as<int8_t>();
  codes_.resize(static_cast<size_t>(count * size));  // a row has as many bytes as codes
  const auto put = [&](int64_t place, int nibble) {
    codes_[place / 2] |= static_cast<uint8_t>(nibble << place % 2 * 4);
  };
  for (int64_t group = 0; group < count; ++group) {
    for (int64_t i = 0; i < size; ++i) {
      const int code = codes[group * size + i] + 128;
      put(2 * group * size + i, code >> 4);
      put((2 * group + 1) * size + i, code & 15);
    }
  }
  source.codes = codes_.data();
  bool fit = weight.scale_type == DType::f16 && weight.offsets.bytes() == 0;
  for (int64_t i = 0; fit && i < count; ++i) {
    const float scale = number(weight.scales, weight.scale_type, i);
    halves_.insert(halves_.end(), {half_from_float(16 * scale), half_from_float(scale)});
    fit = std::isfinite(float_from_half(halves_[2 * i]));
  }
  if (fit) {
    for (int64_t i = 0; i < count; ++i) zero_points_.insert(zero_points_.end(), {8, 0});
    source.scales = halves_.data(), source.zero_points = zero_points_.data();
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float scale = number(weight.scales, weight.scale_type, i);
    const float offset = weight.offsets.bytes() > 0 ? number(weight.offsets, weight.offset_type, i) : 0;
    scales_.insert(scales_.end(), {16 * scale, scale});
    offsets_.insert(offsets_.end(), {-128 * scale, offset});
  }
  source.scales = scales_.data(), source.offsets = offsets_.data(), source.wide = true;
}

}  // namespace lowbit::graph
