// The plain truth: spmm_i8.h and kernel.h as loops, over vectors of rows.
#include <cstring>

#include "base/numerics.h"
#include "kernels/finish.h"
#include "kernels/spmm_i8/spmm_i8.h"

namespace lowbit::kernels {
namespace {

constexpr int kLanes = info_of(Isa::scalar).lanes;

template <int kBlockRows>
int32_t dot(const uint8_t* x, const int32_t* offsets, int64_t step, int channel, const SpmmI8Blocks& blocks) {
  const int group = channel / kBlockRows, lane = channel % kBlockRows;
  int32_t acc = 0;
  for (int32_t i = blocks.groups[group].first; i < blocks.groups[group + 1].first; ++i) {
    const uint8_t* quad = x + (offsets != nullptr ? offsets[blocks.quads[i]] : blocks.quads[i] * step);
    for (int k = 0; k < 4; ++k)
      acc += int32_t{quad[k]} * int32_t{blocks.values[(int64_t{i} * kBlockRows + lane) * 4 + k]};
  }
  return acc;
}

template <int kBlockRows>
void product(const SpmmI8Tile& t) {
  const Epilogue& e = *t.epilogue;
  for (int row = 0; row < t.tiles * kLanes; ++row)
    for (int c = 0; c < 4; ++c) {
      const int32_t zero_point = t.row_zero_points != nullptr ? t.row_zero_points[row] : t.x_zero_point;
      const int32_t acc =
          dot<kBlockRows>(t.planes + 4 * row, t.offsets, 0, c, t.blocks) - zero_point * t.column_sums[c];
      float value = rescale(acc, t.multiplier[c], t.row_scales == nullptr ? nullptr : t.row_scales + row, t.bias[c]);
      if (t.residual != nullptr) value = add_residual(value, t.residual[4 * row + c], e.residual_multiplier);
      if (t.slope != nullptr) value = bend(value, t.slope[c], e.zero_point);
      if (e.output == DType::f32) {
        value = clamp_float(value, e.min, e.max);
        std::memcpy(t.y + c * t.y_plane + 4 * row, &value, sizeof value);
      } else {
        const uint8_t code = code_from_float(value, 0, e.lo, e.hi);
        t.y[4 * row + c] = e.table != nullptr ? e.table->codes[code] : code;
      }
    }
}

void to_planes(const uint8_t* const* rows, int64_t first, int64_t bytes, uint8_t* planes, int64_t plane_bytes) {
  for (int row = 0; row < kLanes; ++row)
    for (int64_t i = 0; i < (bytes + 3) / 4 * 4; ++i)
      planes[i / 4 * plane_bytes + 4 * row + i % 4] = i < bytes ? rows[row][first + i] : 0;
}

void from_planes(const uint8_t* planes, int64_t plane_bytes, uint8_t* const* rows, int64_t first, int64_t bytes) {
  for (int row = 0; row < kLanes; ++row)
    for (int64_t i = 0; rows[row] != nullptr && i < bytes; ++i)
      rows[row][first + i] = planes[i / 4 * plane_bytes + 4 * row + i % 4];
}

template <int kBlockRows>
void row(const SpmmI8Row& t, const OutputTile& tile) {
  for (int channel = 0; channel < tile.columns; ++channel) {
    const int32_t acc = dot<kBlockRows>(t.x, nullptr, 4, channel, t.blocks) - t.x_zero_point * t.column_sums[channel];
    finish(tile, 0, channel, static_cast<float>(acc));
  }
}

template <int kBlockRows>
consteval SpmmI8Kernel kernel(const char* name) {
  return {
      {name, Isa::scalar}, kBlockRows, 1, 1.1, false, {{product<kBlockRows>}, to_planes, from_planes, row<kBlockRows>}};
}

}  // namespace

extern constinit const SpmmI8Kernel spmm_i8_scalar_4x4 = kernel<4>("scalar_sparse4x4");
extern constinit const SpmmI8Kernel spmm_i8_scalar_1x4 = kernel<1>("scalar_sparse1x4");

}  // namespace lowbit::kernels
