#include "kernels/spmm_i8/pairs.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace lowbit::kernels {
namespace {

using Block = SpmmI8Group::Block;
constexpr int kBound = 128, kMaxRows = SpmmI8Group::kMaxRows;

// What shares 16 bits: of two channels' k each, by channel, the positive and the negative weights' sums.
using Loads = std::array<uint8_t, kMaxRows * 4>;

// The weights of a sign, 1 or -1, among two: their sum without the sign.
int load(const int8_t* two, int sign) { return std::max(two[0] * sign, 0) + std::max(two[1] * sign, 0); }

Loads loads_of(const Block& block) {
  Loads loads{};
  for (size_t i = 0; i < loads.size(); i += 2) {
    loads[i] = static_cast<uint8_t>(load(&block.values[i], 1));
    loads[i + 1] = static_cast<uint8_t>(load(&block.values[i], -1));
  }
  return loads;
}

// A bit for each channel whose sums do not fit.
uint8_t clashes(const Loads& a, const Loads& b) {
  Loads over;
  for (size_t i = 0; i < over.size(); ++i) over[i] = a[i] > static_cast<uint8_t>(kBound - b[i]);
  uint32_t channels[kMaxRows];
  std::memcpy(channels, over.data(), sizeof channels);
  unsigned mask = 0;
  for (unsigned c = 0; c < kMaxRows; ++c) mask |= static_cast<unsigned>(channels[c] != 0) << c;
  return static_cast<uint8_t>(mask);
}

// Takes `excess` off the weights of a sign among two, the larger first, and adds it to `rest`.
void take(int8_t* two, int sign, int excess, int8_t* rest) {
  const int larger = two[0] * sign >= two[1] * sign ? 0 : 1;
  for (int i : {larger, 1 - larger}) {
    const int taken = std::clamp(two[i] * sign, 0, std::max(excess, 0));
    two[i] = static_cast<int8_t>(two[i] - taken * sign);
    rest[i] = static_cast<int8_t>(rest[i] + taken * sign);
    excess -= taken;
  }
}

// Makes a channel of a block fit beside weights [4] of another (or zeros): what it takes off, if anything.
bool fit(const int8_t* other, int8_t* weights, int8_t* rest) {
  std::memset(rest, 0, 4);
  for (int lane = 0; lane < 4; lane += 2)
    for (int sign : {1, -1})
      take(weights + lane, sign, load(other + lane, sign) + load(weights + lane, sign) - kBound, rest + lane);
  return std::any_of(rest, rest + 4, [](int8_t value) { return value != 0; });
}

// Some blocks of a group: which of them to pair, so that no channel has more than some number of rests.
class Matching {
 public:
  static constexpr size_t kMost = 64;

  Matching(const Block* blocks, size_t count) : count_(count) {
    Loads loads[kMost];
    int sums[kMost];
    for (size_t i = 0; i < count; ++i) {
      loads[i] = loads_of(blocks[i]);
      sums[i] = std::accumulate(loads[i].begin(), loads[i].end(), 0);
    }
    std::iota(order_, order_ + count, uint8_t{0});
    std::stable_sort(order_, order_ + count, [&](uint8_t a, uint8_t b) { return sums[a] > sums[b]; });
    for (size_t i = 0; i < count; ++i)
      for (size_t j = 0; j < i; ++j) clashes_[i][j] = clashes_[j][i] = clashes(loads[i], loads[j]);
  }

