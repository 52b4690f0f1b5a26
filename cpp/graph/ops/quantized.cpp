// The operators that read quantized weights: one each for linear layers, convolutions and tables. A row of the table of
// formats says which kernels read a weight.
#include "graph/ops/quantized.h"

#include <algorithm>

#include "graph/ops/integer.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

struct Format {
  int bits;
  bool halves, floats;                         // what its scales may be
  bool grouped, zero_points, offsets, values;  // what a weight may have
  Factory linear, conv, embedding, bag;        // null: no kernels

  bool fits(const Weight& weight) const {
    return weight.bits == bits && (weight.scale_type == DType::f16 ? halves : floats) &&
           (weight.group_size > 0) == grouped && (zero_points || weight.zero_points.bytes() == 0) &&
           (offsets || weight.offsets.bytes() == 0) && (values || weight.values.bytes() == 0);
  }
};

constexpr Format kFormats[] = {
    {8, false, true, false, false, false, false, make_linear_i8, make_conv_i8, make_embedding, make_embedding_bag},
    {8, true, true, true, false, true, false, make_linear_i4, nullptr, make_embedding, make_embedding_bag},
    {4, true, true, true, true, true, false, make_linear_i4, make_conv_i4, make_embedding, make_embedding_bag},
    {2, true, true, true, true, true, false, make_linear_i4, make_conv_i4, make_embedding, make_embedding_bag},
};

template <Factory Format::* operation>
std::unique_ptr<Op> by_format(const NodeInfo& node) {
  const Weight& weight = *node.weight(1);
  for (const Format& format : kFormats)
    if (format.fits(weight) && format.*operation != nullptr) return (format.*operation)(node);
  node.fail("no kernel reads its weight yet, " + describe(weight));
}

// By how x was quantized, too.
std::unique_ptr<Op> make_linear(const NodeInfo& node) {
  const Weight& weight = *node.weight(1);
  const auto fits = [&](const Format& format) { return format.linear != nullptr && format.fits(weight); };
  const bool groups = node.integer(kGroupSize, 0, kMaxGroupSize, 0) > 0;
  return groups && std::ranges::any_of(kFormats, fits) ? make_linear_s8(node) : by_format<&Format::linear>(node);
}

}  // namespace

const OpRows kQuantizedOps = {
    {"quantized_conv2d", by_format<&Format::conv>},
    {"quantized_conv3d", by_format<&Format::conv>},
    {"quantized_conv_transpose2d", by_format<&Format::conv>},
    {"quantized_conv_transpose3d", by_format<&Format::conv>},
    {"quantized_embedding", by_format<&Format::embedding>},
    {"quantized_embedding_bag", by_format<&Format::bag>},
    {"quantized_linear", make_linear},
};

}  // namespace lowbit::graph
