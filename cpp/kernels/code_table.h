// A function from codes to codes, ready for epilogues: as 256 codes, and as what simd/x86.h looks up in registers.
#pragma once

#include <cstdint>

namespace lowbit::kernels {

struct CodeTable {
  uint8_t codes[256];
  alignas(64) uint8_t steps[256];  // the differences (xor) from sixteenth to sixteenth, in each half

  explicit CodeTable(const uint8_t* table);  // [256]
};

}  // namespace lowbit::kernels
