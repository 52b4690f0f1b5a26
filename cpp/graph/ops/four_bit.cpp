#include "graph/ops/four_bit.h"

namespace lowbit::graph {

kernels::GemmI4Source four_bit_source(const NodeInfo& node, const Weight& weight) {
  kernels::GemmI4Source source{};
  source.n = weight.channels();
  source.k = source.run = weight.depth();
  source.group_size = weight.group_size;
  if (source.groups() > kernels::GemmI4Args::kMaxGroups) node.fail("the weight has too many groups");
  if (source.group_size >= (int64_t{1} << 31) / (255 * 15)) node.fail("sums could leave int32");
  source.codes = weight.codes.as<uint8_t>();
  source.scales = weight.scales.as<uint16_t>();
  if (weight.zero_points.bytes() > 0) source.zero_points = weight.zero_points.as<uint8_t>();
  return source;
}

double bytes_of(const kernels::GemmI4Source& source) {
  return static_cast<double>(source.n * ((source.k + 1) / 2 + source.groups() * 2));
}

}  // namespace lowbit::graph
