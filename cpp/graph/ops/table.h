// What operators that read rows of a table in codes share.
#pragma once

#include <algorithm>

#include "graph/op.h"
#include "kernels/gather/gather.h"

namespace lowbit::graph {

// A weight [rows, width] as its kernels take it, in its own memory.
inline kernels::GatherTable table_of(const Weight& weight) {
  const int64_t n = weight.shape[0], k = weight.shape[1];
  return {.bits = weight.bits,
          .codes = weight.codes.as<uint8_t>(),
          .scales = weight.scales.as<uint8_t>(),
          .zero_points = weight.zero_points.bytes() > 0 ? weight.zero_points.as<uint8_t>() : nullptr,
          .n = n,
          .k = k,
          .group_size = weight.group_size > 0 ? weight.group_size : std::max<int64_t>(k, 1),
          .wide = weight.scale_type == DType::f32,
          .offsets = weight.offsets.bytes() > 0 ? weight.offsets.as<uint8_t>() : nullptr,
          .wide_offsets = weight.offset_type == DType::f32};
}

// What a row takes, scales included.
inline double row_bytes(const kernels::GatherTable& table) {
  return static_cast<double>(table.row_bytes + table.groups * (table.wide ? 4 : 2));
}

}  // namespace lowbit::graph
