// The packer, and the driver that the kernels share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i4/gemm_i4.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kSums = 16 * 1024;  // of x over groups, held at once; 64 KB on the stack of the thread that uses them
static_assert(kSums >= GemmI4Args::kMaxGroups * GemmI4Tile::kMaxRows);

int64_t sums_of_row(const GemmI4Weights& weights) { return weights.groups() * weights.kernel->sums(weights.affine()); }

Cut cut(const GemmI4Args& args) {
  const GemmI4Weights& weights = *args.weights;
  const int64_t rows = std::clamp<int64_t>(Cut::kBlockBytes / std::max<int64_t>(1, weights.k), 1, kSums);
  return {args.grid.rows(),     weights.n,
          weights.kernel->mr,   weights.kernel->nr,
          sums_of_row(weights), std::min(kSums, rows * sums_of_row(weights))};
}

class Run : public ProductRun<Run, GemmI4Args, GemmI4Tile> {
 public:
  explicit Run(const GemmI4Args& args)
      : ProductRun(args, cut(args), args.weights->kernel->tiles),
        weights_(*args.weights),
        panel_bytes_(static_cast<int64_t>(weights_.panels.bytes()) / cut_.panels) {
    tile_.depth = {weights_.k, weights_.run, weights_.group_size, args.taps.data()};
    tile_.kind = weights_.kind;
    if (args.x_zero_points == nullptr) std::fill_n(zero_points_, Cut::kBlockRows, args.x_zero_point);
  }

  void begin_rows(int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      int32_t* sums = sums_ + row * sums_of_row(weights_);
      weights_.kernel->group_sums(rows_.x[row], tile_.depth, weights_.affine(), sums);
      row_sums_[row] = sums;
    }
  }

  void begin_panel(int64_t panel, int64_t panels) {
    tile_.panels = panels;
    tile_.panel_bytes = panel_bytes_;
    tile_.channels = weights_.n - tile_.channel;
    tile_.panel = weights_.panels.as<uint8_t>() + panel * panel_bytes_;
    tile_.offsets = weights_.offsets.as<float>() + tile_.channel;
  }

  void begin_tile(int64_t at) {
    tile_.group_sums = row_sums_ + at;
    tile_.zero_points = zero_points_ + at;
  }

 private:
  const GemmI4Weights& weights_;
  const int64_t panel_bytes_;
  const int32_t* row_sums_[Cut::kBlockRows];
  int32_t sums_[kSums];
};

int code(const GemmI4Source& w, int64_t channel, int64_t k) {
  if (w.bits == 8) return w.codes[channel * w.k + k] ^ 0x80;
  const int64_t places = 8 / w.bits;
  return w.codes[channel * ((w.k + places - 1) / places) + k / places] >> (k % places * w.bits) & highest_code(w.bits);
}

// Four bytes of a row's codes: a step of them, the first in the lowest bits.
uint32_t step_at(const GemmI4Source& w, int64_t channel, int64_t k) {
  const int64_t places = 8 / w.bits;
  uint32_t step;
  std::memcpy(&step, w.codes + channel * ((w.k + places - 1) / places) + k / places, sizeof step);
  return step;
}

bool is_whole_step(const GemmI4Source& w, int64_t k, int64_t end) {
  return k * w.bits % 8 == 0 && k + gemm_i4_step(w.bits) <= end;
}

// A step's codes from the order of rows into that of panels, where byte j has those of k = j, 4 + j, ...
uint32_t in_panel_order(uint32_t step, int bits) {
  if (bits == 8) return step ^ 0x80808080u;
  if (bits == 4) {  // the halves, nibble by nibble in turn
    const auto spread = [](uint32_t half) {
      half = (half | half << 8) & 0x00ff00ffu;
      return (half | half << 4) & 0x0f0f0f0fu;
    };
    return spread(step & 0xffffu) | spread(step >> 16) << 4;
  }
  uint32_t swapped = (step >> 6 ^ step) & 0x00cc00ccu;  // four by four, transposed
  step ^= swapped ^ swapped << 6;
  swapped = (step >> 12 ^ step) & 0x0000f0f0u;
  return step ^ swapped ^ swapped << 12;
}

int zero_point(const GemmI4Source& w, int64_t channel, int64_t group) {
  if (w.offsets != nullptr) return 0;
  return w.zero_points == nullptr ? middle_code(w.bits) : w.zero_points[channel * w.groups() + group];
}

GemmI4Kind kind_of(const GemmI4Source& w) {
  if (w.scales == nullptr) return GemmI4Kind::no_scales;
  if (w.offsets != nullptr) return w.wide ? GemmI4Kind::float_offsets : GemmI4Kind::half_offsets;
  return w.zero_points == nullptr ? GemmI4Kind::symmetric : GemmI4Kind::zero_points;
}

// One channel's place in what stands before a group's codes.
void pack_head(const GemmI4Source& w, int64_t channel, int64_t group, int64_t nr, uint8_t* out) {
  const int64_t from = channel * w.groups() + group, to = channel % nr, size = w.wide ? 4 : 2;
  const auto put = [&](const void* numbers, uint8_t* at) {
    std::memcpy(at + size * to, static_cast<const uint8_t*>(numbers) + size * from, static_cast<size_t>(size));
  };
  if (w.scales != nullptr) put(w.scales, out);
  if (w.offsets != nullptr) put(w.offsets, out + size * nr);
  if (w.zero_points != nullptr) out[2 * nr + to] = w.zero_points[from];
}

