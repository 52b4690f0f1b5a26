#include "kernels/gemm_i8/pairs.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/gemm_i8/matching.h"

namespace lowbit::kernels {
namespace {

constexpr int kChannels = GemmI8Windows::kChannels, kQuads = GemmI8Windows::kQuads;
constexpr int kMost = 128;   // that weights of one sign may sum to: 255 * 128 < 2^15
constexpr int kTries = 256;  // rests that are looked at for a window
constexpr int kNone = 1 << 30;

using Codes = int8_t[4];  // of a channel in a quad

// By how much the weights of one sign in a half go beyond, or what they sum to.
int sum_of(const Codes& codes, int half, bool negative) {
  int sum = 0;
  for (int i = 2 * half; i < 2 * half + 2; ++i) sum += std::max<int>(0, negative ? -codes[i] : codes[i]);
  return sum;
}

// Its sums: [channel][half of the quad][sign].
Quad quad_of(const Codes* codes, int number) {
  Quad quad{};
  quad.number = number;
  uint8_t sums[Quad::kSums], beyond[Quad::kSums];
  for (int c = 0, i = 0; c < kChannels; ++c) {
    for (int half = 0; half < 2; ++half) {
      for (int sign = 0; sign < 2; ++sign, ++i) {
        const int sum = sum_of(codes[c], half, sign != 0);
        sums[i] = static_cast<uint8_t>(std::min(sum, 127));
        beyond[i] = sum > kMost ? 0x80 : 0;
        quad.weight += sum * sum;
      }
    }
  }
  std::memcpy(quad.sums, sums, sizeof sums);
  std::memcpy(quad.beyond, beyond, sizeof beyond);
  return quad;
}

// What a channel adds to a quad beside the pair that holds it. It may be taken from either quad of the pair: which one
// is said when a window is found for it.
struct Rest {
  int quads[2];  // the same where there is no choice
  Codes codes[2];
  Codes* from[2];  // null: they are taken off already
  int last() const { return std::max(quads[0], quads[1]); }
};

// Moves up to `most` of the codes of one sign in a half from one quad to another.
int move(Codes& from, Codes& to, int half, bool negative, int most) {
  int moved = 0;
  for (int i = 2 * half; i < 2 * half + 2; ++i) {
    const int size = std::max<int>(0, negative ? -from[i] : from[i]);
    const int part = std::min({size, most - moved, 127}), change = negative ? -part : part;
    from[i] = static_cast<int8_t>(from[i] - change);
    to[i] = static_cast<int8_t>(to[i] + change);
    moved += part;
  }
  return moved;
}

using Excess = int[2][2];  // [half][sign]

// Takes from a quad's codes what is too much, as much as one rest may hold; whether there was any.
bool take(Codes& from, Codes& rest, Excess& excess) {
  bool any = false;
  for (int half = 0; half < 2; ++half) {
    for (int sign = 0; sign < 2; ++sign) {
      const int part = move(from, rest, half, sign != 0, std::min(excess[half][sign], kMost));
      excess[half][sign] -= part;
      any |= part > 0;
    }
  }
  return any;
}

// Appends what does not fit of a channel's two quads. If either quad alone can give all of that, one rest is enough,
// and its quad is left open.
void split(Codes* const (&codes)[2], const int (&numbers)[2], std::vector<Rest>& rests) {
  Excess excess{};
  int most = 0;
  for (int half = 0; half < 2; ++half) {
    for (int sign = 0; sign < 2; ++sign) {
      const int sum = sum_of(*codes[0], half, sign != 0) + sum_of(*codes[1], half, sign != 0);
      excess[half][sign] = std::max(0, sum - kMost);
      most = std::max(most, excess[half][sign]);
    }
  }
  if (most == 0) return;
  Rest rest{{numbers[0], numbers[1]}, {}, {codes[0], codes[1]}};
  bool alone[2];
  for (int i = 0; i < 2; ++i) {
    Codes copy;
    Excess left;
    std::memcpy(copy, *codes[i], sizeof copy);
    std::memcpy(left, excess, sizeof left);
    take(copy, rest.codes[i], left);
    alone[i] = std::all_of(&left[0][0], &left[0][0] + 4, [](int size) { return size == 0; });
  }
  if (alone[0] && alone[1]) return rests.push_back(rest);
  for (int i : {alone[0] ? 0 : 1, alone[0] ? 1 : 0}) {
    for (;;) {
      Rest part{{numbers[i], numbers[i]}, {}, {}};
      if (!take(*codes[i], part.codes[0], excess)) break;
      std::memcpy(part.codes[1], part.codes[0], sizeof(Codes));
      rests.push_back(part);
    }
  }
}

// A panel's rests, channel by channel. A window begins where a rest can wait no longer.
class Gatherer {
 public:
  Gatherer(std::vector<Rest> (&rests)[kChannels], int count) : rests_(rests), count_(count) {
    for (int c = 0; c < kChannels; ++c) {
      std::stable_sort(rests[c].begin(), rests[c].end(),
                       [](const Rest& a, const Rest& b) { return a.last() < b.last(); });
      used_[c].assign(rests[c].size(), 0);
    }
  }

