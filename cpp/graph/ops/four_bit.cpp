#include "graph/ops/four_bit.h"

#include "base/half.h"

namespace lowbit::graph {

kernels::GemmI4Source four_bit_weight(const NodeInfo& node, size_t codes_input, size_t scales_input) {
  kernels::GemmI4Source source{};
  const Constant& codes = node.constant(codes_input, DType::u8, 2);
  source.n = codes.type.shape[0];
  source.k = source.run = node.integer("depth", 1, kMaxSize);
  source.group_size = node.integer("group_size", 1, kMaxSize);
  if (source.n == 0 || codes.type.shape[1] != (source.k + 1) / 2) node.fail("the weight's codes do not fit 'depth'");
  if (source.k % source.group_size != 0 || (source.group_size % 8 != 0 && source.group_size != source.k))
    node.fail("'group_size' must divide 'depth', and be a multiple of 8 unless it is the same");
  if (source.groups() > kernels::GemmI4Args::kMaxGroups) node.fail("the weight has too many groups");
  if (source.group_size >= (int64_t{1} << 31) / (255 * 15)) node.fail("sums could leave int32");
  const Shape groups{source.n, source.groups()};
  const Constant& scales = node.constant(scales_input, DType::f16, 2);
  if (scales.type.shape != groups) node.fail("scales must be " + to_string(groups));
  for (uint16_t scale : scales.values<uint16_t>())
    if (!std::isfinite(float_from_half(scale))) node.fail("a scale is not finite");
  source.codes = codes.buffer->as<uint8_t>();
  source.scales = scales.buffer->as<uint16_t>();
  if (!node.has(scales_input + 1)) return source;
  const Constant& zero_points = node.constant(scales_input + 1, DType::u8, 2);
  if (zero_points.type.shape != groups) node.fail("zero points must be " + to_string(groups));
  for (uint8_t zero_point : zero_points.values<uint8_t>())
    if (zero_point > 15) node.fail("a zero point is above 15");
  source.zero_points = zero_points.buffer->as<uint8_t>();
  return source;
}

kernels::GemmI4Source four_bit_layer(const NodeInfo& node) {
  node.expect_inputs(kBias + 1, kIntegerInputs + 2);
  node.expect_outputs(1);
  return four_bit_weight(node, kWeight, kIntegerInputs);
}

double bytes_of(const kernels::GemmI4Source& source) {
  return static_cast<double>(source.n * ((source.k + 1) / 2 + source.groups() * 2));
}

}  // namespace lowbit::graph
