// The factories behind registry.cpp: each validates its node and packs what it needs.
#pragma once

#include "graph/op.h"

namespace lowbit::graph {

std::unique_ptr<Op> make_adaptive_avg_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_adaptive_avg_pool2d_i8(const NodeInfo&);
std::unique_ptr<Op> make_adaptive_max_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_adaptive_max_pool2d_with_indices(const NodeInfo&);
std::unique_ptr<Op> make_arange(const NodeInfo&);
std::unique_ptr<Op> make_argmax(const NodeInfo&);
std::unique_ptr<Op> make_arithmetic(const NodeInfo&);
std::unique_ptr<Op> make_attention(const NodeInfo&);
std::unique_ptr<Op> make_avg_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_avg_pool2d_i8(const NodeInfo&);
std::unique_ptr<Op> make_cast(const NodeInfo&);
std::unique_ptr<Op> make_clip(const NodeInfo&);
std::unique_ptr<Op> make_compare(const NodeInfo&);
std::unique_ptr<Op> make_concat(const NodeInfo&);
std::unique_ptr<Op> make_conv(const NodeInfo&);
std::unique_ptr<Op> make_conv_i4(const NodeInfo&);
std::unique_ptr<Op> make_conv_i8(const NodeInfo&);
std::unique_ptr<Op> make_cumsum(const NodeInfo&);
std::unique_ptr<Op> make_dequantize(const NodeInfo&);
std::unique_ptr<Op> make_dim_value(const NodeInfo&);
std::unique_ptr<Op> make_dynamic_quantize(const NodeInfo&);
std::unique_ptr<Op> make_embedding_bag(const NodeInfo&);
std::unique_ptr<Op> make_embedding_i4(const NodeInfo&);
std::unique_ptr<Op> make_expand(const NodeInfo&);
std::unique_ptr<Op> make_gather(const NodeInfo&);
std::unique_ptr<Op> make_grid_sample(const NodeInfo&);
std::unique_ptr<Op> make_group_norm(const NodeInfo&);
std::unique_ptr<Op> make_gru(const NodeInfo&);
std::unique_ptr<Op> make_index(const NodeInfo&);
std::unique_ptr<Op> make_index_put(const NodeInfo&);
std::unique_ptr<Op> make_layer_norm(const NodeInfo&);
std::unique_ptr<Op> make_linear(const NodeInfo&);
std::unique_ptr<Op> make_linear_i4(const NodeInfo&);
std::unique_ptr<Op> make_linear_i8(const NodeInfo&);
std::unique_ptr<Op> make_logical(const NodeInfo&);
std::unique_ptr<Op> make_logical_not(const NodeInfo&);
std::unique_ptr<Op> make_lookup(const NodeInfo&);
std::unique_ptr<Op> make_lstm(const NodeInfo&);
std::unique_ptr<Op> make_matmul(const NodeInfo&);
std::unique_ptr<Op> make_max_pool2d(const NodeInfo&);
std::unique_ptr<Op> make_max_pool2d_with_indices(const NodeInfo&);
std::unique_ptr<Op> make_max_unpool2d(const NodeInfo&);
std::unique_ptr<Op> make_mean(const NodeInfo&);
std::unique_ptr<Op> make_pad(const NodeInfo&);
std::unique_ptr<Op> make_pair_i8(const NodeInfo&);
std::unique_ptr<Op> make_quantize(const NodeInfo&);
std::unique_ptr<Op> make_reduce(const NodeInfo&);
std::unique_ptr<Op> make_resample(const NodeInfo&);
std::unique_ptr<Op> make_reshape(const NodeInfo&);
std::unique_ptr<Op> make_resize(const NodeInfo&);
std::unique_ptr<Op> make_rms_norm(const NodeInfo&);
std::unique_ptr<Op> make_rnn(const NodeInfo&);
std::unique_ptr<Op> make_scatter(const NodeInfo&);
std::unique_ptr<Op> make_slice(const NodeInfo&);
std::unique_ptr<Op> make_softmax(const NodeInfo&);
std::unique_ptr<Op> make_sort(const NodeInfo&);
std::unique_ptr<Op> make_take(const NodeInfo&);
std::unique_ptr<Op> make_topk(const NodeInfo&);
std::unique_ptr<Op> make_transpose(const NodeInfo&);
std::unique_ptr<Op> make_triangle(const NodeInfo&);
std::unique_ptr<Op> make_unary(const NodeInfo&);
std::unique_ptr<Op> make_where(const NodeInfo&);

}  // namespace lowbit::graph
