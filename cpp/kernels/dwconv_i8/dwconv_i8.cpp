// The packer, and how a call splits into tasks.
#include "kernels/dwconv_i8/dwconv_i8.h"

#include <algorithm>

#include "kernels/dwconv_i8/layout.h"

namespace lowbit::kernels {

namespace {

Buffer column_sums_of(const int8_t* w, const DwconvShape& shape) {
  const int64_t taps = shape.kernel_h * shape.kernel_w;
  Buffer sums(static_cast<size_t>((shape.channels + 63) / 64 * 64) * sizeof(int32_t));
  for (int64_t c = 0; c < shape.channels; ++c)
    for (int64_t t = 0; t < taps; ++t) sums.as<int32_t>()[c] += w[c * taps + t];
  return sums;
}

void pack_plain(const DwconvI8Kernel& kernel, const int8_t* w, const DwconvShape& shape, DwconvI8Weights& out) {
  out.kernel = &kernel;
  out.shape = shape;
  out.column_sums = column_sums_of(w, shape);
  const int64_t bytes = shape.channels * shape.kernel_h * shape.kernel_w;
  out.packed = Buffer(static_cast<size_t>(bytes));
  std::copy_n(w, bytes, out.packed.as<int8_t>());
}

// Where byte k of an extra dword (layout.h) comes from: image row and kernel column.
struct Tap {
  int64_t row, column;
};
Tap extra_tap(int64_t stride, int64_t extra, int64_t k) {
  if (stride == 2) return {4, extra == 0 ? k : k == 2 ? 4 : -1};
  return {4 + k % 2, extra < 2 ? 2 * extra + k / 2 : k / 2 == 1 ? 4 : -1};
}

// The vectors of one kernel column and row group, or one extra: byte k of a channel's dword is value(channel, k).
// Returns where the next ones begin.
template <class T, class F>
T* pack_vectors(const DwconvLayout& layout, int64_t width, int64_t channels, T* packed, F value) {
  for (int64_t v = 0; v < layout.block; ++v) {
    T* dword = packed + (v % 16 / 4 * (layout.block / 4) + v / 16 * 4 + v % 4) * layout.group;
    for (int64_t k = 0; k < layout.group && v % width < channels; ++k) dword[k] = value(v % width, k);
  }
  return packed + layout.block * layout.group;
}

// T: the type in which a kernel multiplies, so that `group` weights fill a dword.
template <class T>
void pack_blocks(const DwconvI8Kernel& kernel, const int8_t* w, const DwconvShape& shape, DwconvI8Weights& out) {
  const DwconvLayout layout(shape, kernel.block, kernel.group);
  out.kernel = &kernel;
  out.shape = shape;
  out.column_sums = column_sums_of(w, shape);
  const int64_t walk_bytes = sizeof(T) == 2 ? DwconvWalk(shape).bytes : 0;
  out.packed = Buffer(static_cast<size_t>(layout.bytes() + walk_bytes));
  T* packed = out.packed.as<T>();
  const auto weight_at = [&](int64_t c, int64_t i, int64_t j) {
    const bool exists = i >= 0 && i < shape.kernel_h && j >= 0;
    return exists ? w[(c * shape.kernel_h + i) * shape.kernel_w + j] : int8_t{0};
  };
  for (int64_t b = 0; b < layout.blocks; ++b) {
    const int64_t channels = std::min(layout.block, shape.channels - b * layout.block);
    const int64_t width = layout.block / dwconv_parts(layout.block, channels);
    for (int64_t line = 0; line < layout.lines; ++line)
      for (int64_t j = 0; j < shape.kernel_w; ++j)
        for (int64_t g = 0; g < layout.groups; ++g)
          packed = pack_vectors(layout, width, channels, packed, [&](int64_t channel, int64_t k) {
            const int64_t i = g * layout.group + k - line * shape.stride_h;
            return weight_at(b * layout.block + channel, i, j);
          });
  }
  for (int64_t b = 0; b < layout.blocks; ++b) {
    const int64_t channels = std::min(layout.block, shape.channels - b * layout.block);
    const int64_t width = layout.block / dwconv_parts(layout.block, channels);
    for (int64_t line = 0; line < layout.extra_lines; ++line)
      for (int64_t extra = 0; extra < layout.extras; ++extra)
        packed = pack_vectors(layout, width, channels, packed, [&](int64_t channel, int64_t k) {
          const Tap tap = extra_tap(shape.stride_h, extra, k);
          return weight_at(b * layout.block + channel, tap.row - line, tap.column);
        });
  }
}

void pack_walk(const int8_t* w, const DwconvShape& shape, DwconvI8Weights& out) {
  const DwconvWalk layout(shape);
  if (!layout.exists) return;
  auto* packed = reinterpret_cast<int16_t*>(out.packed.as<int8_t>() + layout.first);
  for (int64_t c = 0; c < shape.channels; ++c)
    for (int64_t set = 0; set < layout.sets; ++set)
      for (int64_t j = 0; j < shape.kernel_w; ++j)
        for (int64_t i = 0; i < shape.kernel_h; ++i) {
          const int64_t row = i + set, vector = (set * shape.kernel_w + j) * layout.groups + row / 2;
          packed[c / 8 * layout.block_bytes / 2 + vector * 16 + c % 8 * 2 + row % 2] =
              w[(c * shape.kernel_h + i) * shape.kernel_w + j];
        }
}

}  // namespace

void DwconvI8Kernel::pack(const int8_t* w, const DwconvShape& shape, DwconvI8Weights& out) const {
  if (group == 0) return pack_plain(*this, w, shape, out);
  if (group == 2) {
    pack_blocks<int16_t>(*this, w, shape, out);
    return pack_walk(w, shape, out);
  }
  pack_blocks<int8_t>(*this, w, shape, out);
}

int64_t DwconvI8Kernel::tasks(const DwconvI8Args& args, int threads) {
  constexpr int64_t kOutputsPerTask = 32768;  // below this a second task costs more than it saves
  constexpr int64_t kMostWork = 1 << 28;      // of a task, so that a call can be ended between two
  const DwconvShape& shape = args.weights->shape;
  const int64_t outputs = args.grid.rows() * shape.channels;
  const int64_t long_tasks = outputs / std::max<int64_t>(kMostWork / (shape.kernel_h * shape.kernel_w), 1);
  return std::clamp<int64_t>(outputs / kOutputsPerTask, 1, std::max<int64_t>({threads, 1, long_tasks}));
}

}  // namespace lowbit::kernels
