// The families whose bodies are written over Lanes (simd/lanes.h) and soon compiled. They are instantiated together:
// one file an instruction set fills one of these, for the tables.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/blend/blend.h"
#include "kernels/cached_attention/cached_attention.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/gather/gather.h"
#include "kernels/norm/norm.h"
#include "kernels/pool/pool.h"
#include "kernels/rnn/rnn.h"

namespace lowbit::kernels {

struct LightKernels {
  AttentionKernel attention;
  BlendKernel blend;
  CachedAttentionKernel cached_attention;
  DwconvF32Kernel dwconv_f32;
  EltwiseKernel eltwise;
  GatherKernel gather;
  NormKernel norm;
  PoolKernel pool;
  RnnKernel rnn;
};

}  // namespace lowbit::kernels
