// Puts quads, four k of a panel's channels, into pairs whose products may share 16 bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::kernels {
namespace {

// Codes [quad][channel][4] of a panel of w [n][taps][run], zero where there are none.
inline void gather_quads(const int8_t* w, const GemmI8Weights& weights, int64_t panel, int64_t channels,
                         std::vector<int8_t>& codes) {
  const int64_t taps = weights.panel_taps(), run = weights.panel_run();
  codes.assign(static_cast<size_t>(weights.quads() * channels * 4), 0);
  const int64_t first = panel * channels, count = std::min(weights.n - first, channels);
  w += first * taps * run;
  for (int64_t channel = 0; channel < count; ++channel) {
    int8_t* to = codes.data() + channel * 4;
    for (int64_t tap = 0; tap < taps; ++tap, w += run)
      for (int64_t k = 0; k < run; k += 4, to += channels * 4)
        std::memcpy(to, w + k, static_cast<size_t>(std::min<int64_t>(run - k, 4)));
  }
}

// Sums that must stay below 128 in a pair, a byte each, at most 127; and where one is too much by itself, 0x80.
struct Quad {
  static constexpr int kSums = 32, kWords = kSums / 8;
  uint64_t sums[kWords], beyond[kWords];
  int number, weight;
};

// How many more sums go beyond if these two are a pair.
inline int conflicts(const Quad& a, const Quad& b) {
  constexpr uint64_t kHigh = 0x8080808080808080;
  uint64_t count = 0;
  for (int i = 0; i < Quad::kWords; ++i) count += ((a.sums[i] + b.sums[i]) & kHigh & ~(a.beyond[i] | b.beyond[i])) >> 7;
  return static_cast<int>(count * 0x0101010101010101 >> 56);
}

// The numbers of two quads each; the second is -1 if there is none.
struct Pair {
  int first, second;
};

// Pairs with fewer conflicts than `limit`. The heaviest quads choose first, and take the heaviest partner that fits.
inline std::vector<Pair> matched(std::vector<Quad> quads, int limit) {
  constexpr int kTries = 256;  // partners that are looked at for a quad
  std::stable_sort(quads.begin(), quads.end(), [](const Quad& a, const Quad& b) { return a.weight > b.weight; });
  std::vector<Pair> pairs;
  std::vector<uint8_t> used(quads.size());
  for (size_t i = 0; i < quads.size(); ++i) {
    if (used[i] != 0) continue;
    size_t best = 0;
    int least = limit, tries = kTries;
    for (size_t j = i + 1; j < quads.size() && tries > 0 && least > 0; ++j) {
      if (used[j] != 0) continue;
      --tries;
      const int count = conflicts(quads[i], quads[j]);
      if (count < least) best = j, least = count;
    }
    if (best != 0) used[best] = 1;
    const int a = quads[i].number, b = best != 0 ? quads[best].number : -1;
    pairs.push_back(b < 0 ? Pair{a, b} : Pair{std::min(a, b), std::max(a, b)});
  }
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.first < b.first; });
  return pairs;
}

}  // namespace
}  // namespace lowbit::kernels
