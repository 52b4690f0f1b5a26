// Reorders a model's four-bit weights into a kernel's panels (gemm_i4.h).
#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "kernels/gemm_i4/tiles.h"

namespace lowbit::kernels {
namespace {

int code(const GemmI4Source& w, int64_t channel, int64_t k) {
  const uint8_t pair = w.codes[channel * ((w.k + 1) / 2) + k / 2];
  return k % 2 == 0 ? pair & 15 : pair >> 4;
}

int zero_point(const GemmI4Source& w, int64_t channel, int64_t group) {
  return w.zero_points == nullptr ? 8 : w.zero_points[channel * w.groups() + group];
}

// One channel's place in what stands before a group's codes.
void pack_head(const GemmI4Source& w, int64_t channel, int64_t group, int64_t nr, uint8_t* out) {
  std::memcpy(out + 2 * (channel % nr), w.scales + channel * w.groups() + group, 2);
  if (w.zero_points != nullptr) out[2 * nr + channel % nr] = static_cast<uint8_t>(zero_point(w, channel, group));
}

double group_offset(const GemmI4Source& w, int64_t channel, int64_t group) {
  const int64_t first = group * w.group_size, end = std::min(w.k, first + w.group_size);
  int64_t sum = 0;
  for (int64_t k = first; k < end; ++k) sum += code(w, channel, k) - zero_point(w, channel, group);
  return static_cast<double>(float_from_half(w.scales[channel * w.groups() + group])) * static_cast<double>(sum);
}

}  // namespace

void pack_gemm_i4(const GemmI4Kernel& kernel, const GemmI4Source& w, GemmI4Weights& out) {
  const int64_t nr = kernel.nr, padded = (w.n + nr - 1) / nr * nr;
  out.kernel = &kernel;
  out.n = w.n, out.k = w.k, out.run = w.run, out.group_size = w.group_size, out.affine = w.zero_points != nullptr;
  const GemmI4Depth depth{w.k, w.run, w.group_size, nullptr};
  const int64_t head = gemm_i4_head(nr, out.affine);
  int64_t panel = w.groups() * head;
  each_part(depth, [&](int64_t, int64_t, int64_t, int64_t length) { panel += (length + 7) / 8 * nr * 4; });
  out.panels = Buffer(static_cast<size_t>(padded / nr * panel));
  out.offsets = Buffer(static_cast<size_t>(padded) * sizeof(float));
  for (int64_t channel = 0; channel < w.n; ++channel) {
    const int64_t lane = channel % nr;
    uint8_t* at = out.panels.as<uint8_t>() + channel / nr * panel;
    double offset = 0;
    each_part(depth, [&](int64_t group, int64_t, int64_t k, int64_t length) {
      if (k == group * w.group_size) {
        pack_head(w, channel, group, nr, at);
        at += head;
        offset += group_offset(w, channel, group);
      }
      for (int64_t i = 0; i < length; ++i)
        at[(i / 8 * nr + lane) * 4 + i % 4] |= static_cast<uint8_t>(code(w, channel, k + i) << (i % 8 < 4 ? 0 : 4));
      at += (length + 7) / 8 * nr * 4;
    });
    out.offsets.as<float>()[channel] = static_cast<float>(offset);
  }
}

}  // namespace lowbit::kernels
