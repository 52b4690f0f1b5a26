#include "reader/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/half.h"

namespace lowbit::reader {
namespace {

constexpr int64_t kMostGroups = 2048, kMostShare = 128, kTrits = 5;

struct Pattern {
  std::string_view name;
  int64_t rows, columns;
};
constexpr std::array<Pattern, 6> kPatterns = {
    {{"32x4", 32, 4}, {"16x4", 16, 4}, {"8x4", 8, 4}, {"4x4", 4, 4}, {"1x4", 1, 4}, {"unstructured", 1, 1}}};

[[noreturn]] void fail(const std::string& reason) { throw Error(ErrorKind::graph, reason); }

std::string listed(std::span<const int64_t> sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

std::string_view numpy_name(DType type) {
  constexpr std::array<std::string_view, 8> names = {"float32", "float16", "bfloat16", "int64",
                                                     "int32",   "bool",    "uint8",    "int8"};
  return names[static_cast<size_t>(type)];
}

std::string described(const Array& array) { return std::string(numpy_name(array.dtype)) + " " + listed(array.shape); }

int64_t middle(int64_t bits) { return int64_t{1} << (bits - 1); }
int64_t bytes_of_row(int64_t depth, int64_t bits) { return (depth * bits + 7) / 8; }

int64_t depth_of(const std::vector<int64_t>& shape) {
  return shape.empty() ? 0 : elements_of(std::span(shape).subspan(1));
}

// Code number `at` of a packed row.
int code_at(const uint8_t* row, int64_t at, int64_t bits) {
  const int64_t first = at * bits;
  int code = row[first / 8] >> (first % 8);
  if (first % 8 + bits > 8) code |= row[first / 8 + 1] << (8 - first % 8);
  return code & ((1 << bits) - 1);
}

void put_code(uint8_t* row, int64_t at, int64_t bits, int code) {
  const int64_t first = at * bits;
  row[first / 8] |= code << (first % 8);
  if (first % 8 + bits > 8) row[first / 8 + 1] |= code >> (8 - first % 8);
}

int64_t check_packed(const Array& packed, const std::vector<int64_t>& shape, int64_t bytes_of_channel) {
  if (shape.size() < 2 || std::ranges::find(shape, 0) != shape.end())
    fail("packed codes are of a weight " + listed(shape) + ", must be of two axes or more, none of them 0");
  const std::vector<int64_t> expected = {shape[0], bytes_of_channel};
  if (packed.dtype != DType::u8 || packed.shape != expected)
    fail("packed codes are " + described(packed) + ", must be uint8 " + listed(expected));
  return depth_of(shape);
}

// Where the k-th code of a channel, its inputs innermost, lies in the order of the shape.
class Order {
 public:
  explicit Order(const std::vector<int64_t>& shape)
      : inputs_(shape.size() > 1 ? shape[1] : 1),
        window_(shape.size() > 2 ? elements_of(std::span(shape).subspan(2)) : 1) {}
  bool is_plain() const { return window_ == 1; }
  int64_t operator()(int64_t k) const { return k % inputs_ * window_ + k / inputs_; }

 private:
  int64_t inputs_, window_;
};

std::string problem_of_groups(int64_t size, int64_t depth, int64_t bits) {
  if (size == 0) return "";
  if (size < 0 || depth % size != 0 || (size % 8 != 0 && size != depth))
    return "group_size " + std::to_string(size) + " must divide " + std::to_string(depth) +
           ", and be a multiple of 8 unless it is the same";
  const int64_t most = bits == 8 ? kMostGroups / 2 : kMostGroups;
  if (depth / size > most) return std::to_string(depth / size) + " groups are more than " + std::to_string(most);
  const int64_t read = bits == 3 ? 4 : bits == 1 ? 2 : bits;
  if (bits < 8 && size >= (int64_t{1} << 31) / (255 * ((1 << read) - 1)))
    return "a group's codes could overflow a 32-bit sum";
  return "";
}

float number_at(const Array& array, int64_t at) {
  return array.dtype == DType::f16 ? float_from_half(array.data.as<const uint16_t>()[at])
                                   : array.data.as<const float>()[at];
}

template <class Test>
bool all_of(const Array& array, Test test) {
  for (int64_t i = 0, count = elements_of(array.shape); i < count; ++i)
    if (!test(number_at(array, i))) return false;
  return true;
}

bool is_float(const Array& array) { return array.dtype == DType::f32 || array.dtype == DType::f16; }

void problems_of_parts(const FileWeight& weight, std::vector<std::string>& found) {
  std::vector<int64_t> shape = {weight.shape[0]};
  if (weight.group_size != 0) shape.push_back(weight.depth() / weight.group_size);
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!is_float(weight.scales) || weight.scales.shape != shape)
    found.push_back("scales are " + described(weight.scales) + ", must be float16 or float32 " + listed(shape));
  else if (!all_of(weight.scales, [](float scale) { return std::isfinite(scale) && scale > 0; }))
    found.push_back("a scale is not finite and positive");
  if (weight.zero_points.has_value() + weight.offsets.has_value() + weight.values.has_value() > 1)
    found.push_back("zero points, offsets and values exclude each other");
  if (weight.zero_points) {
    const Array& part = *weight.zero_points;
    const auto* codes = part.data.as<const uint8_t>();
    if (part.dtype != DType::u8 || part.shape != shape)
      found.push_back("zero_points are " + described(part) + ", must be uint8 " + listed(shape));
    else if (std::any_of(codes, codes + part.data.bytes(), [&](int code) { return code >> weight.bits != 0; }))
      found.push_back("a zero point is above " + std::to_string((1 << weight.bits) - 1));
    if (weight.bits == 8) found.push_back("codes of 8 bits have no zero points");
  }
  if (weight.offsets) {
    if (!is_float(*weight.offsets) || weight.offsets->shape != shape)
      found.push_back("offsets are " + described(*weight.offsets) + ", must be float16 or float32 " + listed(shape));
    else if (!all_of(*weight.offsets, finite))
      found.push_back("offsets are not all finite");
  }
  if (weight.values) {
    const std::vector<int64_t> expected = {int64_t{1} << weight.bits};
    if (weight.values->dtype != DType::f32 || weight.values->shape != expected)
      found.push_back("values are " + described(*weight.values) + ", must be float32 " + listed(expected));
    else if (!all_of(*weight.values, finite))
      found.push_back("values are not all finite");
    if (weight.bits == 8) found.push_back("codes of 8 bits have no values");
  }
}

// A table whose values are whole numbers of eight bits is codes of these bits; 0: it is none.
int64_t bits_of_table(const FileWeight& weight) {
  const auto* values = weight.values->data.as<const float>();
  const auto [low, high] = std::minmax_element(values, values + (1 << weight.bits));
  for (int i = 0; i < 1 << weight.bits; ++i)
    if (std::rint(values[i]) != values[i]) return 0;
  if (*low < -128 || *high > 127) return 0;
  for (const int64_t bits : {2, 4})
    if (weight.group_size != 0 && *low >= -middle(bits) && *high < middle(bits)) return bits;
  return 8;
}

// A channel's codes, its inputs innermost; those of eight bits in the order of the shape.
class Rows {
 public:
  explicit Rows(const FileWeight& weight)
      : weight_(weight),
        order_(weight.shape),
        depth_(weight.depth()),
        down_(weight.bits < 8 && weight.is_signed() ? middle(weight.bits) : 0) {}

