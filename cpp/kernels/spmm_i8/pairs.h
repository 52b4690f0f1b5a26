// Blocks in pairs, for kernels that add two blocks' products in 16 bits (SpmmI8Weights in spmm_i8.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lowbit::kernels {

// The blocks [rows][4] of one group of channels, as they are stored.
struct SpmmI8Group {
  static constexpr int kMaxRows = 4;
  struct Block {
    uint16_t quad;
    std::array<int8_t, kMaxRows * 4> values;
  };
  struct Rest {
    uint16_t quad;
    std::array<int8_t, 4> values;
  };
  int rows;
  std::vector<Block> blocks;          // in pairs, then alone
  size_t paired = 0;                  // how many of them are
  std::vector<Rest> rests[kMaxRows];  // of each channel

  size_t most_rests() const;
  void clear();
  void match();  // from blocks as they are to pairs, single blocks and rests that fit 16 bits
};

// Whether a block [rows][4] by itself does not fit.
bool is_split(const int8_t* block, int rows);

}  // namespace lowbit::kernels
