// What convolutions on codes share, whatever bits their weights have: the epilogue, and the borders' zero points.
#pragma once

#include "graph/ops/conv_kernels.h"
#include "graph/ops/integer.h"

namespace lowbit::graph {

// Base: ConvOp, or what derives from it.
template <class Base>
class IntegerConv : public Base {
 public:
  using typename Base::Plane;
  using Types = Op::Types;

  bool reads(size_t input) const override {
    return input == graph::kX || input == kResidual || input == kScale || input == kZeroPoint;
  }

  // Args: of a kernel, whose weights and x the caller sets.
  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Plane& plane, int64_t channel) const {
    kernel.grid = plane.grid;
    kernel.x_zero_point = epilogue_.x_zero_point();
    kernel.epilogue = epilogue_.at(channel);
    if (epilogue_.is_dynamic()) {
      kernel.x_zero_points = args.inputs[kZeroPoint].as<const uint8_t>() + plane.first;
      kernel.epilogue.row_scale = args.inputs[kScale].as<const float>() + plane.first;
    }
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      kernel.epilogue.residual = this->template rows<const uint8_t>(args.inputs[kResidual], plane, channel);
    if constexpr (std::is_same_v<Args, kernels::DwconvI8Args>) {
      kernel.height = plane.height, kernel.width = plane.width;
      kernel.top = plane.top, kernel.left = plane.left;
      kernel.border = static_cast<const uint8_t*>(plane.border), kernel.border_stride_n = plane.border_stride;
    }
    kernel.y = this->template rows<void>(args.outputs[0], plane, channel);
  }

  static void skip(kernels::DwconvI8Args& kernel, int64_t columns) {
    kernel.y.data =
        static_cast<std::byte*>(kernel.y.data) + columns * kernel.y.stride_w * size_of(kernel.epilogue.output);
    auto& residual = kernel.epilogue.residual;
    if (residual.data != nullptr) residual.data += columns * residual.stride_w;
  }

 protected:
  // largest: what the magnitude of a sum cannot pass.
  IntegerConv(const NodeInfo& node, const Shape& weight, double largest, typename Base::Borders borders)
      : Base(node, DType::u8, weight, borders), epilogue_(node, this->filters_, largest) {}

  DType check(Types inputs, const Shape& output) const override {
    epilogue_.check(inputs, output, output[0]);
    return epilogue_.output();
  }

  int fill(const RunArgs& args, int64_t sample) const override {
    return epilogue_.is_dynamic() ? args.inputs[kZeroPoint].as<const uint8_t>()[sample] : epilogue_.x_zero_point();
  }

 private:
  IntegerEpilogue epilogue_;
};

}  // namespace lowbit::graph
