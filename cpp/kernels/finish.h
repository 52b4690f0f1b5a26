// The epilogue of kernel.h for one result, as plain code: what the scalar rows of the integer matrix kernels end with.
#pragma once

#include "base/numerics.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

// sum: float(acc), exact or rounded once.
static inline void finish(const OutputTile& tile, int row, int channel, float sum) {
  const Epilogue& e = *tile.epilogue;
  float value = tile.row_scales == nullptr
                    ? std::fma(sum, tile.multiplier[channel], tile.bias[channel])
                    : std::fma(sum * tile.multiplier[channel], tile.row_scales[row], tile.bias[channel]);
  if (tile.residual != nullptr)
    value = add_residual(value, tile.residual[row][tile.channel + channel], e.residual_multiplier);
  if (tile.slope != nullptr) value = bend(value, tile.slope[channel], e.zero_point);
  if (e.output == DType::f32) {
    row_of<float>(tile, row)[channel] = clamp_float(value, e.min, e.max);
  } else {
    const uint8_t code = code_from_float(value, 0, e.lo, e.hi);
    row_of<uint8_t>(tile, row)[channel] = e.table != nullptr ? e.table->codes[code] : code;
  }
}

}  // namespace lowbit::kernels
