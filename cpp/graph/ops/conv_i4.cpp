// quantized_conv2d with weights of few bits in groups, each output channel's in the order [kh, kw, channels]. The
// kernel unpacks them in registers and finds the pixels by taps: nothing is gathered, nor unpacked to memory.
#include "graph/ops/conv_integer.h"
#include "graph/ops/few_bits.h"
#include "graph/ops/quantized.h"

namespace lowbit::graph {
namespace {

class ConvI4 final : public IntegerConv<ConvOp> {
 public:
  explicit ConvI4(const NodeInfo& node) : ConvI4(node, layer_weight(node, 4)) {}

  bool reads_slack(size_t input) const override {
    const int64_t step = kernels::gemm_i4_step(weights_->kernel->bits);  // a group's last one may go beyond the run
    return input == graph::kX && !padded_ && (weights_->run % step != 0 || weights_->group_size % step != 0);
  }
  std::string kernel() const override { return weights_->kernel->name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = ConvOp::work(inputs, outputs);
    work.bytes += weight_bytes_ - static_cast<double>(weights_->n * weights_->k);
    return work;
  }

 protected:
  void convolve(const RunArgs& args, const Plane& plane) const override {
    kernels::GemmI4Args gemm;
    gemm.weights = weights_.get();
    gemm.taps = plane.taps;
    gemm.x = image_rows<uint8_t>(plane, 0);
    set(gemm, args, plane, 0);
    run_kernel(*weights_->kernel, gemm, args.threads);
  }

 private:
  ConvI4(const NodeInfo& node, const Weight& weight) : IntegerConv(node, weight.shape, kAnySum, Borders::copied) {
    if (groups_ != 1 || node.op != "quantized_conv2d")
      node.fail("no kernel reads four-bit weights with groups, nor in transposed convolutions");
    FewBitSource packed(node, weight);
    weight_bytes_ = packed.bytes;
    packed.source.run = run_length(phases_[0]);
    const kernels::GemmI4Kernel& kernel = packed.kernel(node);
    weights_ = node.shared<kernels::GemmI4Weights>(
        graph::kWeight, {key_of(&kernel), packed.source.run},
        [&](kernels::GemmI4Weights& weights) { kernel.pack(packed.source, weights); });
  }

  std::shared_ptr<const kernels::GemmI4Weights> weights_;
  double weight_bytes_;  // as the model holds them
};

}  // namespace

std::unique_ptr<Op> make_conv_i4(const NodeInfo& node) { return std::make_unique<ConvI4>(node); }

}  // namespace lowbit::graph
