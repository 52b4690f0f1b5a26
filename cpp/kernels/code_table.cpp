#include "kernels/code_table.h"

namespace lowbit::kernels {

CodeTable::CodeTable(const uint8_t* table) {
  for (int i = 0; i < 256; ++i) {
    codes[i] = table[i];
    steps[i] = static_cast<uint8_t>(i % 128 < 16 ? table[i] : table[i] ^ table[i - 16]);
  }
}

}  // namespace lowbit::kernels
