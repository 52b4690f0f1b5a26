// The table, the packer and the choice of a row.
#include "kernels/dwconv_i8/dwconv_i8.h"

#include <algorithm>

#include "kernels/dwconv_i8/layout.h"

namespace lowbit::kernels {

void dwconv_i8_run_scalar(const DwconvI8Args&, int64_t task, int64_t tasks);
void dwconv_i8_run_avx2(const DwconvI8Args&, int64_t task, int64_t tasks);
void dwconv_i8_run_avx512vnni(const DwconvI8Args&, int64_t task, int64_t tasks);

namespace {

constexpr int64_t kOutputsPerTask = 32768;  // below this a second task costs more than it saves

bool supports_all(const DwconvShape&) { return true; }

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

// T: the type in which a kernel multiplies, so that `group` weights fill a dword.
template <class T>
void pack_blocks(const DwconvI8Kernel& kernel, const int8_t* w, const DwconvShape& shape, DwconvI8Weights& out) {
  const DwconvLayout layout(shape, kernel.block, kernel.group);
  out.kernel = &kernel;
  out.shape = shape;
  out.column_sums = column_sums_of(w, shape);
  out.packed = Buffer(static_cast<size_t>(layout.blocks * layout.block_bytes));
  T* packed = out.packed.as<T>();
  for (int64_t b = 0; b < layout.blocks; ++b) {
    const int64_t channels = std::min(layout.block, shape.channels - b * layout.block);
    const int64_t width = layout.block / dwconv_parts(layout.block, channels);
    for (int64_t line = 0; line < layout.lines; ++line)
      for (int64_t j = 0; j < shape.kernel_w; ++j)
        for (int64_t g = 0; g < layout.groups; ++g)
          for (int64_t v = 0; v < layout.block; ++v) {
            T* dword = packed + (v % 16 / 4 * (layout.block / 4) + v / 16 * 4 + v % 4) * layout.group;
            const int64_t c = b * layout.block + v % width;
            for (int64_t k = 0; k < layout.group && v % width < channels; ++k) {
              const int64_t i = g * layout.group + k - line * shape.stride_h;
              if (i >= 0 && i < shape.kernel_h) dword[k] = w[(c * shape.kernel_h + i) * shape.kernel_w + j];
            }
            if (v + 1 == layout.block) packed += layout.block * layout.group;
          }
  }
}

int64_t tasks_of(const DwconvI8Args& args, int threads) {
  const int64_t outputs = args.grid.rows() * args.weights->shape.channels;
  return std::clamp<int64_t>(outputs / kOutputsPerTask, 1, std::max(threads, 1));
}

constexpr DwconvI8Kernel kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    {"avx512vnni", Isa::avx512vnni, 64, 4, supports_all, pack_blocks<int8_t>, tasks_of, dwconv_i8_run_avx512vnni},
    {"avx2", Isa::avx2, 32, 2, supports_all, pack_blocks<int16_t>, tasks_of, dwconv_i8_run_avx2},
#endif
    {"scalar", Isa::scalar, 1, 0, supports_all, pack_plain, tasks_of, dwconv_i8_run_scalar},
};

}  // namespace

std::span<const DwconvI8Kernel> dwconv_i8_kernels() { return kTable; }

const DwconvI8Kernel& select_dwconv_i8(Isa cap, const DwconvShape& shape) {
  for (const DwconvI8Kernel& kernel : kTable)
    if (runs_on(kernel.isa, cap) && kernel.supports(shape)) return kernel;
  return kTable[std::size(kTable) - 1];
}

}  // namespace lowbit::kernels
