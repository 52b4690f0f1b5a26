// The rows of the light families for the instruction set that this is compiled for.
#pragma once

#include "kernels/attention/generic.h"
#include "kernels/blend/generic.h"
#include "kernels/cached_attention/generic.h"
#include "kernels/dwconv_f32/generic.h"
#include "kernels/eltwise/generic.h"
#include "kernels/gather/generic.h"
#include "kernels/light/light.h"
#include "kernels/norm/generic.h"
#include "kernels/pool/generic.h"
#include "kernels/rnn/generic.h"

namespace lowbit::kernels {
namespace {

consteval LightKernels light_kernels(Isa isa) {
  const KernelRow row = {info_of(isa).name, isa};
  return {
      .attention = {row, attention::softmax_row, attention::weigh_row, attention::multiply_row},
      .blend = {row, blend::blend_pixels<blend::Floats>, blend::blend_pixels<blend::Codes>},
      .cached_attention = {row, cached_attention::put, cached_attention::attend},
      .dwconv_f32 = {row, dwconv_f32::run},
      .eltwise = {row, eltwise::quantize_block, eltwise::copies_block, eltwise::dequantize_block, eltwise::range_block,
                  eltwise::groups_block, eltwise::lookup_block, eltwise::pair_i8_block, eltwise::binary_block,
                  eltwise::where_block, eltwise::unary_block, eltwise::softmax_block, eltwise::rounding_block,
                  transpose, transpose},
      .gather = {row, gather::run, gather::add},
      .norm = {row, norm::normalize_row},
      .pool = {row, pool::max_u8, pool::max_f32, pool::avg_u8, pool::avg_f32, pool::max_index},
      .rnn = {row, rnn::lstm_cell, rnn::gru_cell, rnn::code_row, rnn::lstm_step, rnn::gru_step, rnn::rnn_step},
  };
}

}  // namespace
}  // namespace lowbit::kernels