  int code(int64_t channel, int64_t k) const {
    if (weight_.bits == 8)
      return weight_.codes.data.as<const int8_t>()[channel * depth_ + (order_.is_plain() ? k : order_(k))];
    const auto* row = weight_.codes.data.as<const uint8_t>() + channel * bytes_of_row(depth_, weight_.bits);
    return code_at(row, k, weight_.bits) - static_cast<int>(down_);
  }
  const Order& order() const { return order_; }

 private:
  const FileWeight& weight_;
  Order order_;
  int64_t depth_, down_;
};

// Codes of new bits, of what `code` (of channel and k) says.
template <class Code>
Buffer packed_as(const FileWeight& weight, int64_t bits, int64_t up, Code code) {
  const int64_t channels = weight.channels(), depth = weight.depth(), row = bytes_of_row(depth, bits);
  Buffer made(static_cast<size_t>(channels * row));
  const Order order(weight.shape);
  for (int64_t channel = 0; channel < channels; ++channel) {
    auto* to = made.as<uint8_t>() + channel * row;
    for (int64_t k = 0; k < depth; ++k) {
      const int value = static_cast<int>(code(channel, k) + up);
      if (bits == 8)
        to[order.is_plain() ? k : order(k)] = static_cast<uint8_t>(value);
      else
        put_code(to, k, bits, value);
    }
  }
  return made;
}

Buffer taken(std::optional<Array>& part) { return part ? std::move(part->data) : Buffer(); }

void make_single(Array& scales) {
  if (scales.dtype == DType::f32) return;
  const int64_t count = elements_of(scales.shape);
  Buffer made(static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) made.as<float>()[i] = number_at(scales, i);
  scales.data = std::move(made), scales.dtype = DType::f32;
}

}  // namespace

int64_t FileWeight::depth() const { return depth_of(shape); }

Array checked_codes(Array packed, const std::vector<int64_t>& shape, int64_t bits) {
  const int64_t row = bytes_of_row(depth_of(shape), bits), depth = check_packed(packed, shape, row);
  const int beyond = static_cast<int>(row * 8 - depth * bits);
  const auto* bytes = packed.data.as<const uint8_t>();
  for (int64_t channel = 0; channel < shape[0] && beyond > 0; ++channel)
    if (bytes[(channel + 1) * row - 1] >> (8 - beyond) != 0)
      fail("a channel's last byte has codes beyond its depth, which must be zero");
  return packed;
}

Array codes_of_trits(const Array& packed, const std::vector<int64_t>& shape) {
  const int64_t row = (depth_of(shape) + kTrits - 1) / kTrits, depth = check_packed(packed, shape, row);
  const int64_t made_row = bytes_of_row(depth, 2);
  Array made{DType::u8, {shape[0], made_row}, Buffer(static_cast<size_t>(shape[0] * made_row))};
  for (int64_t channel = 0; channel < shape[0]; ++channel) {
    const auto* from = packed.data.as<const uint8_t>() + channel * row;
    auto* to = made.data.as<uint8_t>() + channel * made_row;
    for (int64_t i = 0; i < row; ++i) {
      if (from[i] >= 243) fail("a byte of ternary codes is above 242");
      for (int64_t k = i * kTrits, rest = from[i]; k < (i + 1) * kTrits; ++k, rest /= 3) {
        if (k < depth)
          put_code(to, k, 2, static_cast<int>(rest % 3 + 1));  // -1, moved up by 2
        else if (rest % 3 != 0)
          fail("a channel's last byte has digits beyond its depth, which must be zero");
      }
    }
  }
  return made;
}

Array codes_of_blocks(const Array& mask, const Array& values, const std::vector<int64_t>& shape,
                      const std::string& pattern) {
  const auto known = std::ranges::find(kPatterns, pattern, &Pattern::name);
  if (known == kPatterns.end())
    fail("the pattern " + quoted(pattern) + " is none of 32x4, 16x4, 8x4, 4x4, 1x4, unstructured");
  const auto [name, rows, columns] = *known;
  if (shape.size() < 2 || std::ranges::find(shape, 0) != shape.end() || shape[0] % rows != 0 || shape[1] % columns != 0)
    fail("the shape " + listed(shape) + " does not consist of " + pattern + " blocks");
  const int64_t size = rows * columns, elements = elements_of(shape), count = elements / size;
  if (mask.dtype != DType::u8 || mask.shape != std::vector<int64_t>{(count + 7) / 8})
    fail("the mask is " + described(mask) + ", must be uint8 [" + std::to_string((count + 7) / 8) + "]");
  const auto* bits = mask.data.as<const uint8_t>();
  if (count % 8 != 0 && bits[count / 8] >> (count % 8) != 0)
    fail("the mask has bits set beyond its " + std::to_string(count) + " blocks");
  int64_t kept = 0;
  for (size_t i = 0; i < mask.data.bytes(); ++i) kept += std::popcount(bits[i]);
  const std::vector<int64_t> expected = {kept, size};
  if (values.dtype != DType::s8 || values.shape != expected)
    fail("the values are " + described(values) + ", the mask keeps int8 " + listed(expected));
  if (elements > kMostShare * ((count + 7) / 8 + kept * size))
    fail(std::to_string((count + 7) / 8 + kept * size) + " bytes in " + pattern +
         " blocks stand for more than 128 codes each: take a finer pattern");
  const int64_t depth = depth_of(shape), each = depth / columns;
  const Order order(shape);
  Array made{DType::s8, shape, Buffer(static_cast<size_t>(elements))};
  auto* to = made.data.as<int8_t>();
  const auto* from = values.data.as<const int8_t>();
  for (int64_t block = 0; block < count; ++block) {
    if ((bits[block / 8] >> (block % 8) & 1) == 0) continue;
    if (std::all_of(from, from + size, [](int8_t code) { return code == 0; }))
      fail("the mask keeps a block whose values are all zero");
    for (int64_t i = 0; i < size; ++i) {
      const int64_t channel = block / each * rows + i / columns, k = block % each * columns + i % columns;
      to[channel * depth + order(k)] = *from++;
    }
  }
  return made;
}

std::vector<std::string> problems_of(const FileWeight& weight) {
  constexpr std::array<int64_t, 5> known = {1, 2, 3, 4, 8};
  if (std::ranges::find(known, weight.bits) == known.end())
    return {"bits " + std::to_string(weight.bits) + ": a code has 1, 2, 3, 4 or 8"};
  if (weight.bits == 8 && (weight.codes.dtype != DType::s8 || weight.codes.shape.empty()))
    return {"codes are " + std::string(numpy_name(weight.codes.dtype)) + " of rank " +
            std::to_string(weight.codes.shape.size()) + ", must be int8 of rank 1 or more"};
  const std::vector<int64_t>& shape = weight.shape;
  if ((weight.bits < 8 || weight.group_size != 0) && (shape.size() < 2 || std::ranges::find(shape, 0) != shape.end()))
    return {std::to_string(weight.bits) + "-bit codes have shape " + listed(shape) +
            ", must be [channels, depth, ...], none of them 0"};
  const int64_t depth = weight.depth();
  if (std::string problem = problem_of_groups(weight.group_size, depth, weight.bits); !problem.empty())
    return {std::move(problem)};
  std::vector<std::string> found;
  problems_of_parts(weight, found);
  const bool by_table = found.empty() && weight.values && bits_of_table(weight) == 8;
  if ((weight.bits == 8 || by_table) && depth >= (int64_t{1} << 31) / (128 * 255)) {
    const Rows rows(weight);
    for (int64_t channel = 0; channel < weight.channels(); ++channel) {
      int64_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const int code = rows.code(channel, k);
        sum += std::abs(by_table ? static_cast<int>(weight.values->data.as<const float>()[code]) : code);
      }
      if (255 * sum >= int64_t{1} << 31) {
        found.emplace_back("a channel's codes could overflow a 32-bit sum");
        break;
      }
    }
  }
  if (!weight.pattern.empty() && weight.bits != 8)
    found.push_back("sparsity '" + weight.pattern + "': only 8-bit codes are kept in blocks");
  if (found.empty() && weight.values)
    if (const int64_t bits = bits_of_table(weight); bits != 0)
      if (std::string problem = problem_of_groups(weight.group_size, depth, bits); !problem.empty())
        found.push_back(std::move(problem));
  return found;
}

