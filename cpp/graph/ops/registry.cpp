// Which operators there are.
#include <algorithm>

#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

constexpr const OpRows* kTables[] = {&kArithmeticOps,  &kAttentionOps,    &kCachedAttentionOps, &kConvF32Ops,
                                     &kElementwiseOps, &kEmbeddingBagOps, &kGridSampleOps,      &kIndexingOps,
                                     &kLinearOps,      &kMatmulOps,       &kNormalizeOps,       &kOrderingOps,
                                     &kPoolOps,        &kQuantizeOps,     &kQuantizedOps,       &kRecurrentOps,
                                     &kReduceOps,      &kResampleOps,     &kResizeOps,          &kShapeOps,
                                     &kSignOps,        &kSizesOps,        &kSoftmaxOps};

}  // namespace

Factory find_factory(std::string_view op) {
  for (const OpRows* table : kTables)
    for (const OpRow& row : *table)
      if (row.op == op) return row.make;
  return nullptr;
}

std::vector<std::string> registered_ops() {
  std::vector<std::string> names;
  for (const OpRows* table : kTables)
    for (const OpRow& row : *table) names.emplace_back(row.op);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace lowbit::graph
