// linear_i4: codes [..., K] times four-bit codes [N, K], two a byte, with a half-float scale for each group of K.
// What the weight has beside its codes are the inputs after those of all integer layers.
#include <cmath>

#include "base/half.h"
#include "graph/ops/linear_kernels.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {
namespace {

enum WeightInput : size_t { kScales = kIntegerInputs, kZeroPoints, kInputs };

// The weight as its kernels take it, checked.
kernels::GemmI4Source source_of(const NodeInfo& node) {
  node.expect_inputs(kBias + 1, kInputs);
  node.expect_outputs(1);
  kernels::GemmI4Source source{};
  const Constant& codes = node.constant(kWeight, DType::u8, 2);
  source.n = codes.type.shape[0];
  source.k = node.integer("depth", 1, kMaxSize);
  source.group_size = node.integer("group_size", 1, kMaxSize);
  if (source.n == 0 || codes.type.shape[1] != (source.k + 1) / 2) node.fail("the weight's codes do not fit 'depth'");
  if (source.k % source.group_size != 0 || (source.group_size % 8 != 0 && source.group_size != source.k))
    node.fail("'group_size' must divide 'depth', and be a multiple of 8 unless it is the same");
  if (source.groups() > kernels::GemmI4Args::kMaxGroups) node.fail("the weight has too many groups");
  if (source.group_size >= (int64_t{1} << 31) / (255 * 15)) node.fail("sums could leave int32");
  const Shape groups{source.n, source.groups()};
  const Constant& scales = node.constant(kScales, DType::f16, 2);
  if (scales.type.shape != groups) node.fail("scales must be " + to_string(groups));
  for (uint16_t scale : scales.values<uint16_t>())
    if (!std::isfinite(float_from_half(scale))) node.fail("a scale is not finite");
  source.codes = codes.buffer->as<uint8_t>();
  source.scales = scales.buffer->as<uint16_t>();
  if (!node.has(kZeroPoints)) return source;
  const Constant& zero_points = node.constant(kZeroPoints, DType::u8, 2);
  if (zero_points.type.shape != groups) node.fail("zero points must be " + to_string(groups));
  for (uint8_t zero_point : zero_points.values<uint8_t>())
    if (zero_point > 15) node.fail("a zero point is above 15");
  source.zero_points = zero_points.buffer->as<uint8_t>();
  return source;
}

class LinearI4 final : public LinearKernels<kernels::GemmI4Weights, kernels::GemmI4Args> {
 public:
  explicit LinearI4(const NodeInfo& node) : LinearI4(node, source_of(node)) {}

 private:
  static constexpr double kAnySum = HUGE_VAL;  // its sums are floats: no bound is needed

  LinearI4(const NodeInfo& node, const kernels::GemmI4Source& source)
      : LinearKernels({node, source.n, kAnySum}, source.k,
                      static_cast<double>(source.n * ((source.k + 1) / 2 + source.groups() * 2))) {
    const kernels::GemmI4Kernel& kernel = kernels::select_gemm_i4(node.isa);
    kernel.pack(kernel, source, weights_);
  }
};

}  // namespace

std::unique_ptr<Op> make_linear_i4(const NodeInfo& node) { return std::make_unique<LinearI4>(node); }

}  // namespace lowbit::graph
