// Each file of operators ends with a table of those it has. A new file's table is named here and in registry.cpp.
#pragma once

#include <initializer_list>

#include "graph/op.h"

namespace lowbit::graph {

struct OpRow {
  std::string_view op;
  Factory make;
};
using OpRows = std::initializer_list<OpRow>;

// Of an operator whose constructor validates the node.
template <class T, auto... arguments>
std::unique_ptr<Op> make(const NodeInfo& node) {
  return std::make_unique<T>(node, arguments...);
}

extern const OpRows kArithmeticOps, kAttentionOps, kCachedAttentionOps, kConvF32Ops, kElementwiseOps, kEmbeddingBagOps,
    kGridSampleOps, kIndexingOps, kLinearOps, kMatmulOps, kNormalizeOps, kOrderingOps, kPoolOps, kQuantizeOps,
    kQuantizedOps, kRecurrentOps, kReduceOps, kResampleOps, kResizeOps, kShapeOps, kSignOps, kSizesOps, kSoftmaxOps;

// Whether these are recurrent layers, one forward and one backward.
bool are_directions(const Op& first, const Op& second);
// One operator of two such. inputs, outputs: how many the first has; those of the second lie behind them.
std::unique_ptr<Op> both_directions(std::unique_ptr<Op> first, std::unique_ptr<Op> second, size_t inputs,
                                    size_t outputs);

}  // namespace lowbit::graph
