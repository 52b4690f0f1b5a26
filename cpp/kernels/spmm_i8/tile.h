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

// Four channels' constants as vectors, for all tiles of a call: the compiler cannot know that results written in
// between leave their memory alone.
template <class V>
struct Channels {
  typename V::Int start[4];  // of the sums, unless rows have zero points
  typename V::Float multiplier[4], bias[4];

  explicit LOWBIT_INLINE Channels(const SpmmI8Tile& t) {
    LOWBIT_UNROLL
    for (int c = 0; c < 4; ++c) {
      start[c] = V::broadcast(-t.x_zero_point * t.column_sums[c]);
      multiplier[c] = V::broadcast(t.multiplier[c]), bias[c] = V::broadcast(t.bias[c]);
    }
  }
};

// Four channels of results for one vector of rows, on their way from sums to a plane of codes or to four of floats.
template <class V>
LOWBIT_INLINE void store_planes(const SpmmI8Tile& t, const Epilogue& e, const Channels<V>& channels,
                                const typename V::Int (&acc)[4], int at) {
  typename V::Float value[4];
  LOWBIT_UNROLL
  for (int c = 0; c < 4; ++c) {
    const auto sum = V::to_float(acc[c]);
    value[c] = t.row_scales == nullptr ? V::fma(sum, channels.multiplier[c], channels.bias[c])
                                       : V::fma(V::multiply(sum, channels.multiplier[c]),
                                                V::load_floats(t.row_scales + at), channels.bias[c]);
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

// A group's products with kVectors vectors of rows.
template <class V, int kBlockRows, int kVectors>
LOWBIT_INLINE void add_blocks(const SpmmI8Blocks& blocks, const int32_t* offsets, const uint8_t* planes, int group,
                              typename V::Int (&acc)[kVectors][4]) {
  using Int = typename V::Int;
  const auto x_at = [&](int quad, int v) { return V::load(planes + offsets[quad] + v * V::kLanes * 4); };
  const SpmmI8Span &span = blocks.groups[group], &next = blocks.groups[group + 1];
  const uint16_t *quad = blocks.quads + span.first, *end = blocks.quads + next.first;
  const int8_t* w = blocks.values + int64_t{span.first} * kBlockRows * 4;
  if constexpr (V::kPairs && kBlockRows == 4) {
    for (const uint16_t* pair_end = blocks.quads + span.pair_end; quad != pair_end;
         quad += 2, w += 2 * kBlockRows * 4) {
      Int x[2][kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) x[0][v] = x_at(quad[0], v), x[1][v] = x_at(quad[1], v);
      LOWBIT_UNROLL
      for (int c = 0; c < kBlockRows; ++c) {
        const Int first = V::broadcast(quad_at(w + c * 4)), second = V::broadcast(quad_at(w + (kBlockRows + c) * 4));
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v)
          acc[v][group + c] = V::dot_pair(acc[v][group + c], x[0][v], first, x[1][v], second);
      }
    }
  }
  for (; quad != end; ++quad, w += kBlockRows * 4) {
    Int x[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) x[v] = x_at(*quad, v);
    LOWBIT_UNROLL
    for (int c = 0; c < kBlockRows; ++c) {
      const Int quads = V::broadcast(quad_at(w + c * 4));
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[v][group + c] = V::dot(acc[v][group + c], x[v], quads);
    }
  }
  if constexpr (V::kPairs && kBlockRows == 4) {
    for (int64_t i = span.first_rest; i < next.first_rest; ++i) {
      LOWBIT_UNROLL
      for (int c = 0; c < kBlockRows; ++c) {
        const int64_t rest = i * kBlockRows + c;
        const Int quads = V::broadcast(quad_at(blocks.rest_values + rest * 4));
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v)
          acc[v][group + c] = V::dot(acc[v][group + c], x_at(blocks.rest_quads[rest], v), quads);
      }
    }
  }
}

template <class V, int kBlockRows, int kVectors>
void product(const SpmmI8Tile& tile) {
  using Int = typename V::Int;
  const SpmmI8Tile t = tile;
  const Epilogue e = *t.epilogue;
  const Channels<V> channels(t);
  for (int at = 0; at < t.tiles * kVectors * V::kLanes; at += kVectors * V::kLanes) {
    Int acc[kVectors][4];
    LOWBIT_UNROLL
    for (int c = 0; c < 4; ++c) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v)
        acc[v][c] = t.row_zero_points == nullptr
                        ? channels.start[c]
                        : V::multiply(V::load(t.row_zero_points + at + v * V::kLanes), V::broadcast(-t.column_sums[c]));
    }
    const uint8_t* planes = t.planes + 4 * at;
    asm("" : "+r"(planes));  // or the compiler would add `at` in each turn
    LOWBIT_UNROLL
    for (int group = 0; group < 4 / kBlockRows; ++group)
      add_blocks<V, kBlockRows, kVectors>(t.blocks, t.offsets, planes, group, acc);
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) store_planes<V>(t, e, channels, acc[v], at + v * V::kLanes);
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
LOWBIT_INLINE void row_sums(const uint8_t* x, const SpmmI8Blocks& blocks, int first, int32_t* sums) {
  constexpr int kBlocks = V::kLanes / kBlockRows;
  LOWBIT_UNROLL
  for (int group = 0; group < 4 / kBlockRows; ++group) {
    typename V::Int acc = V::broadcast(int32_t{0});
    const SpmmI8Span &span = blocks.groups[first + group], &next = blocks.groups[first + group + 1];
    for (int32_t i = span.first, end = next.first; i < end; i += kBlocks) {
      const int count = end - i;
      const auto w = V::load_bytes(blocks.values + int64_t{i} * kBlockRows * 4, count * kBlockRows * 4);
      acc = V::dot(acc, V::template quads<kBlockRows>(x, blocks.quads + i, count), w);
    }
    if constexpr (V::kPairs && kBlockRows == 4) {
      const int64_t end = int64_t{next.first_rest} * kBlockRows;
      for (int64_t i = int64_t{span.first_rest} * kBlockRows; i < end; i += V::kLanes) {
        const auto count = static_cast<int>(end - i);
        const auto w = V::load_bytes(blocks.rest_values + i * 4, count * 4);
        acc = V::dot(acc, V::template quads<1>(x, blocks.rest_quads + i, count), w);
      }
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
      row_sums<V, kBlockRows>(t.x, t.blocks, c / kBlockRows, four);
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
