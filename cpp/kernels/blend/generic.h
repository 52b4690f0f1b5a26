// The loop over pixels, written once over Lanes of channels.
#pragma once

#include "kernels/blend/blend.h"
#include "simd/lanes.h"

namespace lowbit::kernels::blend {
namespace {

struct Floats {
  using T = float;
  template <class N>
  static Lanes get(const float* p, N n) {
    return load(p, n);
  }
  template <class N>
  static void put(float* p, const Lanes& a, N n) {
    store(p, a, n);
  }
};

struct Codes {
  using T = uint8_t;
  template <class N>
  static Lanes get(const uint8_t* p, N n) {
    return load_codes(p, 0, n);
  }
  template <class N>
  static void put(uint8_t* p, const Lanes& a, N n) {
    store_codes(p, clamp_codes(a, splat(0.0f), splat(255.0f)), 0, n);
  }
};

template <class V>
void blend_pixels(const BlendArgs& args) {
  using T = typename V::T;
  for (int64_t p = 0; p < args.pixels; ++p) {
    const int64_t* offsets = args.offsets + p * args.taps;
    const float* weights = args.weights + p * args.taps;
    const int taps = args.counts != nullptr ? args.counts[p] : args.taps;
    T* y = static_cast<T*>(args.y) + p * args.y_stride;
    for_lanes(args.channels, [&](int64_t c, auto n) {
      Lanes sum = splat(0.0f);
      for (int i = 0; i < args.rows; ++i) {
        const T* row = static_cast<const T*>(args.row[i]) + c;
        for (int k = 0; k < taps; ++k) {
          const Lanes product = splat(args.row_weights[i] * weights[k]) * V::get(row + offsets[k], n);
          sum = i + k == 0 ? product : sum + product;
        }
      }
      V::put(y + c, sum, n);
    });
  }
}

}  // namespace
}  // namespace lowbit::kernels::blend
