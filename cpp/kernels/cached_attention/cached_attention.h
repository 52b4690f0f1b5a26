// Attention of new positions over all that came before them, whose keys and values lie in caches. Position i of a row
// whose cache holds `length` is p = length + i, and sees j from max(0, p + 1 - window) to p (window 0: from 0):
//
//   s[j] = (sum_d q[i, d] * keys[j, d]) * scale; with a softcap c, c * tanh(s[j] / c)
//   e[j] = exp(s[j] - max_j s[j]),  p[j] = e[j] / sum(e)           sums of 16 lanes from a multiple of 16 on
//   y[i, c] = sum_j p[j] * values[j, c]                            j ascending, what is not seen included as 0
//
// Where cosines and sines are given, q and k are turned first (Su et al. 2021, RoFormer, arXiv:2104.09864): of the
// first `turned` features d < turned / 2 goes with d + turned / 2,
//
//   x'[d] = x[d] * cos[d] + -x[d + turned / 2] * sin[d],  x'[d + turned / 2] = x[d + turned / 2] * cos[..] + x[d] *
//   sin[..]
//
// each operation rounded. Each sum of products is one fused multiply-add after another, so a result depends on no split
// of the steps into calls, blocks or tasks. Query head h reads key head h / (heads / key_heads): the rows of all heads
// that share one are multiplied together. Caches hold positions in blocks of 16: keys [blocks][depth][16], so that a
// vector is one feature of 16 keys, values [blocks][16][value_depth].
//
// Numbers of a cache are floats, half floats, or codes s8 with a scale for each position: max |x| / 127, as
// `quantize_groups` finds it. A block of codes ends with the scales of its 16 positions, float32. A position's scale is
// a factor of its score, and of its probability: (sum_d q[i, d] * codes[j, d]) * key_scale[j] * scale, p[j] *
// value_scale[j].
#pragma once

#include "kernels/attention/attention.h"

namespace lowbit::kernels {

struct CachedAttentionArgs {
  static constexpr int64_t kBlock = 16;
  static constexpr int64_t kScale = 4;                       // bytes
  enum Numbers : int { codes = 1, halves = 2, floats = 4 };  // so many bytes each
  int64_t batch = 0, heads = 0, key_heads = 0, steps = 0, depth = 0, value_depth = 0;
  int64_t blocks = 0;             // of a cache's head
  HeadRows<const float> q, k, v;  // of the new positions
  HeadRows<float> y;
  void *keys = nullptr, *values = nullptr;  // [batch][key_heads][blocks] ...
  Numbers numbers = floats;
  const float *cosines = nullptr, *sines = nullptr;  // [batch][steps][turned], or null
  int64_t turned = 0, turns_batch = 0;               // floats from one sample's to the next one's; 0: all have the same
  const int64_t* length = nullptr;                   // [batch], each from 0 to blocks * 16 - steps
  float scale = 1.0f, softcap = 0.0f;
  int64_t window = 0;

  int64_t sharing() const { return heads / key_heads; }
  int64_t turn_of(int64_t b, int64_t step) const { return b * turns_batch + step * turned; }
};

// Some of the rows that share a key head of one sample: row r is step r / sharing of head r % sharing among these.
struct CachedAttentionUnit {
  const CachedAttentionArgs& args;
  int64_t b, key_head, first, rows;
  float* scratch;  // rows * (depth + value_depth + scores)
  int64_t scores;  // floats of a row: positions that any step sees, to a whole block
};

struct CachedAttentionKernel : KernelRow {
  // The new positions of one sample's key head, into the caches. scratch: `depth` floats.
  void (*put)(const CachedAttentionArgs& args, int64_t b, int64_t key_head, float* scratch);
  void (*attend)(const CachedAttentionUnit& unit);
};
KernelTable<CachedAttentionKernel> cached_attention_kernels();

// The split into tasks. `most`: the longest of the rows' lengths.
class CachedAttentionPlan {
 public:
  CachedAttentionPlan(const CachedAttentionArgs& args, int64_t most, int threads);
  int64_t tasks() const { return tasks_; }
  // Whether a task has whole heads, and so can put their new positions into the caches itself.
  bool puts() const { return pieces_ == 1; }
  int64_t task_floats() const { return block_ * row_floats_; }  // one row's at least
  // That all tasks of any such plan need, however long the caches' rows are.
  static size_t most_floats(const CachedAttentionArgs& args, int threads);
  void run(const CachedAttentionKernel& kernel, const CachedAttentionArgs& args, int64_t task, float* scratch) const;

 private:
  int64_t scores_, row_floats_, block_, pieces_, units_, tasks_;
};

}  // namespace lowbit::kernels
