#include "kernels/gemm_i8/flipped.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/gemm_i8/matching.h"

namespace lowbit::kernels {
namespace {

constexpr int kChannels = 16;

using Codes = int8_t[4];  // of a channel in a quad

// Its sums, halved: [channel][half of the quad].
Quad quad_of(const Codes* codes, int number) {
  Quad quad{};
  quad.number = number;
  uint8_t sums[Quad::kSums];
  for (int i = 0; i < Quad::kSums; ++i) {
    int sum = 0;
    for (int k = i % 2 * 2; k < i % 2 * 2 + 2; ++k) sum += codes[i / 2][k] < 0 ? -codes[i / 2][k] : codes[i / 2][k] + 1;
    sums[i] = static_cast<uint8_t>(std::min((sum + 1) / 2, 127));
    quad.weight += sum * sum;
  }
  std::memcpy(quad.sums, sums, sizeof sums);
  return quad;
}

}  // namespace

void pack_flipped(const int8_t* w, int quad_bytes, GemmI8Weights& out) {
  const int64_t panels = (out.n + kChannels - 1) / kChannels;
  const int count = static_cast<int>(out.quads());
  out.panels = Buffer(static_cast<size_t>(panels * count) * kChannels * sizeof(Codes));
  out.places = Buffer(static_cast<size_t>(panels * count) * sizeof(int32_t));
  out.pairs = Buffer(static_cast<size_t>(panels) * sizeof(int32_t));
  auto* to = out.panels.as<Codes>();
  auto* place = out.places.as<int32_t>();
  std::vector<int8_t> codes;
  std::vector<Quad> all(count);
  for (int64_t panel = 0; panel < panels; ++panel) {
    gather_quads(w, out, panel, kChannels, codes);
    const auto* of_quads = reinterpret_cast<const Codes*>(codes.data());
    for (int i = 0; i < count; ++i) all[i] = quad_of(of_quads + i * kChannels, i);
    const auto put = [&](int number) {
      std::memcpy(to, of_quads + number * kChannels, kChannels * sizeof(Codes));
      to += kChannels;
      *place++ = quad_bytes * number;
    };
    std::vector<Pair> matches = matched(all, 1);
    if (8 * std::ssize(matches) > 5 * count) {  // less than three quarters are in pairs: as they come
      matches.resize(count);
      for (int i = 0; i < count; ++i) matches[i] = {i, -1};
    }
    int32_t& pairs = out.pairs.as<int32_t>()[panel];
    for (const Pair& pair : matches)
      if (pair.second >= 0) put(pair.first), put(pair.second), ++pairs;
    for (const Pair& pair : matches)
      if (pair.second < 0) put(pair.first);
  }
}

}  // namespace lowbit::kernels
