// Scaled dot-product attention in blocks of query rows: scores of a block, their softmax, their product with the
// values, so that no more than a block of the length x keys matrix exists at a time.
//
//   s[i, j] = (sum_d q[i, d] * k[j, d]) * scale + mask[i, j]     j <= i only, if causal; a mask of booleans drops j
//   p[i, j] = e / sum(e), e = exp(s[i, j] - max_j s[i, j])       all 0 (or NaN) where no j is left or all s are -inf
//   y[i, c] = sum_j p[i, j] * v[j, c]                            j ascending, what was dropped included as 0
//
// divides_last: faster, in other bits.
//   s[i, j] = fma(sum_d q[i, d] * k[j, d], scale, mask[i, j])
//   y[i, c] = (sum_j e[i, j] * v[j, c]) * (1 / sum_j e[i, j])    e is 0 where its exponent is below -87
// Without a mask of floats, and with a scale above 0, the exponent is fma(x, scale, -(max x * scale)) then, x being the
// sums. The sum of e has 2 x 16 lanes: (p, l) adds e[32 b + 16 p + l] for ascending b, and (0, l) what is left.
//
// The other sums are gemm_f32's and eltwise's: every ISA and every split into tasks gives the same bits. Query head h
// reads key head h / (heads / key_heads).
#pragma once

#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::kernels {

// One row of scores, in place: scaled, masked, made p or e.
struct SoftmaxRow {
  float* x;
  int64_t n;
  float scale;
  const void* mask;  // of this row, or null
  bool floats;
  int64_t column;  // 0 or 1
  bool nan_if_empty;
};

struct AttentionKernel : KernelRow {
  void (*softmax)(const SoftmaxRow&);
  float (*weigh)(const SoftmaxRow&);  // makes e; gives 1 / sum(e), NaN or 1 where nothing is left
  void (*multiply)(float* y, int64_t n, float factor);
};
KernelTable<AttentionKernel> attention_kernels();

// Rows of adjacent floats: row (b, h, i) at data + b * batch + h * head + i * row.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  T* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

struct AttentionMask {
  const void* data = nullptr;                        // null: none
  bool floats = false;                               // else one byte each, 0: dropped
  int64_t batch = 0, head = 0, row = 0, column = 0;  // column: 0 or 1
};

struct AttentionArgs {
  int64_t batch = 0, heads = 0, key_heads = 0, length = 0, keys = 0, depth = 0, value_depth = 0;
  HeadRows<const float> q, k, v;
  AttentionMask mask;
  HeadRows<float> y;
  float scale = 1.0f;
  bool causal = false;
  bool nan_if_empty = false;  // a row with nothing to attend to: NaN, else 0
  bool divides_last = false;
};

// The split into tasks and the kernels for these sizes (pointers in args are not looked at).
class AttentionPlan {
 public:
  AttentionPlan(const AttentionArgs& args, Isa cap, int threads);
  int64_t tasks() const { return tasks_; }
  size_t scratch_bytes() const { return static_cast<size_t>(tasks_ * task_floats()) * sizeof(float); }
  // `task` of tasks(); scratch: that of all tasks.
  void run(const AttentionKernel& kernel, const EltwiseKernel& copier, const AttentionArgs& args, int64_t task,
           float* scratch) const;

 private:
  struct Unit;
  int64_t task_floats() const { return key_floats_ + value_floats_ + block_ * (score_row_ + 1); }
  void run_unit(const Unit& unit) const;
  void run_block(const Unit& unit, int64_t head, int64_t first, int64_t rows) const;

  const GemmF32Kernel *scores_, *values_;
  int64_t score_row_, key_floats_, value_floats_, block_, pieces_, units_, tasks_;
};

}  // namespace lowbit::kernels