  void gather(std::vector<GemmI8Windows>& out) {
    for (int first = next(); first != kNone;) {
      GemmI8Windows windows{};
      for (int i = 0; i < 2; ++i, first = next()) first != kNone ? fill(windows, i, first) : void();
      out.push_back(windows);
    }
  }

 private:
  int next() {
    int least = kNone;
    for (int c = 0; c < kChannels; ++c) {
      while (at_[c] < rests_[c].size() && used_[c][at_[c]] != 0) ++at_[c];
      if (at_[c] < rests_[c].size()) least = std::min(least, rests_[c][at_[c]].last());
    }
    return least;
  }

  // The window that begins with quad `first`, or ends with the row; each channel adds one rest if 16 bits hold it.
  void fill(GemmI8Windows& windows, int i, int first) {
    const int begin = std::min(first, count_ - kQuads);
    windows.places[i] = 4 * begin;
    for (int c = 0; c < kChannels; ++c) {
      const size_t end = std::min(rests_[c].size(), at_[c] + kTries);
      for (size_t r = at_[c]; r < end; ++r)
        if (used_[c][r] == 0 && add(rests_[c][r], begin, windows, i, c)) {
          used_[c][r] = 1;
          break;
        }
    }
  }

  static bool add(const Rest& rest, int begin, GemmI8Windows& windows, int i, int c) {
    for (int choice = 0; choice < 2; ++choice) {
      const int quad = rest.quads[choice] - begin;
      if (quad < 0 || quad >= kQuads || !fits(windows.weights[0][c], rest.codes[choice])) continue;
      windows.quads[i][c] = static_cast<uint8_t>(quad);
      std::memcpy(windows.weights[i][c], rest.codes[choice], sizeof(Codes));
      if (rest.from[choice] != nullptr)
        for (int k = 0; k < 4; ++k)
          (*rest.from[choice])[k] = static_cast<int8_t>((*rest.from[choice])[k] - rest.codes[choice][k]);
      return true;
    }
    return false;
  }

  static bool fits(const Codes& first, const Codes& second) {
    for (int half = 0; half < 2; ++half)
      for (bool negative : {false, true})
        if (sum_of(first, half, negative) + sum_of(second, half, negative) > kMost) return false;
    return true;
  }

  std::vector<Rest> (&rests_)[kChannels];
  std::vector<uint8_t> used_[kChannels];
  size_t at_[kChannels] = {};
  int count_;  // of quads
};

}  // namespace

void pack_pairs(const int8_t* w, GemmI8Weights& out) {
  const int count = static_cast<int>(out.quads());
  const int64_t panels = (out.n + kChannels - 1) / kChannels, pairs = (count + 1) / 2;
  out.panels = Buffer(static_cast<size_t>(panels * pairs * 2) * kChannels * sizeof(Codes));
  out.places = Buffer(static_cast<size_t>(panels * pairs * 2) * sizeof(int32_t));
  out.first_windows = Buffer(static_cast<size_t>(panels + 1) * sizeof(int64_t));
  auto* to = out.panels.as<Codes>();
  auto* place = out.places.as<int32_t>();
  std::vector<GemmI8Windows> windows;
  std::vector<int8_t> codes;
  std::vector<Quad> all(count);
  std::vector<Rest> rests[kChannels];
  for (int64_t panel = 0; panel < panels; ++panel) {
    gather_quads(w, out, panel, kChannels, codes);
    auto* of_quads = reinterpret_cast<Codes*>(codes.data());
    for (int i = 0; i < count; ++i) all[i] = quad_of(of_quads + i * kChannels, i);
    for (auto& list : rests) list.clear();
    const std::vector<Pair> matches = matched(all, kNone);
    Codes none[kChannels] = {};
    const auto quad_at = [&](int number) { return number < 0 ? none : of_quads + number * kChannels; };
    for (const Pair& pair : matches) {
      const int numbers[] = {pair.first, std::max(pair.second, 0)};
      for (int c = 0; c < kChannels; ++c) split({quad_at(pair.first) + c, quad_at(pair.second) + c}, numbers, rests[c]);
    }
    Gatherer(rests, count).gather(windows);
    for (const Pair& pair : matches) {
      for (int number : {pair.first, pair.second}) {
        std::memcpy(to, quad_at(number), kChannels * sizeof(Codes));
        to += kChannels;
        *place++ = 4 * std::max(number, 0);
      }
    }
    out.first_windows.as<int64_t>()[panel + 1] = std::ssize(windows);
  }
  out.windows = Buffer(windows.size() * sizeof(GemmI8Windows));
  std::copy(windows.begin(), windows.end(), out.windows.as<GemmI8Windows>());
}

}  // namespace lowbit::kernels
