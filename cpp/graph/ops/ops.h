// The factories behind registry.cpp: each validates its node and packs what it needs.
#pragma once

#include "graph/op.h"

namespace lowbit::graph {

std::unique_ptr<Op> make_adaptive_avg_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_adaptive_avg_pool2d_i8(const NodeInfo&);
std::unique_ptr<Op> make_add_i8(const NodeInfo&);
std::unique_ptr<Op> make_attention(const NodeInfo&);
std::unique_ptr<Op> make_avg_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_avg_pool2d_i8(const NodeInfo&);
std::unique_ptr<Op> make_binary(const NodeInfo&);
std::unique_ptr<Op> make_cast(const NodeInfo&);
std::unique_ptr<Op> make_clip(const NodeInfo&);
std::unique_ptr<Op> make_concat(const NodeInfo&);
std::unique_ptr<Op> make_conv(const NodeInfo&);
std::unique_ptr<Op> make_conv_i8(const NodeInfo&);
std::unique_ptr<Op> make_dequantize(const NodeInfo&);
std::unique_ptr<Op> make_dynamic_quantize(const NodeInfo&);
std::unique_ptr<Op> make_group_norm(const NodeInfo&);
std::unique_ptr<Op> make_layer_norm(const NodeInfo&);
std::unique_ptr<Op> make_linear(const NodeInfo&);
std::unique_ptr<Op> make_linear_i8(const NodeInfo&);
std::unique_ptr<Op> make_lookup(const NodeInfo&);
std::unique_ptr<Op> make_matmul(const NodeInfo&);
std::unique_ptr<Op> make_max_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_mean(const NodeInfo&);
std::unique_ptr<Op> make_pad(const NodeInfo&);
std::unique_ptr<Op> make_quantize(const NodeInfo&);
std::unique_ptr<Op> make_reshape(const NodeInfo&);
std::unique_ptr<Op> make_rms_norm(const NodeInfo&);
std::unique_ptr<Op> make_slice(const NodeInfo&);
std::unique_ptr<Op> make_softmax(const NodeInfo&);
std::unique_ptr<Op> make_transpose(const NodeInfo&);
std::unique_ptr<Op> make_unary(const NodeInfo&);

}  // namespace lowbit::graph