  // Pairs each block, those that are hardest to pair first, with the largest that needs fewest rests beside `rests`.
  // Blocks in the order of their pairs, and how many have one.
  size_t pair(const size_t (&rests)[kMaxRows], size_t most, uint8_t* ordered) const {
    constexpr uint8_t kBits[] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};
    size_t left[kMaxRows], paired = 0, alone = count_, free = count_;
    for (int c = 0; c < kMaxRows; ++c) left[c] = most - rests[c];
    uint8_t list[kMost];
    std::copy(order_, order_ + count_, list);
    while (free > 0) {
      const uint8_t first = list[0];
      unsigned full = 0;
      for (unsigned c = 0; c < kMaxRows; ++c) full |= static_cast<unsigned>(left[c] == 0) << c;
      size_t best = 0;
      int fewest = kMaxRows + 1;
      for (size_t i = 1; i < free && fewest > 0; ++i) {
        const unsigned mask = clashes_[first][list[i]];
        const int needed = (mask & full) != 0 ? kMaxRows + 1 : kBits[mask];
        if (needed < fewest) best = i, fewest = needed;
      }
      if (best == 0) {
        ordered[--alone] = first;
      } else {
        const uint8_t second = list[best];
        for (unsigned c = 0; c < kMaxRows; ++c) left[c] -= clashes_[first][second] >> c & 1;
        ordered[paired++] = first, ordered[paired++] = second;
        std::copy(list + best + 1, list + free, list + best);
        --free;
      }
      std::copy(list + 1, list + free, list);
      --free;
    }
    return paired;
  }

 private:
  size_t count_;
  uint8_t order_[kMost], clashes_[kMost][kMost];
};

}  // namespace

bool is_split(const int8_t* block, int rows) {
  bool over = false;  // two of unlike signs always fit, as does their sum
  for (int i = 0; i < 4 * rows; i += 2) over |= std::abs(block[i] + block[i + 1]) > kBound;
  return over;
}

size_t SpmmI8Group::most_rests() const {
  size_t most = 0;
  for (const auto& list : rests) most = std::max(most, list.size());
  return most;
}

void SpmmI8Group::clear() {
  blocks.clear();
  paired = 0;
  for (auto& list : rests) list.clear();
}

// A rest costs as much as two pairs save.
void SpmmI8Group::match() {
  constexpr size_t kMoreRests = 4;
  const auto keep_rest = [&](int c, const int8_t* other, Block& block) {
    Rest rest{block.quad, {}};
    if (fit(other, &block.values[static_cast<size_t>(c) * 4], rest.values.data())) rests[c].push_back(rest);
  };
  constexpr int8_t kZeros[4] = {};
  for (Block& block : blocks)
    for (int c = 0; c < rows && is_split(block.values.data(), rows); ++c) keep_rest(c, kZeros, block);
  if (rows == 1) {  // a rest is a block
    for (const Rest& rest : rests[0]) {
      blocks.push_back({rest.quad, {}});
      std::copy(rest.values.begin(), rest.values.end(), blocks.back().values.begin());
    }
    return rests[0].clear();
  }
  std::vector<Block> pairs, singles;
  for (size_t begin = 0; begin < blocks.size(); begin += Matching::kMost) {
    const size_t count = std::min(Matching::kMost, blocks.size() - begin), least = most_rests();
    const Matching matching(&blocks[begin], count);
    size_t used[kMaxRows], best = 0;
    for (int c = 0; c < kMaxRows; ++c) used[c] = rests[c].size();
    uint8_t chosen[Matching::kMost];
    int64_t lowest = INT64_MAX;
    for (size_t most = least; most <= least + kMoreRests; ++most) {
      uint8_t ordered[Matching::kMost];
      const size_t in_pairs = matching.pair(used, most, ordered);
      const auto cost = static_cast<int64_t>(2 * most) - static_cast<int64_t>(in_pairs / 2);
      if (cost >= lowest) break;
      lowest = cost, best = in_pairs;
      std::copy(ordered, ordered + count, chosen);
    }
    for (size_t i = 0; i < count; ++i) (i < best ? pairs : singles).push_back(blocks[begin + chosen[i]]);
  }
  for (size_t i = 0; i < pairs.size(); i += 2)
    for (int c = 0; c < rows; ++c) keep_rest(c, &pairs[i].values[static_cast<size_t>(c) * 4], pairs[i + 1]);
  paired = pairs.size();
  blocks = std::move(pairs);
  blocks.insert(blocks.end(), singles.begin(), singles.end());
}

}  // namespace lowbit::kernels
