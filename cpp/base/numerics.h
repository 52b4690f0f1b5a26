// The only requantize arithmetic of the project, in scalar form. Vector kernels repeat these operations in this order;
// the build contracts nothing by itself, so every ISA gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>

namespace lowbit {

// rne(clampf(value, lo - zero_point, hi - zero_point)) + zero_point as an 8-bit code; NaN gives zero_point (if lo <=
// zero_point <= hi). Clamped as float before the conversion, because cvtps2dq turns overflow into INT_MIN.
static inline uint8_t code_from_float(float value, int32_t zero_point, int32_t lo, int32_t hi) {
  const float lowest = static_cast<float>(lo - zero_point);
  const float highest = static_cast<float>(hi - zero_point);
  if (value != value) value = 0.0f;
  value = value > lowest ? value : lowest;
  value = value < highest ? value : highest;
  return static_cast<uint8_t>(static_cast<int32_t>(std::nearbyintf(value)) + zero_point);
}

// acc * multiplier + bias, or (acc * multiplier) * *row_scale + bias: the last product and the sum are rounded once.
static inline float rescale(int32_t acc, float multiplier, const float* row_scale, float bias) {
  const float sum = static_cast<float>(acc);
  return row_scale == nullptr ? std::fma(sum, multiplier, bias) : std::fma(sum * multiplier, *row_scale, bias);
}

// value + residual * multiplier, rounded once.
static inline float add_residual(float value, uint8_t residual, float multiplier) {
  return std::fma(static_cast<float>(residual), multiplier, value);
}

// value, or value * slope below zero, plus the output's zero point; rounded once.
static inline float bend(float value, float slope, float zero_point) {
  return std::fma(value, value < 0 ? slope : 1.0f, zero_point);
}

// min .. max in this order; NaN stays NaN, and of equal zeros the value wins. As maxps(min, value), minps(max, value).
static inline float clamp_float(float value, float min, float max) {
  value = min > value ? min : value;
  return max < value ? max : value;
}

}  // namespace lowbit
