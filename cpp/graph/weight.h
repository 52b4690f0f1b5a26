// A quantized weight, whole: codes of few bits, and what they mean.
//
//   real = (code - zero point) * scale, or code * scale + offset, or values[code] * scale
#pragma once

#include <string>

#include "base/buffer.h"
#include "base/types.h"

namespace lowbit::graph {

struct Weight {
  Shape shape;             // [channels, inputs, ...window]
  int bits = 8;            // of a code: 1, 2, 3, 4 or 8
  int64_t group_size = 0;  // so many adjacent weights of a channel have one scale; 0: all of a channel
  // 8 bits: s8 in the order of the shape. Fewer: channel by channel in the order [...window, inputs], one code after
  // the other from a byte's lowest bits on, whole bytes a channel. Codes lie around zero, moved up by 2^(bits - 1),
  // unless there are zero points, offsets or values.
  Buffer codes;
  DType scale_type = DType::f32;   // or f16
  Buffer scales;                   // [channels][groups]
  Buffer zero_points;              // u8 of the scales' shape, or empty
  DType offset_type = DType::f16;  // or f32
  Buffer offsets;                  // of the scales' shape, or empty
  Buffer values;                   // f32 [2^bits], or empty: what each code stands for
  std::string pattern;             // of zeros, as blocks of output x input channels: "4x4", "unstructured", or ""

  int64_t channels() const { return shape[0]; }
  int64_t depth() const { return channels() == 0 ? 0 : shape.elements() / channels(); }
  int64_t groups() const { return group_size == 0 ? 1 : depth() / group_size; }
  size_t code_bytes() const;
  size_t bytes() const {
    return codes.bytes() + scales.bytes() + zero_points.bytes() + offsets.bytes() + values.bytes();
  }
};

// What is wrong with it; empty if it is sound: sizes fit each other, scales are positive, all numbers finite.
std::string problem_of(const Weight& weight);
// For messages: `4-bit codes with f16 scales in groups and zero points`.
std::string describe(const Weight& weight);

}  // namespace lowbit::graph
