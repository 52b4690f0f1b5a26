// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, accumulators in registers for
// one group of x, and so are the floats that they are added to where they fit; else these are in memory (a tile of them
// stays in L1). A policy V gives the vectors (simd/vectors256.h, vectors512.h) and
//
//   V::kBits                        of a weight's code
//   V::kHeld                        vectors of floats that registers hold beside as many accumulators
//   V::kBegins                      whether products begin the accumulators: then they are added to afterwards
//   V::products(x, k, count, w, acc)  acc = (if V::kBegins) or += the products of `count` steps of k, which start at
//                                   x[r] + k and at w
//   V::half(p), V::bytes(p)         a vector of half floats as floats, of bytes as int32
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_s8/gemm_s8.h"
#include "kernels/store.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// What weights have beside their codes.
enum class Beside { nothing, scales, zero_points, offsets };

template <class V, int kRows, int kVectors>
struct Tile {
  using Int = typename V::Int;
  using Float = typename V::Float;
  static constexpr int kColumns = kVectors * V::kLanes;
  static constexpr int64_t kStep = gemm_i4_step(V::kBits);
  static constexpr bool kHolds = kRows * kVectors <= V::kHeld;

  static void run(const GemmS8Tile& t) {
    if constexpr (V::kBits == 8) {
      if (t.kind == GemmI4Kind::no_scales) return run_apart<Beside::nothing>(t);
    } else {
      if (t.kind == GemmI4Kind::zero_points) return run_apart<Beside::zero_points>(t);
    }
    t.kind == GemmI4Kind::symmetric ? run_panels<Beside::scales>(t) : run_apart<Beside::offsets>(t);
  }

 private:
  // In functions of their own, so that registers are given out for each form alone.
  template <Beside kBeside>
  [[gnu::noinline]] static void run_apart(const GemmS8Tile& t) {
    run_panels<kBeside>(t);
  }

  template <Beside kBeside>
  static LOWBIT_INLINE void run_panels(const GemmS8Tile& first) {
    GemmS8Tile t = first;
    const bool usual = kHolds && t.x_group == kUsual && t.k % kUsual == 0;
    for (int64_t left = first.panels; left > 0; --left, t.next_panel(kColumns)) {
      alignas(64) float sums[kRows * kColumns];
      Totals totals{sums, {}};
      usual ? multiply<kBeside, kUsual>(t, totals) : multiply<kBeside, 0>(t, totals);
      if constexpr (kRows == 1) {
        store_row(t, totals);
      } else {
        totals.to_memory();
        store_any<V, kVectors>(t, sums, kRows);
      }
    }
  }

  // What the groups so far make.
  struct Totals {
    float* memory;
    Float held[kHolds ? kRows : 1][kVectors];