double number(const GemmI4Source& w, const void* numbers, int64_t place) {
  return w.wide ? static_cast<const float*>(numbers)[place]
                : float_from_half(static_cast<const uint16_t*>(numbers)[place]);
}

// Adds a group's share to a channel's offset.
void add_offset(const GemmI4Source& w, int64_t channel, int64_t group, double& offset) {
  const int64_t first = group * w.group_size, end = std::min(w.k, first + w.group_size);
  int64_t sum = 0;
  for (int64_t k = first; k < end; ++k) sum += code(w, channel, k) - zero_point(w, channel, group);
  const int64_t place = channel * w.groups() + group;
  offset += number(w, w.scales, place) * static_cast<double>(sum);
  if (w.offsets != nullptr) offset += number(w, w.offsets, place) * static_cast<double>(end - first);
}

}  // namespace

void pack_panels(const GemmI4Source& w, int nr, bool complements, GemmI4Panels& out) {
  const int64_t padded = (w.n + nr - 1) / nr * nr;
  out.n = w.n, out.k = w.k, out.run = w.run, out.group_size = w.group_size, out.kind = kind_of(w);
  const GemmI4Depth depth{w.k, w.run, w.group_size, nullptr};
  const int64_t head = gemm_i4_head(nr, out.kind), step = gemm_i4_step(w.bits);
  const uint32_t places = w.bits == 4 ? 0xf0f0f0f0u : 0xccccccccu;  // of a step that a kernel complements
  int64_t panel = w.groups() * head;
  each_part(depth, [&](int64_t, int64_t, int64_t, int64_t length) { panel += (length + step - 1) / step * nr * 4; });
  out.panels = Buffer(static_cast<size_t>(padded / nr * panel));
  for (int64_t channel = 0; channel < w.n; ++channel) {
    const int64_t lane = channel % nr;
    uint8_t* at = out.panels.as<uint8_t>() + channel / nr * panel;
    each_part(depth, [&](int64_t group, int64_t, int64_t k, int64_t length) {
      if (k == group * w.group_size) {
        pack_head(w, channel, group, nr, at);
        at += head;
      }
      int64_t i = 0;
      for (; is_whole_step(w, k + i, k + length); i += step) {
        const uint32_t codes = in_panel_order(step_at(w, channel, k + i), w.bits) ^ (complements ? places : 0);
        std::memcpy(at + (i / step * nr + lane) * 4, &codes, sizeof codes);
      }
      for (; i < length; ++i) {
        const int q = code(w, channel, k + i);
        const int value = i % 8 >= 4 && complements ? highest_code(w.bits) - q : q;
        at[(i / step * nr + lane) * 4 + i % 4] |= static_cast<uint8_t>(value << (i % step / 4 * w.bits));
      }
      at += (length + step - 1) / step * nr * 4;
    });
  }
}

void unpack_row(const GemmI4Panels& w, int bits, int nr, bool complements, int64_t channel, const GemmI4Row& out) {
  const int64_t lane = channel % nr, step = gemm_i4_step(bits), places = 8 / bits;
  const uint8_t* at =
      w.panels.as<const uint8_t>() + channel / nr * (static_cast<int64_t>(w.panels.bytes()) / ((w.n + nr - 1) / nr));
  const auto half = [&](const uint8_t* from) {
    uint16_t bits_of;
    std::memcpy(&bits_of, from + 2 * lane, sizeof bits_of);
    return bits_of;
  };
  each_part({w.k, w.run, w.group_size, nullptr}, [&](int64_t group, int64_t, int64_t k, int64_t length) {
    if (k == group * w.group_size) {
      if (out.scales != nullptr) out.scales[group] = half(at);
      if (out.offsets != nullptr) out.offsets[group] = half(at + 2 * nr);
      if (out.zero_points != nullptr) out.zero_points[group] = at[2 * nr + lane];
      at += gemm_i4_head(nr, w.kind);
    }
    for (int64_t i = 0; i < length; ++i) {
      const int value = at[(i / step * nr + lane) * 4 + i % 4] >> (i % step / 4 * bits) & ((1 << bits) - 1);
      const int q = i % 8 >= 4 && complements ? highest_code(bits) - value : value;
      out.codes[(k + i) / places] |= static_cast<uint8_t>((bits == 8 ? q ^ 0x80 : q) << ((k + i) % places * bits));
    }
    at += (length + step - 1) / step * nr * 4;
  });
}

void GemmI4Kernel::pack(const GemmI4Source& w, GemmI4Weights& out) const {
  pack_panels(w, nr, complements, out);
  out.kernel = this;
  out.offsets = Buffer(static_cast<size_t>((w.n + nr - 1) / nr * nr) * sizeof(float));
  for (int64_t channel = 0; channel < w.n; ++channel) {
    double offset = 0;
    for (int64_t group = 0; group < w.groups(); ++group) add_offset(w, channel, group, offset);
    out.offsets.as<float>()[channel] = static_cast<float>(offset);
  }
}

int64_t GemmI4Kernel::tasks(const GemmI4Args& args, int threads) {
  const int64_t work = args.grid.rows() * args.weights->n * args.weights->k;
  return cut(args).tasks(threads, work, args.weights->panels.bytes());
}

void GemmI4Kernel::run(const GemmI4Args& args, int64_t task, int64_t tasks) { Run(args).task(task, tasks); }

}  // namespace lowbit::kernels
