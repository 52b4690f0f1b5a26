// The loops, once for all ISAs. A policy V gives its vectors:
//
//   V::Int, V::Float       int32 and float lanes, as many     V::kBytes           of a vector
//   V::kDots, V::kFmas     accumulators: enough to hide the latency, and few enough to stay in registers
//   V::kProducts           of a dot()
//   V::operand(code)       activations as dot() wants them    V::weights(code)    the same code everywhere
//   V::floats(value)       the same everywhere                V::fma(a, b, c)     a * b + c
//   V::dot(acc, x, w)      as gemm_i8 does it on this ISA
//   V::load(p), V::differ(a, b)                              a xor b, on the bits of Int
//   V::hide(w), hide(a)    no instruction; the compiler may not assume that it is what it was
#pragma once

#include "kernels/peak/peak.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

template <class V>
uint32_t dot_loop(int64_t turns) {
  using Int = typename V::Int;
  const volatile int8_t activation = 3, weight = -2;  // volatile: constants would be folded
  const typename V::Operand x = V::operand(activation);
  Int w = V::weights(weight), acc[V::kDots];
  LOWBIT_UNROLL
  for (int i = 0; i < V::kDots; ++i) acc[i] = V::weights(0);
  for (int64_t turn = 0; turn < turns; ++turn) {
    LOWBIT_UNROLL
    for (int i = 0; i < V::kDots; ++i) {
      V::hide(w);  // else all accumulators would be one, and what they share would leave the loop
      acc[i] = V::dot(acc[i], x, w);
    }
  }
  uint32_t sums[V::kDots][V::kBytes / 4], sum = 0;
  __builtin_memcpy(sums, acc, sizeof sums);
  for (const auto& lanes : sums)
    for (uint32_t lane : lanes) sum += lane;
  return sum;
}

template <class V>
float fma_loop(int64_t turns) {
  using Float = typename V::Float;
  const volatile float one = 1.0f;
  const Float b = V::floats(one);
  Float a = b;
  Float acc[V::kFmas];
  LOWBIT_UNROLL
  for (int i = 0; i < V::kFmas; ++i) acc[i] = V::floats(0.0f);
  for (int64_t turn = 0; turn < turns; ++turn) {
    LOWBIT_UNROLL
    for (int i = 0; i < V::kFmas; ++i) {
      V::hide(a);  // else all accumulators would be one
      acc[i] = V::fma(a, b, acc[i]);
    }
  }
  float sums[V::kFmas][V::kBytes / 4], sum = 0.0f;
  __builtin_memcpy(sums, acc, sizeof sums);
  for (const auto& lanes : sums)
    for (float lane : lanes) sum += lane;
  return sum;
}

template <class V>
uint32_t read_loop(const std::byte* data, int64_t blocks, int64_t turns) {
  constexpr int kVectors = kPeakBlock / V::kBytes, kSums = kVectors < 8 ? kVectors : 8;
  typename V::Int acc[kSums];
  LOWBIT_UNROLL
  for (int i = 0; i < kSums; ++i) acc[i] = V::weights(0);
  const std::byte *at = data, *end = data + blocks * kPeakBlock;
  for (int64_t turn = 0; turn < turns; ++turn) {
    LOWBIT_UNROLL
    for (int i = 0; i < kVectors; ++i) acc[i % kSums] = V::differ(acc[i % kSums], V::load(at + i * V::kBytes));
    at += kPeakBlock;
    if (at == end) at = data;
  }
  uint32_t words[kSums][V::kBytes / 4], all = 0;
  __builtin_memcpy(words, acc, sizeof words);
  for (const auto& lanes : words)
    for (uint32_t lane : lanes) all ^= lane;
  return all;
}

template <class V>
consteval PeakKernel peak_row(Isa isa) {
  return {{info_of(isa).name, isa},
          2 * V::kDots * V::kProducts,
          2 * V::kFmas * V::kBytes / 4,
          dot_loop<V>,
          fma_loop<V>,
          read_loop<V>};
}

}  // namespace
}  // namespace lowbit::kernels
