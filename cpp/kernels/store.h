// The epilogue's rarer ends, over results in memory, for the tiles of the integer matrix kernels. V gives the vectors
// (simd/vectors256.h, vectors512.h). For ISA files only: everything has internal linkage.
#pragma once

#include "kernels/kernel.h"
#include "simd/copy_few.h"
#include "simd/lanes.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// What few layers need: bounds within the codes, and the table.
// Rows are gathered first, so that vectors are full whatever a panel's width.
template <int kRows, int kColumns>
__attribute__((noinline)) void change_codes(const OutputTile& t, int rows) {
  constexpr int kBytes = sizeof(Bytes);
  const Epilogue& e = *t.epilogue;
  if (rows > kRows) __builtin_unreachable();  // else GCC warns of writes beyond `codes`
  alignas(64) uint8_t codes[(kRows * kColumns + kBytes - 1) / kBytes * kBytes];
  const bool full = t.columns == kColumns;
  for (int r = 0; r < rows; ++r)
    copy_few<kColumns>(codes + r * kColumns, row_of<uint8_t>(t, r), full ? kColumns : t.columns);
  const Bytes lo = splat_byte(static_cast<char>(e.lo)), hi = splat_byte(static_cast<char>(e.hi));
  for (int i = 0; i < rows * kColumns; i += kBytes) {
    const Bytes bounded = within(load_bytes(codes + i), lo, hi);
    store_bytes(codes + i, e.table != nullptr ? lookup(e.table->steps, bounded) : bounded);
  }
  for (int r = 0; r < rows; ++r)
    copy_few<kColumns>(row_of<uint8_t>(t, r), codes + r * kColumns, full ? kColumns : t.columns);
}

// One result vector before the output's bounds: kernel.h's t.
template <class V>
LOWBIT_INLINE typename V::Float result(const OutputTile& t, int row, int channel, typename V::Float sum) {
  const Epilogue& e = *t.epilogue;
  const typename V::Float multiplier = V::load_floats(t.multiplier + channel), bias = V::load_floats(t.bias + channel);
  typename V::Float value = t.row_scales == nullptr
                                ? V::fma(sum, multiplier, bias)
                                : V::fma(V::multiply(sum, multiplier), V::broadcast(t.row_scales[row]), bias);
  if (t.residual != nullptr) {
    const auto residual = V::to_float(V::load_codes(t.residual[row] + t.channel + channel, t.columns - channel));
    value = V::fma(residual, V::broadcast(e.residual_multiplier), value);
  }
  if (t.slope != nullptr) value = V::bend(value, V::load_floats(t.slope + channel), V::broadcast(e.zero_point));
  return value;
}

// The epilogue to floats, or to codes that must be clamped as floats, over sums [rows][kVectors] in memory: out of line
// and in a loop, for it is the rarer one, and unrolled it would double the code of every tile height.
template <class V, int kVectors>
__attribute__((noinline)) void store_any(const OutputTile& t, const float* sums, int rows) {
  const Epilogue& e = *t.epilogue;
  const bool floats = e.output == DType::f32;
  const typename V::Float low = V::broadcast(floats ? e.min : static_cast<float>(e.lo)),
                          high = V::broadcast(floats ? e.max : static_cast<float>(e.hi));
  for (int r = 0; r < rows; ++r, sums += kVectors * V::kLanes) {
    typename V::Float value[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      value[v] = V::clamp(result<V>(t, r, v * V::kLanes, V::load_floats(sums + v * V::kLanes)), low, high);
    if (!floats) {
      V::template store_codes<kVectors>(row_of<uint8_t>(t, r), value, t.columns);
      continue;
    }
    for (int v = 0; v < kVectors && v * V::kLanes < t.columns; ++v)
      V::store(row_of<float>(t, r) + v * V::kLanes, value[v], t.columns - v * V::kLanes);
  }
}

}  // namespace
}  // namespace lowbit::kernels
