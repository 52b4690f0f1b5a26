// Quantized weights of a file: how codes lie in its tensors, what is wrong with them, and what the core is given.
#pragma once

#include <optional>

#include "graph/weight.h"
#include "reader/container.h"

namespace lowbit::reader {

// As in python/lowbit/graph/ir.py. Codes of less than eight bits are packed: u8 [channels, bytes of a channel], the
// inputs of a channel innermost; those of eight are s8 in the order of the shape.
struct FileWeight {
  std::vector<int64_t> shape;  // empty until codes are known to fit one
  int64_t bits = 8, group_size = 0;
  Array codes, scales;
  std::optional<Array> zero_points, offsets, values;
  std::string pattern;

  bool is_signed() const { return !zero_points && !offsets && !values; }
  int64_t channels() const { return shape.empty() ? 0 : shape[0]; }
  int64_t depth() const;
};

// Codes as a file has them become those of a FileWeight of that shape. Throws Error(graph) where they do not fit it.
Array checked_codes(Array packed, const std::vector<int64_t>& shape, int64_t bits);
Array codes_of_trits(const Array& packed, const std::vector<int64_t>& shape);
Array codes_of_blocks(const Array& mask, const Array& values, const std::vector<int64_t>& shape,
                      const std::string& pattern);

// What is wrong with a weight; none: it is sound.
std::vector<std::string> problems_of(const FileWeight& weight);

// The weight as kernels read it, the same numbers: three bits as four, one as two, values of a table as codes. as_is:
// its bits stay.
graph::Weight as_read(FileWeight weight, bool as_is);

// The float32 numbers that it stands for, each operation rounded once.
Buffer numbers_of(const FileWeight& weight);

}  // namespace lowbit::reader
