// Which operators there are.
#include <algorithm>

#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

struct Row {
  std::string_view op;
  Factory make;
};

constexpr Row kOps[] = {
    {"adaptive_avg_pool2d", make_adaptive_avg_pool2d},
    {"adaptive_avg_pool2d_i8", make_adaptive_avg_pool2d_i8},
    {"adaptive_max_pool2d", make_adaptive_max_pool2d},
    {"adaptive_max_pool2d_with_indices", make_adaptive_max_pool2d_with_indices},
    {"add", make_arithmetic},
    {"add_i8", make_pair_i8},
    {"arange", make_arange},
    {"argmax", make_argmax},
    {"attention", make_attention},
    {"avg_pool2d", make_avg_pool2d},
    {"avg_pool2d_i8", make_avg_pool2d_i8},
    {"cast", make_cast},
    {"clip", make_clip},
    {"compare", make_compare},
    {"concat", make_concat},
    {"conv2d", make_conv},
    {"conv2d_i4", make_conv_i4},
    {"conv2d_i8", make_conv_i8},
    {"conv3d", make_conv},
    {"conv3d_i8", make_conv_i8},
    {"conv_transpose2d", make_conv},
    {"conv_transpose2d_i8", make_conv_i8},
    {"conv_transpose3d", make_conv},
    {"conv_transpose3d_i8", make_conv_i8},
    {"cumsum", make_cumsum},
    {"dequantize", make_dequantize},
    {"dim_value", make_dim_value},
    {"div", make_arithmetic},
    {"dynamic_quantize", make_dynamic_quantize},
    {"embedding_bag", make_embedding_bag},
    {"embedding_i4", make_embedding_i4},
    {"expand", make_expand},
    {"floor_div", make_arithmetic},
    {"fmod", make_arithmetic},
    {"gather", make_gather},
    {"grid_sample", make_grid_sample},
    {"group_norm", make_group_norm},
    {"gru", make_gru},
    {"index", make_index},
    {"index_put", make_index_put},
    {"layer_norm", make_layer_norm},
    {"linear", make_linear},
    {"linear_i4", make_linear_i4},
    {"linear_i8", make_linear_i8},
    {"logical", make_logical},
    {"logical_not", make_logical_not},
    {"lookup", make_lookup},
    {"lstm", make_lstm},
    {"matmul", make_matmul},
    {"max_pool2d", make_max_pool2d},
    {"max_pool2d_with_indices", make_max_pool2d_with_indices},
    {"max_unpool2d", make_max_unpool2d},
    {"maximum", make_arithmetic},
    {"mean", make_mean},
    {"minimum", make_arithmetic},
    {"mul", make_arithmetic},
    {"mul_i8", make_pair_i8},
    {"pad", make_pad},
    {"pow", make_arithmetic},
    {"prelu", make_arithmetic},
    {"quantize", make_quantize},
    {"reduce", make_reduce},
    {"remainder", make_arithmetic},
    {"resample", make_resample},
    {"reshape", make_reshape},
    {"resize", make_resize},
    {"rms_norm", make_rms_norm},
    {"rnn", make_rnn},
    {"scatter", make_scatter},
    {"slice", make_slice},
    {"softmax", make_softmax},
    {"sort", make_sort},
    {"sub", make_arithmetic},
    {"take", make_take},
    {"topk", make_topk},
    {"transpose", make_transpose},
    {"triangle", make_triangle},
    {"trunc_div", make_arithmetic},
    {"unary", make_unary},
    {"where", make_where},
};

}  // namespace

Factory find_factory(std::string_view op) {
  const auto* row =
      std::find_if(std::begin(kOps), std::end(kOps), [&](const Row& candidate) { return candidate.op == op; });
  return row == std::end(kOps) ? nullptr : row->make;
}

std::vector<std::string> registered_ops() {
  std::vector<std::string> names;
  for (const Row& row : kOps) names.emplace_back(row.op);
  return names;
}

}  // namespace lowbit::graph