graph::Weight as_read(FileWeight weight, bool as_is) {
  int64_t bits = as_is ? weight.bits : weight.bits == 3 ? 4 : weight.bits == 1 ? 2 : weight.bits;
  const int64_t table = weight.values && !as_is ? bits_of_table(weight) : 0;
  if (weight.values && !as_is) bits = table != 0 ? table : weight.bits;
  if (table != 0) {
    const Rows rows(weight);
    const auto* values = weight.values->data.as<const float>();
    weight.codes.data = packed_as(weight, bits, bits < 8 ? middle(bits) : 0, [&](int64_t channel, int64_t k) {
      return static_cast<int64_t>(values[rows.code(channel, k)]);
    });
    weight.values.reset();
    if (weight.group_size == 0) make_single(weight.scales);
  } else if (bits != weight.bits) {
    const Rows rows(weight);
    weight.codes.data = packed_as(weight, bits, weight.is_signed() ? middle(bits) : 0, [&](int64_t channel, int64_t k) {
      return static_cast<int64_t>(rows.code(channel, k));
    });
  }
  graph::Weight made;
  for (const int64_t size : weight.shape) made.shape.push_back(size);
  made.bits = static_cast<int>(bits), made.group_size = weight.group_size;
  made.codes = std::move(weight.codes.data);
  made.scale_type = weight.scales.dtype, made.scales = std::move(weight.scales.data);
  made.zero_points = taken(weight.zero_points);
  if (weight.offsets) made.offset_type = weight.offsets->dtype;
  made.offsets = taken(weight.offsets), made.values = taken(weight.values);
  made.pattern = std::move(weight.pattern);
  return made;
}

Buffer numbers_of(const FileWeight& weight) {
  const int64_t channels = weight.channels(), depth = weight.depth();
  const int64_t size = weight.group_size != 0 ? weight.group_size : std::max<int64_t>(depth, 1), groups = depth / size;
  Buffer made(static_cast<size_t>(channels * depth) * sizeof(float));
  const Rows rows(weight);
  for (int64_t channel = 0; channel < channels; ++channel) {
    auto* to = made.as<float>() + channel * depth;
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t group = channel * std::max<int64_t>(groups, 1) + k / size;
      const int code = rows.code(channel, k);
      float value = weight.values ? weight.values->data.as<const float>()[code] : static_cast<float>(code);
      if (weight.zero_points) value -= static_cast<float>(weight.zero_points->data.as<const uint8_t>()[group]);
      value *= number_at(weight.scales, group);
      if (weight.offsets) value += number_at(*weight.offsets, group);
      to[rows.order().is_plain() ? k : rows.order()(k)] = value;
    }
  }
  return made;
}

}  // namespace lowbit::reader