    LOWBIT_INLINE float* at(int r, int v) const { return memory + r * kColumns + v * V::kLanes; }
    LOWBIT_INLINE Float get(int r, int v) const { return kHolds ? held[kHolds ? r : 0][v] : V::load_floats(at(r, v)); }
    LOWBIT_INLINE void set(int r, int v, Float total) {
      kHolds ? void(held[kHolds ? r : 0][v] = total) : V::store(at(r, v), total, V::kLanes);
    }
    LOWBIT_INLINE void to_memory() const {
      if constexpr (kHolds) {
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r)
          LOWBIT_UNROLL for (int v = 0; v < kVectors; ++v) V::store(at(r, v), held[r][v], V::kLanes);
      }
    }
  };

  // A single row reads its weights as fast as memory gives them, and all that stands between two loads delays the
  // second: so the common case is known when this is compiled, groups of kGroup; 0: of any size.
  static constexpr int64_t kUsual = 32;

  template <Beside kBeside, int64_t kGroup>
  static LOWBIT_INLINE void multiply(const GemmS8Tile& t, Totals& totals) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      x[r] = t.x[r];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) totals.set(r, v, V::broadcast(0.0f));
    }
    const int64_t x_group = kGroup > 0 ? kGroup : t.x_group, steps = (x_group + kStep - 1) / kStep;
    const int64_t head_bytes = Tile::head_bytes<kBeside>(t), depth = t.k, group_size = t.group_size;
    const uint8_t* w = t.panel;
    for (int64_t k = 0, group = 0; k < depth;) {
      const uint8_t* head = w;
      w += head_bytes;
      for (const int64_t end = depth - k < group_size ? depth : k + group_size; k < end; k += x_group, ++group) {
        int64_t count = steps;
        if (kGroup == 0 && end - k < x_group) count = (end - k + kStep - 1) / kStep;
        Int acc[kRows][kVectors];
        if constexpr (V::kBegins) {
          V::products(x, k, count, w, acc);
          start<kBeside>(t, group, head, acc);
        } else {
          start<kBeside>(t, group, head, acc);
          V::products(x, k, count, w, acc);
        }
        w += count * kColumns * 4;
        add<kBeside>(t, group, acc, head, head_bytes, totals);
      }
    }
  }

  // gemm_i4_head without its table.
  template <Beside kBeside>
  static LOWBIT_INLINE int64_t head_bytes(const GemmS8Tile& t) {
    if (kBeside == Beside::nothing) return 0;
    if (kBeside == Beside::offsets) return (t.kind == GemmI4Kind::float_offsets ? 8 : 4) * kColumns;
    return 2 * kColumns + (kBeside == Beside::zero_points ? (kColumns + 63) / 64 * 64 : 0);
  }

  // acc (+)= what the sums of x say.
  template <Beside kBeside>
  static LOWBIT_INLINE void start(const GemmS8Tile& t, int64_t group, const uint8_t* head,
                                  Int (&acc)[kRows][kVectors]) {
    if constexpr (kBeside != Beside::zero_points) {
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Int sum = V::broadcast(t.starts[r][group]);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) put(acc[r][v], sum);
      }
      return;
    }
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int zero_points = V::bytes(head + 2 * kColumns + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) put(acc[r][v], V::multiply(zero_points, V::broadcast(t.starts[r][group])));
    }
  }
  static LOWBIT_INLINE void put(Int& acc, Int sum) {
    if constexpr (V::kBegins) {
      acc = V::add(acc, sum);
    } else {
      acc = sum;
    }
  }

  template <Beside kBeside>
  static LOWBIT_INLINE void add(const GemmS8Tile& t, int64_t group, const Int (&acc)[kRows][kVectors],
                                const uint8_t* head, int64_t head_bytes, Totals& totals) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Float scale = kBeside == Beside::nothing ? V::broadcast(0.0f) : numbers<kBeside>(t, head, v);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Float sum = V::to_float(acc[r][v]), of_x = V::broadcast(t.scales[r][group]), total = totals.get(r, v);
        totals.set(
            r, v, kBeside == Beside::nothing ? V::fma(sum, of_x, total) : V::fma(V::multiply(sum, of_x), scale, total));
      }
      if constexpr (kBeside == Beside::offsets) {
        const Float offset = numbers<kBeside>(t, head + head_bytes / 2, v);
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r)
          totals.set(r, v, V::fma(V::broadcast(t.shifts[r][group]), offset, totals.get(r, v)));
      }
    }
  }

  // A vector of scales, or of offsets.
  template <Beside kBeside>
  static LOWBIT_INLINE Float numbers(const GemmS8Tile& t, const uint8_t* from, int v) {
    if (kBeside == Beside::offsets && t.kind == GemmI4Kind::float_offsets)
      return V::load_floats(reinterpret_cast<const float*>(from) + v * V::kLanes);
    return V::half(from + v * V::kLanes * 2);
  }

  static LOWBIT_INLINE void store_row(const GemmS8Tile& t, const Totals& totals) {
    const Float low = V::broadcast(t.epilogue->min), high = V::broadcast(t.epilogue->max);
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * V::kLanes, count = t.columns - at;
      if (count <= 0) return;
      V::store(row_of<float>(t, 0) + at, V::clamp(result<V>(t, 0, at, totals.get(0, v)), low, high), count);
    }
  }
};

// The tiles of 1 .. kRows rows.
template <class V, int kRows, int kVectors>
consteval Tiles<GemmS8Tile> tiles() {
  Tiles<GemmS8Tile> result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1, kVectors>();
  result.of_rows[kRows - 1] = Tile<V, kRows, kVectors>::run;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
