// Layers of signs times signs: pack_signs makes bits of numbers, sign_linear and sign_conv2d compare and count them.
// Packed, 32 channels are two words of bits, which ones are positive and which not zero, so that a border is zero
// bytes.
#include "graph/ops/conv_integer.h"
#include "graph/ops/linear_kernels.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i1/gemm_i1.h"

namespace lowbit::graph {
namespace {

using kernels::GemmI1Args;
using kernels::GemmI1Kernel;
using kernels::GemmI1Weights;

const GemmI1Kernel& kernel_of(const NodeInfo& node) { return kernels::best_of(kernels::gemm_i1_kernels(), node.isa); }

// What the words of so many numbers take.
int64_t packed_size(int64_t numbers) { return kernels::sign_words(numbers) * kernels::kSignBytes; }

// Along the last axis, or that of an image's channels.
class PackSigns final : public Op {
 public:
  explicit PackSigns(const NodeInfo& node)
      : axis_(node.integer("axis", -1, 1)),
        zero_(static_cast<int>(node.integer("zero", -1, 1, 0))),
        kernel_(kernel_of(node)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (axis_ == 0) node.fail("attribute 'axis' must be 1 or -1");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32, axis_ == 1 ? 4 : -1);
    Shape shape = inputs[0].shape;
    require(shape.rank() >= 1, "the input must have at least one axis");
    int64_t& numbers = shape[axis_ == 1 ? 1 : shape.rank() - 1];
    numbers = packed_size(numbers);
    return {{DType::u8, shape}};
  }
  Layout input_layout(size_t) const override { return layout(); }
  Layout output_layout(size_t) const override { return layout(); }
  std::string kernel() const override { return kernel_.name; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int64_t count = x.shape[axis_ == 1 ? 1 : x.shape.rank() - 1], bytes = packed_size(count);
    run_shares(y.shape.elements() / bytes, bytes_of(x) + bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        kernel_.signs(x.as<const float>() + row * count, count, zero_, y.as<uint8_t>() + row * bytes);
    });
  }

 private:
  Layout layout() const { return axis_ == 1 ? Layout::channels_last : Layout::contiguous; }

  int64_t axis_;
  int zero_;
  const GemmI1Kernel& kernel_;
};

const Weight& sign_weight(const NodeInfo& node, int rank) {
  const Weight& weight = layer_weight(node, rank);
  const auto* values = weight.values.as<const float>();
  if (weight.bits != 1 || weight.values.bytes() == 0 || values[0] != -1 || values[1] != 1 || weight.group_size != 0 ||
      weight.scale_type != DType::f32)
    node.fail("its weight must be -1 and 1 in one bit, with f32 scales a channel; it has " + describe(weight));
  if (packed_size(weight.shape[1]) > kMaxSize || weight.depth() >= int64_t{1} << 29)
    node.fail("the weight is too deep");
  return weight;
}

// Of any words, whose bits need not be signs: twice as many as there are.
double largest_sum(const Weight& weight) {
  return 8.0 * static_cast<double>(packed_size(weight.shape[1])) * static_cast<double>(weight.depth()) /
         static_cast<double>(weight.shape[1]);
}

// Its words for a kernel that walks `taps` runs; each pixel's inputs begin a word of their own.
std::shared_ptr<const GemmI1Weights> packed(const NodeInfo& node, const Weight& weight, int64_t taps) {
  const GemmI1Kernel& kernel = kernel_of(node);
  return node.shared<GemmI1Weights>(kWeight, {key_of(&kernel), taps}, [&](GemmI1Weights& out) {
    const int64_t inputs = weight.shape[1], area = weight.depth() / inputs, words = kernels::sign_words(inputs);
    const int64_t channel_bytes = (weight.depth() + 7) / 8;
    const Buffer ordered(weight.channels() * area * words * sizeof(uint32_t));
    auto* to = ordered.as<uint32_t>();
    for (int64_t c = 0; c < weight.channels(); ++c) {
      const uint8_t* codes = weight.codes.as<const uint8_t>() + c * channel_bytes;
      for (int64_t pixel = 0; pixel < area; ++pixel, to += words)
        for (int64_t i = 0, bit = pixel * inputs; i < inputs; ++i, ++bit)
          to[i / kernels::kSigns] |= (uint32_t{codes[bit / 8]} >> bit % 8 & 1) << i % kernels::kSigns;
    }
    kernel.pack(ordered.as<const uint32_t>(), weight.channels(), taps, area * words / taps, out);
  });
}

class SignLinear final : public LinearKernels<GemmI1Weights, GemmI1Args> {
 public:
  explicit SignLinear(const NodeInfo& node) : SignLinear(node, sign_weight(node, 2)) {}
  bool reads_slack(size_t) const override { return false; }
  Work work(Types inputs, Types outputs) const override {
    Work work = LinearKernels::work(inputs, outputs);
    work.operations *= numbers_ / static_cast<double>(packed_size(static_cast<int64_t>(numbers_)));
    return work;
  }

 private:
  SignLinear(const NodeInfo& node, const Weight& weight)
      : LinearKernels({node, weight.channels(), largest_sum(weight)}, packed_size(weight.depth()),
                      static_cast<double>(weight.bytes())),
        numbers_(static_cast<double>(weight.depth())) {
    weights_ = packed(node, weight, 1);
  }

  double numbers_;  // of a row
};

class SignConv final : public IntegerConv<ConvOp> {
 public:
  explicit SignConv(const NodeInfo& node) : SignConv(node, sign_weight(node, 4)) {}
  std::string kernel() const override { return weights_->kernel->name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = ConvOp::work(inputs, outputs);
    work.operations *= share_;
    work.bytes += bytes_;
    return work;
  }

 protected:
  int fill(const RunArgs&, int64_t) const override { return 0; }
  void convolve(const RunArgs& args, const Plane& plane) const override {
    GemmI1Args gemm;
    gemm.weights = weights_.get();
    gemm.taps = plane.taps;
    gemm.x = image_rows<uint8_t>(plane, 0);
    set(gemm, args, plane, 0);
    run_kernel(*weights_->kernel, gemm, args.threads);
  }

 private:
  SignConv(const NodeInfo& node, const Weight& weight)
      : IntegerConv(node, {weight.shape[0], packed_size(weight.shape[1]), weight.shape[2], weight.shape[3]},
                    largest_sum(weight), Borders::copied),
        weights_(packed(node, weight, taps(phases_[0]))),
        share_(static_cast<double>(weight.shape[1]) / static_cast<double>(depth_)),
        bytes_(static_cast<double>(weight.bytes()) - static_cast<double>(filters_ * depth_ * phases_[0].area())) {
    if (groups_ != 1) node.fail("no kernel reads signs with groups");
  }

  std::shared_ptr<const GemmI1Weights> weights_;
  double share_, bytes_;  // of the operations and bytes of an 8-bit layer: what is left, and what differs
};

}  // namespace

const OpRows kSignOps = {
    {"pack_signs", make<PackSigns>},
    {"sign_conv2d", make<SignConv>},
    {"sign_linear", make<SignLinear>},
};

}  // namespace lowbit::graph
