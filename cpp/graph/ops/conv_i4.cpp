// conv2d_i4: the convolution on codes with four-bit weights, each output channel's in the order [kh, kw, channels]. The
// kernel unpacks them in registers and finds the pixels by taps: nothing is gathered, nor unpacked to memory.
#include "graph/ops/conv_integer.h"
#include "graph/ops/four_bit.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

// [output channels, channels, kh, kw], by attribute "kernel".
Shape weight_shape(const NodeInfo& node, const kernels::GemmI4Source& source) {
  const std::vector<int64_t> kernel = node.integers("kernel", 2, 1, kMaxExtent);
  const int64_t area = kernel[0] * kernel[1];
  if (source.k % area != 0) node.fail("'kernel' does not divide 'depth'");
  return {source.n, source.k / area, kernel[0], kernel[1]};
}

class ConvI4 final : public IntegerConv<ConvOp> {
 public:
  explicit ConvI4(const NodeInfo& node) : ConvI4(node, four_bit_layer(node)) {}

  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_ && weights_.run % 8 != 0; }
  std::string kernel() const override { return weights_.kernel->name; }
  size_t bytes() const override { return weights_.bytes() + epilogue_bytes(); }
  Work work(Types inputs, Types outputs) const override {
    Work work = ConvOp::work(inputs, outputs);
    work.bytes += weight_bytes_ - static_cast<double>(weights_.n * weights_.k);
    return work;
  }

 protected:
  void convolve(const RunArgs& args, const Plane& plane) const override {
    kernels::GemmI4Args gemm;
    gemm.weights = &weights_;
    gemm.taps = plane.taps;
    gemm.x = image_rows<uint8_t>(plane, 0);
    set(gemm, args, plane, 0);
    run_kernel(*weights_.kernel, gemm, args.threads);
  }

 private:
  ConvI4(const NodeInfo& node, kernels::GemmI4Source source)
      : IntegerConv(node, weight_shape(node, source), kAnySum, Borders::copied), weight_bytes_(bytes_of(source)) {
    if (groups_ != 1) node.fail("'groups' must be 1");
    source.run = run_length(phases_[0]);
    const kernels::GemmI4Kernel& kernel = kernels::best_of(kernels::gemm_i4_kernels(), node.isa);
    kernel.pack(source, weights_);
  }

  kernels::GemmI4Weights weights_;
  double weight_bytes_;  // as the model holds them
};

}  // namespace

const OpRows kConvI4Ops = {{"conv2d_i4", make<ConvI4>}};

}  // namespace lowbit::graph
