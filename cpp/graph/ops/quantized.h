// What makes the operators of quantized.cpp, by the format of their weights.
#pragma once

#include "graph/op.h"

namespace lowbit::graph {

std::unique_ptr<Op> make_conv_i4(const NodeInfo& node);
std::unique_ptr<Op> make_conv_i8(const NodeInfo& node);
std::unique_ptr<Op> make_embedding(const NodeInfo& node);
std::unique_ptr<Op> make_embedding_bag(const NodeInfo& node);
std::unique_ptr<Op> make_linear_i4(const NodeInfo& node);
std::unique_ptr<Op> make_linear_i8(const NodeInfo& node);
std::unique_ptr<Op> make_linear_s8(const NodeInfo& node);

}  // namespace lowbit::graph
