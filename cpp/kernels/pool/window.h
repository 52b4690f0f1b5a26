// Which input positions an output sees on one axis (pool.h), shared by the scalar truth and the vector kernels.
#pragma once

#include "kernels/pool/pool.h"

namespace lowbit::kernels {
namespace {

struct Window {
  int64_t begin, end, step;  // input positions inside the image
  int64_t padded;            // positions inside the padded image, for count_include_pad
  int64_t count() const { return end > begin ? (end - begin + step - 1) / step : 0; }
};

inline Window window_of(const PoolAxis& axis, int64_t output) {
  if (axis.adaptive) {
    const int64_t begin = output * axis.size / axis.outputs;
    const int64_t end = ((output + 1) * axis.size + axis.outputs - 1) / axis.outputs;
    return {begin, end, 1, end - begin};
  }
  const int64_t first = output * axis.stride - axis.padding_begin;
  int64_t begin = first, end = first + (axis.kernel - 1) * axis.dilation + 1;
  const int64_t padded_end = end < axis.size + axis.padding_end ? end : axis.size + axis.padding_end;
  if (begin < 0) begin += (-begin + axis.dilation - 1) / axis.dilation * axis.dilation;
  if (end > axis.size) end = axis.size;
  return {begin, end, axis.dilation, padded_end - first};
}

// The divisor of an average, and the elements that were summed.
struct Counts {
  int64_t elements;
  float divisor;
};

inline Counts counts_of(const PoolArgs& args, const Window& h, const Window& w) {
  const int64_t elements = h.count() * w.count();
  const int64_t count = args.count_include_pad ? h.padded * w.padded : elements;
  return {elements, static_cast<float>(count > 0 ? count : 1)};
}

// Whether an average is summed in float64: a mean, or a window that is not small.
inline bool is_wide(const PoolArgs& args, const Counts& counts) {
  constexpr int64_t kSmall = 16;
  return args.h.adaptive || counts.elements > kSmall;
}

}  // namespace
}  // namespace lowbit::kernels
