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
    {"add", make_binary},
    {"add_i8", make_add_i8},
    {"attention", make_attention},
    {"avg_pool2d", make_avg_pool2d},
    {"avg_pool2d_i8", make_avg_pool2d_i8},
    {"cast", make_cast},
    {"clip", make_clip},
    {"concat", make_concat},
    {"conv2d", make_conv},
    {"conv2d_i8", make_conv_i8},
    {"conv3d", make_conv},
    {"conv3d_i8", make_conv_i8},
    {"conv_transpose2d", make_conv},
    {"conv_transpose2d_i8", make_conv_i8},
    {"conv_transpose3d", make_conv},
    {"conv_transpose3d_i8", make_conv_i8},
    {"dequantize", make_dequantize},
    {"div", make_binary},
    {"dynamic_quantize", make_dynamic_quantize},
    {"group_norm", make_group_norm},
    {"layer_norm", make_layer_norm},
    {"linear", make_linear},
    {"linear_i8", make_linear_i8},
    {"lookup", make_lookup},
    {"matmul", make_matmul},
    {"max_pool2d", make_max_pool2d},
    {"mean", make_mean},
    {"mul", make_binary},
    {"pad", make_pad},
    {"quantize", make_quantize},
    {"reshape", make_reshape},
    {"rms_norm", make_rms_norm},
    {"slice", make_slice},
    {"softmax", make_softmax},
    {"sub", make_binary},
    {"transpose", make_transpose},
    {"unary", make_unary},
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
