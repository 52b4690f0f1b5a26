#include "graph/ops/integer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>

namespace lowbit::graph {
namespace {

constexpr double kMaxMultiplier = 1e27;  // times 2^31 is far from overflow
constexpr double kMaxBias = 1e37;
constexpr double kMaxSlope = 16;  // a product with what multiplier and bias allow stays finite

// A constant's number for each channel, as `change` (float(float)) makes it, with room behind them; the key tells one
// change from another.
template <class Change>
std::shared_ptr<const Buffer> channel_floats(const NodeInfo& node, size_t input, int64_t channels, double limit,
                                             std::vector<int64_t> key, Change change) {
  const Constant& constant = node.constant(input, DType::f32, 1);
  if (constant.type.shape[0] != channels)
    node.fail("input " + std::to_string(input) + " must have " + std::to_string(channels) + " values, has " +
              to_string(constant.type.shape));
  for (float value : constant.values<float>())
    if (!(std::fabs(static_cast<double>(value)) <= limit))
      node.fail("input " + std::to_string(input) + " holds a value that is not finite or too large");
  return node.shared<Buffer>(input, std::move(key), [&](Buffer& padded) {
    padded = Buffer((channels + kernels::Epilogue::kSlack) * sizeof(float));
    std::ranges::transform(constant.values<float>(), padded.as<float>(), change);
  });
}

std::shared_ptr<const Buffer> channel_floats(const NodeInfo& node, size_t input, int64_t channels, double limit) {
  return channel_floats(node, input, channels, limit, {}, std::identity());
}

}  // namespace

const Weight& layer_weight(const NodeInfo& node, int rank) {
  node.expect_inputs(kBias + 1, kIntegerInputs);
  node.expect_outputs(1);
  return *node.weight(kWeight, rank);
}

int64_t checked_sum(const NodeInfo& node, const Weight& weight) {
  const int64_t channels = weight.channels(), depth = weight.depth();
  if (channels == 0 || depth == 0) node.fail("the weight is empty");
  const int8_t* w = weight.codes.as<int8_t>();
  return *node.shared<int64_t>(kWeight, {}, [&](int64_t& largest) {
    for (int64_t c = 0; c < channels; ++c) {
      int64_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += std::abs(int{w[c * depth + k]});
      }
      if (255 * sum >= int64_t{1} << 31) node.fail("output channel " + std::to_string(c) + ": sums could leave int32");
      largest = std::max(largest, 255 * sum);
    }
  });
}

CodeRange::CodeRange(const NodeInfo& node)
    : zero_point(static_cast<int32_t>(node.integer("zero_point_y", 0, 255, 0))),
      lo(static_cast<int32_t>(node.integer("lo", 0, 255, 0))),
      hi(static_cast<int32_t>(node.integer("hi", 0, 255, 255))) {
  if (lo > hi) node.fail("lo " + std::to_string(lo) + " is above hi " + std::to_string(hi));
}

float small_number(const NodeInfo& node, std::string_view key, double limit) {
  const double value = node.number(key);
  if (std::fabs(value) > limit) node.fail("attribute '" + std::string(key) + "' is too large");
  return static_cast<float>(value);
}

std::shared_ptr<const Buffer> table_of(const NodeInfo& node, size_t input) {
  if (!node.has(input)) return {};
  const Constant& table = node.constant(input, DType::u8, 1);
  if (table.type.shape[0] != 256) node.fail("a table must have 256 codes, has " + std::to_string(table.type.shape[0]));
  return table.buffer;
}

IntegerEpilogue::IntegerEpilogue(const NodeInfo& node, int64_t channels, double largest, bool groups)
    : multiplier_(channel_floats(node, kMultiplier, channels, kMaxMultiplier)),
      range_(node),
      bounds_(bounds_of(node, "min", "max")),
      dynamic_(node.has(kScale) && !groups),
      residual_(node.has(kResidual)) {
  const std::string& output = node.text("output");
  if (output != "u8" && output != "f32") node.fail("attribute 'output' must be u8 or f32");
  output_ = output == "u8" ? DType::u8 : DType::f32;
  x_zero_point_ = static_cast<int32_t>(node.integer("zero_point_x", 0, 255, 0));
  const auto residual_zero_point = static_cast<float>(node.integer("residual_zero_point", 0, 255, 0));
  if (node.has("residual_multiplier")) residual_multiplier_ = small_number(node, "residual_multiplier", kMaxMultiplier);
  if (residual_ && !node.has("residual_multiplier")) node.fail("a residual needs the attribute 'residual_multiplier'");
  if (groups && (!node.has(kScale) || node.has(kZeroPoint)))
    node.fail("codes in groups have scales x_scale, and no zero points");
  if (dynamic_ != node.has(kZeroPoint)) node.fail("x_scale and x_zero_point go together");
  if ((dynamic_ || groups) && output_ != DType::f32) node.fail("dynamic quantization needs output f32");
  if (node.has(kTable) && output_ != DType::u8) node.fail("a table needs output u8");
  if (node.has(kTable)) table_.emplace(table_of(node, kTable)->as<uint8_t>());
  if (node.has(kSlope)) slope_ = channel_floats(node, kSlope, channels, kMaxSlope);
  const bool moved = output_ == DType::u8 && !node.has(kSlope);
  const auto zero_point = static_cast<float>(range_.zero_point);
  const auto key = [](bool used, float number) { return used ? int64_t{std::bit_cast<int32_t>(number)} : INT64_MIN; };
  bias_ = channel_floats(
      node, kBias, channels, kMaxBias,
      {key(residual_, residual_zero_point), key(residual_, residual_multiplier_), key(moved, zero_point)},
      [&](float bias) {
        if (residual_) bias = std::fma(-residual_zero_point, residual_multiplier_, bias);
        return moved ? bias + zero_point : bias;
      });
  bounded_ = !dynamic_;
  for (int64_t c = 0; c < channels; ++c) {
    double most = largest * std::fabs(multiplier_->as<float>()[c]) + std::fabs(bias_->as<float>()[c]) +
                  255.0 * std::fabs(residual_multiplier_);
    if (node.has(kSlope)) most = most * std::max(1.0, std::fabs(double{slope_->as<float>()[c]})) + 255;
    bounded_ = bounded_ && most < 1 << 30;
  }
}

void IntegerEpilogue::check(Op::Types inputs, const Shape& output, int64_t rows) const {
  if (residual_) {
    require_type(inputs, kResidual, DType::u8);
    require_shape(inputs, kResidual, output);
  }
  if (dynamic_) {
    require_type(inputs, kScale, DType::f32);
    require_type(inputs, kZeroPoint, DType::u8);
    require_shape(inputs, kScale, {rows});
    require_shape(inputs, kZeroPoint, {rows});
  }
}

kernels::Epilogue IntegerEpilogue::at(int64_t first) const {
  kernels::Epilogue epilogue;
  epilogue.multiplier = multiplier_->as<float>() + first;
  epilogue.bias = bias_->as<float>() + first;
  epilogue.residual_multiplier = residual_multiplier_;
  epilogue.lo = range_.lo;
  epilogue.hi = range_.hi;
  epilogue.table = table_ ? &*table_ : nullptr;
  if (slope_ != nullptr) epilogue.slope = slope_->as<float>() + first;
  epilogue.zero_point = output_ == DType::u8 ? static_cast<float>(range_.zero_point) : 0.0f;
  epilogue.min = bounds_.min;
  epilogue.max = bounds_.max;
  epilogue.output = output_;
  epilogue.bounded = bounded_;
  return epilogue;
}

}  // namespace lowbit::graph
