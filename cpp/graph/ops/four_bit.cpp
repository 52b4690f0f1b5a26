#include "graph/ops/four_bit.h"

namespace lowbit::graph {

kernels::GemmI4Source four_bit_source(const NodeInfo& node, const Weight& weight) {
  kernels::GemmI4Source source{};
  source.bits = weight.bits;
  source.n = weight.channels();
  source.k = source.run = weight.depth();
  source.group_size = weight.group_size;
  if (source.groups() > kernels::GemmI4Args::kMaxGroups) node.fail("the weight has too many groups");
  if (source.group_size >= (int64_t{1} << 31) / (255 * kernels::highest_code(source.bits)))
    node.fail("sums could leave int32");
  source.codes = weight.codes.as<uint8_t>();
  source.scales = weight.scales.as<uint16_t>();
  if (weight.zero_points.bytes() > 0) source.zero_points = weight.zero_points.as<uint8_t>();
  return source;
}

const kernels::GemmI4Kernel& four_bit_kernel(const NodeInfo& node, const kernels::GemmI4Source& source) {
  return kernels::best_of(source.bits == 2 ? kernels::gemm_i2_kernels() : kernels::gemm_i4_kernels(), node.isa);
}

double bytes_of(const kernels::GemmI4Source& source) {
  return static_cast<double>(source.n * ((source.k * source.bits + 7) / 8 + source.groups() * 2));
}

}  // namespace lowbit::graph
