// The epilogue's rarer ends, over results in memory, for the tiles of the integer matrix kernels. V gives the vectors
// (avx2.h, avx512.h). For ISA files only: everything has internal linkage.
#pragma once

#include "base/numerics.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {
namespace {

// What few layers need: bounds within the codes, and the table.
__attribute__((noinline)) void change_codes(const OutputTile& t, int rows) {
  const Epilogue& e = *t.epilogue;
  const auto lo = static_cast<uint8_t>(e.lo), hi = static_cast<uint8_t>(e.hi);
  for (int r = 0; r < rows; ++r) {
    uint8_t* codes = row_of<uint8_t>(t, r);
    for (int c = 0; c < t.columns; ++c) codes[c] = codes[c] < lo ? lo : codes[c] > hi ? hi : codes[c];
    for (int c = 0; c < t.columns && e.table != nullptr; ++c) codes[c] = e.table[codes[c]];
  }
}

// The epilogue to floats, or to codes that must be clamped as floats, over sums in memory: out of line and in a
// loop, for it is the rarer one, and unrolled it would double the code of every tile height.
template <class V>
__attribute__((noinline)) void store_any(const OutputTile& t, const float* sums, int rows, int stride) {
  const Epilogue& e = *t.epilogue;
  for (int c = 0; c < t.columns; c += V::kLanes) {
    const int count = t.columns - c;
    const typename V::Float multiplier = V::load_floats(t.multiplier + c), bias = V::load_floats(t.bias + c);
    for (int r = 0; r < rows; ++r) {
      const typename V::Float sum = V::load_floats(sums + r * stride + c);
      typename V::Float value = t.row_scales == nullptr
                                    ? V::fma(sum, multiplier, bias)
                                    : V::fma(V::multiply(sum, multiplier), V::broadcast(t.row_scales[r]), bias);
      if (t.residual != nullptr) {
        const auto residual = V::to_float(V::load_codes(t.residual[r] + t.channel + c, count));
        value = V::fma(residual, V::broadcast(e.residual_multiplier), value);
      }
      if (e.output == DType::f32) {
        V::store(row_of<float>(t, r) + c, V::clamp(value, V::broadcast(e.min), V::broadcast(e.max)), count);
      } else {
        float values[V::kLanes];
        V::store(values, value, V::kLanes);
        for (int i = 0; i < V::kLanes && i < count; ++i)
          row_of<uint8_t>(t, r)[c + i] = code_from_float(values[i], 0, e.lo, e.hi);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels
