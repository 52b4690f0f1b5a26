// The micro-kernels of spmm_i8.h as templates over a vector type V: a dot product of quads, conversions, `transpose` of
// kLanes x kLanes dwords, and loads of parts of a vector. For ISA files only: everything has internal linkage.
#pragma once

#include "kernels/spmm_i8/spmm_i8.h"
#include "kernels/store.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

LOWBIT_INLINE int32_t quad_at(const void* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return quad;
}

// Four channels of results for one vector of rows, on their way from sums to a plane of codes or to four of floats.
template <class V>
LOWBIT_INLINE void store_planes(const SpmmI8Tile& t, const typename V::Int (&acc)[4], int at) {
  const Epilogue& e = *t.epilogue;
  typename V::Float value[4];
  LOWBIT_UNROLL
  for (int c = 0; c < 4; ++c) {
    const auto sum = V::to_float(acc[c]), multiplier = V::broadcast(t.multiplier[c]), bias = V::broadcast(t.bias[c]);
    value[c] = t.row_scales == nullptr ? V::fma(sum, multiplier, bias)
                                       : V::fma(V::multiply(sum, multiplier), V::load_floats(t.row_scales + at), bias);
  }
  if (t.residual != nullptr) {
    const auto codes = V::load(t.residual + 4 * at);
    value[0] = V::fma(V::to_float(V::template byte<0>(codes)), V::broadcast(e.residual_multiplier), value[0]);
    value[1] = V::fma(V::to_float(V::template byte<1>(codes)), V::broadcast(e.residual_multiplier), value[1]);
    value[2] = V::fma(V::to_float(V::template byte<2>(codes)), V::broadcast(e.residual_multiplier), value[2]);
    value[3] = V::fma(V::to_float(V::template byte<3>(codes)), V::broadcast(e.residual_multiplier), value[3]);
  }
  for (int c = 0; c < 4 && t.slope != nullptr; ++c)
    value[c] = V::bend(value[c], V::broadcast(t.slope[c]), V::broadcast(e.zero_point));
  uint8_t* y = t.y + 4 * at;
  if (e.output == DType::f32) {
    LOWBIT_UNROLL
    for (int c = 0; c < 4; ++c)
      V::store(reinterpret_cast<float*>(y + c * t.y_plane),
               V::clamp(value[c], V::broadcast(e.min), V::broadcast(e.max)), V::kLanes);
    return;
  }
  if (!e.bounded) {
    const auto lo = V::broadcast(static_cast<float>(e.lo)), hi = V::broadcast(static_cast<float>(e.hi));
    LOWBIT_UNROLL
    for (int c = 0; c < 4; ++c) value[c] = V::clamp(value[c], lo, hi);
  }
  const auto codes = V::clamp_codes(V::interleaved_codes(value), e.lo, e.hi);
  V::store(reinterpret_cast<int32_t*>(y), e.table != nullptr ? lookup(e.table->steps, codes) : codes);
}

template <class V, int kBlockRows, int kVectors>
void product(const SpmmI8Tile& t) {
  using Int = typename V::Int;
  for (int at = 0; at < t.tiles * kVectors * V::kLanes; at += kVectors * V::kLanes) {
    Int acc[kVectors][4];
    LOWBIT_UNROLL
    for (int c = 0; c < 4; ++c) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v)
        acc[v][c] = t.row_zero_points == nullptr
                        ? V::broadcast(-t.x_zero_point * t.column_sums[c])
                        : V::multiply(V::load(t.row_zero_points + at + v * V::kLanes), V::broadcast(-t.column_sums[c]));
    }
    const uint8_t* planes = t.planes + 4 * at;
    asm("" : "+r"(planes));  // or the compiler would add `at` in each turn
    LOWBIT_UNROLL
    for (int group = 0; group < 4 / kBlockRows; ++group) {
      const int8_t* w = t.values + int64_t{t.starts[group]} * kBlockRows * 4;
      for (const uint16_t *quad = t.quads + t.starts[group], *end = t.quads + t.starts[group + 1]; quad != end;
           ++quad, w += kBlockRows * 4) {
        const uint8_t* plane = planes + t.offsets[*quad];
        Int x[kVectors];
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) x[v] = V::load(plane + v * V::kLanes * 4);
        LOWBIT_UNROLL
        for (int c = 0; c < kBlockRows; ++c) {
          const Int quads = V::broadcast(quad_at(w + c * 4));
          LOWBIT_UNROLL
          for (int v = 0; v < kVectors; ++v) acc[v][group + c] = V::dot(acc[v][group + c], x[v], quads);
        }
      }
    }
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) store_planes<V>(t, acc[v], at + v * V::kLanes);
  }
}

// ------------------------------------------------------------------------------------------------------ transpositions

template <class V>
void to_planes(const uint8_t* const* rows, int64_t first, int64_t bytes, uint8_t* planes, int64_t plane_bytes) {
  typename V::Int m[V::kLanes];
  for (int64_t at = 0; at < bytes; at += V::kLanes * 4) {
    const auto count = static_cast<int>(bytes - at);
    LOWBIT_UNROLL
    for (int i = 0; i < V::kLanes; ++i) m[i] = V::load_bytes(rows[i] + first + at, count);
    V::transpose(m);
    uint8_t* to = planes + at / 4 * plane_bytes;
    if (count >= V::kLanes * 4) {
      LOWBIT_UNROLL
      for (int i = 0; i < V::kLanes; ++i) V::store(reinterpret_cast<int32_t*>(to + i * plane_bytes), m[i]);
    } else {
      for (int i = 0; 4 * i < count; ++i) V::store(reinterpret_cast<int32_t*>(to + i * plane_bytes), m[i]);
    }
  }
}

template <class V>
void from_planes(const uint8_t* planes, int64_t plane_bytes, uint8_t* const* rows, int64_t first, int64_t bytes) {
  typename V::Int m[V::kLanes];
  for (int64_t at = 0; at < bytes; at += V::kLanes * 4, planes += V::kLanes * plane_bytes) {
    const auto count = static_cast<int>(bytes - at);
    LOWBIT_UNROLL
    for (int i = 0; i < V::kLanes; ++i)
      m[i] = 4 * i < count ? V::load(planes + i * plane_bytes) : V::broadcast(int32_t{0});
    V::transpose(m);
    LOWBIT_UNROLL
    for (int i = 0; i < V::kLanes; ++i)
      if (rows[i] != nullptr) V::store_bytes(rows[i] + first + at, m[i], count);
  }
}

// ------------------------------------------------------------------------------------------------------------- one row

// Four channels' sums: with blocks of four, a vector holds kLanes / 4 of them.
template <class V, int kBlockRows>
LOWBIT_INLINE void row_sums(const SpmmI8Row& t, const int32_t* starts, int32_t* sums) {
  constexpr int kBlocks = V::kLanes / kBlockRows;
  LOWBIT_UNROLL
  for (int group = 0; group < 4 / kBlockRows; ++group) {
    typename V::Int acc = V::broadcast(int32_t{0});
    for (int32_t i = starts[group], end = starts[group + 1]; i < end; i += kBlocks) {
      const int count = end - i;
      const auto w = V::load_bytes(t.values + int64_t{i} * kBlockRows * 4, count * kBlockRows * 4);
      acc = V::dot(acc, V::template quads<kBlockRows>(t.x, t.quads + i, count), w);
    }
    if constexpr (kBlockRows == 4) {
      V::add_quarters(acc, sums);
    } else {
      sums[group] = V::add_lanes(acc);
    }
  }
}

template <class V, int kBlockRows>
void row(const SpmmI8Row& t, const OutputTile& panel) {
  constexpr int kVectors = V::kLanes == 16 ? 4 : 2, kChannels = kVectors * V::kLanes;
  OutputTile tile = panel;
  for (int first = 0; first < panel.columns; first += kChannels) {
    float sums[kChannels] = {};
    for (int c = first; c < first + kChannels && c < panel.columns; c += 4) {
      int32_t four[4];
      row_sums<V, kBlockRows>(t, t.starts + c / kBlockRows, four);
      for (int i = 0; i < 4; ++i)
        sums[c - first + i] = static_cast<float>(four[i] - t.x_zero_point * t.column_sums[c + i]);
    }
    tile.channel = panel.channel + first;
    tile.columns = panel.columns - first < kChannels ? panel.columns - first : kChannels;
    tile.multiplier = panel.multiplier + first, tile.bias = panel.bias + first;
    if (panel.slope != nullptr) tile.slope = panel.slope + first;
    store_any<V, kVectors>(tile, sums, 1);
    if (tile.epilogue->changes_codes()) change_codes<1, kChannels>(tile, 1);
  }
}

template <class V, int kBlockRows, int... kVectors>
constexpr SpmmI8Tiles tiles() {
  return {{product<V, kBlockRows, kVectors>...}, to_planes<V>, from_planes<V>, row<V, kBlockRows>};
}

}  // namespace
}  // namespace lowbit::kernels
