// A row of the attention table. Only this folder includes it.
#pragma once

#include "kernels/attention/attention.h"

namespace lowbit::kernels {

// One row of scores, in place: scaled, masked, made probabilities.
struct SoftmaxRow {
  float* x;
  int64_t n;
  float scale;
  const void* mask;  // of this row, or null
  bool floats;
  int64_t column;  // 0 or 1
  bool nan_if_empty;
};

struct AttentionKernel {
  const char* name;
  Isa isa;
  void (*softmax)(const SoftmaxRow&);
};

extern const AttentionKernel kAttentionScalar;
#if defined(LOWBIT_HAVE_X86)
extern const AttentionKernel kAttentionAvx2;
extern const AttentionKernel kAttentionAvx512Vnni;
#endif

}  // namespace lowbit::kernels
