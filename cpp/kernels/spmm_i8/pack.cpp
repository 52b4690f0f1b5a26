// Finds the blocks that are not zero in row-major weights [n][taps][run].
#include <algorithm>
#include <cstring>

#include "kernels/spmm_i8/tiles.h"

namespace lowbit::kernels {
namespace {

// Calls found(group of channels, quad, the block [rows][4]) for each block that is not zero; after(group) after each
// group.
template <class Found, class After>
void each_block(const int8_t* w, int64_t n, int64_t taps, int64_t run, int rows, Found&& found, After&& after) {
  const int64_t quads = (run + 3) / 4, padded = (n + 3) / 4 * 4;
  for (int64_t group = 0; group * rows < padded; ++group) {
    const int64_t count = std::clamp<int64_t>(n - group * rows, 0, rows);
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t quad = 0; quad < quads; ++quad) {
        uint32_t block[4] = {}, any = 0;
        const int64_t left = run - 4 * quad;
        for (int64_t c = 0; c < count; ++c) {
          const int8_t* from = w + ((group * rows + c) * taps + tap) * run + 4 * quad;
          left < 4 ? std::memcpy(block + c, from, static_cast<size_t>(left)) : std::memcpy(block + c, from, 4);
          any |= block[c];
        }
        if (any != 0) found(tap * quads + quad, block);
      }
    after(group);
  }
}

}  // namespace

int64_t blocks_of(const int8_t* w, int64_t n, int64_t taps, int64_t run, int rows) {
  int64_t count = 0;
  each_block(w, n, taps, run, rows, [&](int64_t, const uint32_t*) { ++count; }, [](int64_t) {});
  return count;
}

void pack_spmm_i8(const SpmmI8Kernel& kernel, const int8_t* w, int64_t n, int64_t taps, int64_t run,
                  SpmmI8Weights& out) {
  const int rows = kernel.block_rows;
  const int64_t padded = (n + 3) / 4 * 4;
  const auto count = static_cast<size_t>(blocks_of(w, n, taps, run, rows));
  const size_t block_bytes = static_cast<size_t>(rows) * 4;
  out.kernel = &kernel;
  out.n = n, out.taps = taps, out.run = run;
  out.starts = Buffer((static_cast<size_t>(padded / rows) + 1) * sizeof(int32_t));
  out.quads = Buffer(count * sizeof(uint16_t));
  out.values = Buffer(count * block_bytes);
  out.column_sums = Buffer(static_cast<size_t>(padded) * sizeof(int32_t));
  int32_t block = 0;
  out.starts.as<int32_t>()[0] = 0;
  each_block(
      w, n, taps, run, rows,
      [&](int64_t quad, const uint32_t* values) {
        out.quads.as<uint16_t>()[block] = static_cast<uint16_t>(quad);
        std::memcpy(out.values.as<int8_t>() + static_cast<size_t>(block) * block_bytes, values, block_bytes);
        ++block;
      },
      [&](int64_t group) { out.starts.as<int32_t>()[group + 1] = block; });
  for (int64_t c = 0; c < padded; ++c) {
    int32_t sum = 0;
    for (int64_t k = 0; c < n && k < taps * run; ++k) sum += w[c * taps * run + k];
    out.column_sums.as<int32_t>()[c] = sum;
  }
}

}  // namespace lowbit::kernels
