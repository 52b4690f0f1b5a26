// What the integer operators check and keep at prepare: weights, and the epilogue that turns sums into codes or floats.
#pragma once

#include <optional>

#include "graph/ops/common.h"

namespace lowbit::graph {

// Input positions of the layers on codes.
enum IntegerInput : size_t {
  kX,
  kWeight,
  kMultiplier,
  kBias,
  kResidual,
  kTable,
  kScale,
  kZeroPoint,
  kSlope,
  kIntegerInputs
};

// The attribute that says how many adjacent codes of a row share a scale; 0: all, and they are u8.
constexpr const char* kGroupSize = "x_group_size";
constexpr int64_t kMaxGroupSize = 1 << 16;

// The weight of a layer on codes, whose inputs and outputs are counted, too.
const Weight& layer_weight(const NodeInfo& node, int rank);
// Checks that 8-bit codes times any u8 input sum within int32; returns the largest such sum.
int64_t checked_sum(const NodeInfo& node, const Weight& weight);

// The u8 output's zero point and bounds: attributes zero_point_y, lo, hi.
struct CodeRange {
  int32_t zero_point = 0, lo = 0, hi = 255;
  explicit CodeRange(const NodeInfo& node);
};

// A finite float32 attribute below `limit` in magnitude, so that products with it stay finite.
float small_number(const NodeInfo& node, std::string_view key, double limit);
std::shared_ptr<const Buffer> table_of(const NodeInfo& node, size_t input);  // u8 [256], or null if absent

class IntegerEpilogue {
 public:
  // largest: what the magnitude of a sum cannot pass. groups: of x, whose scales are in the sums already.
  IntegerEpilogue(const NodeInfo& node, int64_t channels, double largest, bool groups = false);

  bool is_dynamic() const { return dynamic_; }
  int32_t x_zero_point() const { return x_zero_point_; }
  DType output() const { return output_; }
  // For infer: residual, scales and zero points fit.
  void check(Op::Types inputs, const Shape& output, int64_t rows) const;
  // The epilogue for the channels from `first` on; residual and row_scale are the caller's to set.
  kernels::Epilogue at(int64_t first) const;

 private:
  std::shared_ptr<const Buffer> multiplier_, bias_, slope_;
  std::optional<kernels::CodeTable> table_;
  CodeRange range_;
  Bounds bounds_;
  DType output_;
  bool dynamic_, residual_, bounded_;
  float residual_multiplier_ = 0;
  int32_t x_zero_point_ = 0;
};

}  // namespace lowbit::graph
