// The split into tasks, and the blocks of one task.
#include "kernels/attention/attention.h"

#include <algorithm>
#include <limits>

#include "base/watch.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kTap = 0;
constexpr int64_t kBlockFloats = 32 * 1024;  // of scores: beside keys and values in the second cache
constexpr int64_t kLine = 16;          // floats: rows are an odd number of lines apart, so that they do not share sets
constexpr double kTaskWork = 1 << 19;  // multiply-adds that are worth waking a thread for
constexpr int64_t kRowsAPiece = 48;    // packing keys costs about as much as multiplying a few rows by them

GemmF32Args product(const GemmF32Panels& weights, const float* x, int64_t rows, int64_t x_row, float* y,
                    int64_t y_row) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  GemmF32Args gemm;
  gemm.weights = &weights;
  gemm.grid = {1, 1, rows};
  gemm.x = {x, 0, 0, x_row};
  gemm.taps = {&kTap, 1};
  gemm.min = -kInfinity, gemm.max = kInfinity;
  gemm.y = {y, 0, 0, y_row};
  return gemm;
}

}  // namespace

// A unit: a piece of the rows of all query heads that share one key head of one sample.
struct AttentionPlan::Unit {
  const AttentionKernel& kernel;
  const AttentionArgs& args;
  int64_t b, key_head;
  int64_t first, last;                       // query rows
  float *keys, *values, *scores, *inverses;  // inverses: one a row of a block
};

AttentionPlan::AttentionPlan(const AttentionArgs& args, Isa cap, int threads)
    : score_row_(((args.keys + kLine - 1) / kLine | 1) * kLine) {
  const int64_t depth = std::max<int64_t>(args.depth, 1), keys = std::max<int64_t>(args.keys, 1);
  scores_ = &select_gemm_f32(cap, keys, 1, depth, args.length);
  values_ = &select_gemm_f32(cap, args.value_depth, 1, keys, args.length);
  key_floats_ = panels_of(*scores_, args.keys) * scores_->nr * args.depth;
  value_floats_ = panels_of(*values_, args.value_depth) * values_->nr * args.keys;
  const int64_t heads = args.batch * args.key_heads;
  const double work = static_cast<double>(args.batch * args.heads) * static_cast<double>(args.length) *
                      static_cast<double>(args.keys) * static_cast<double>(args.depth + args.value_depth);
  const int64_t limit = threads > 1 ? int64_t{2} * threads : 1;
  const auto wanted = static_cast<int64_t>(std::clamp(work / kTaskWork, 1.0, static_cast<double>(limit)));
  pieces_ = wanted > heads ? std::clamp<int64_t>(args.length / kRowsAPiece, 1, wanted / heads) : 1;
  units_ = heads * pieces_;
  tasks_ = std::min(wanted, units_);
  // A causal block computes a triangle too many, so it is a quarter of the rows at most.
  const int64_t most = args.causal ? std::min(kBlockFloats / keys, args.length / 4) : kBlockFloats / keys;
  block_ = std::min(std::max<int64_t>(most / scores_->mr, 1) * scores_->mr, args.length);
}

void AttentionPlan::run(const AttentionKernel& kernel, const EltwiseKernel& copier, const AttentionArgs& args,
                        int64_t task, float* scratch) const {
  float* keys = scratch + task * task_floats();
  float* values = keys + key_floats_;
  int64_t packed = -1;  // the key head whose panels are in scratch
  for (int64_t index = task * units_ / tasks_; index < (task + 1) * units_ / tasks_ && !should_stop(); ++index) {
    const int64_t head = index / pieces_, piece = index % pieces_;
    const int64_t b = head / args.key_heads, key_head = head % args.key_heads;
    if (head != packed) {
      const float* k = args.k.at(b, key_head, 0);
      const float* v = args.v.at(b, key_head, 0);
      pack_panels(*scores_, copier, {k, args.depth, args.keys, 1, args.k.row}, 0, panels_of(*scores_, args.keys), keys);
      pack_panels(*values_, copier, {v, args.keys, args.value_depth, args.v.row, 1}, 0,
                  panels_of(*values_, args.value_depth), values);
      packed = head;
    }
    float* scores = values + value_floats_;
    run_unit({kernel, args, b, key_head, piece * args.length / pieces_, (piece + 1) * args.length / pieces_, keys,
              values, scores, scores + block_ * score_row_});
  }
}

void AttentionPlan::run_unit(const Unit& unit) const {
  const int64_t sharing = unit.args.heads / unit.args.key_heads;
  for (int64_t head = unit.key_head * sharing; head < (unit.key_head + 1) * sharing; ++head)
    for (int64_t row = unit.first; row < unit.last && !should_stop(); row += block_)
      run_block(unit, head, row, std::min(block_, unit.last - row));
}

void AttentionPlan::run_block(const Unit& unit, int64_t head, int64_t first, int64_t rows) const {
  const AttentionArgs& args = unit.args;
  const int64_t keys = args.causal ? std::min(args.keys, first + rows) : args.keys;  // that any row looks at
  const float* q = args.q.at(unit.b, head, first);
  float* y = args.y.at(unit.b, head, first);
  if (args.depth > 0) {
    const GemmF32Panels panels{scores_, keys, 1, args.depth, unit.keys};
    scores_->run(product(panels, q, rows, args.q.row, unit.scores, score_row_), 0, 1);
  } else {
    std::fill_n(unit.scores, rows * score_row_, 0.0f);
  }
  const AttentionMask& mask = args.mask;
  const auto* base = static_cast<const std::byte*>(mask.data);
  for (int64_t i = 0; i < rows; ++i) {
    float* x = unit.scores + i * score_row_;
    const int64_t count = args.causal ? std::min(keys, first + i + 1) : keys;
    const int64_t offset = unit.b * mask.batch + head * mask.head + (first + i) * mask.row;
    const void* of_row = base != nullptr ? base + offset * (mask.floats ? 4 : 1) : nullptr;
    const SoftmaxRow score_row{x, count, args.scale, of_row, mask.floats, mask.column, args.nan_if_empty};
    if (args.divides_last) {
      unit.inverses[i] = unit.kernel.weigh(score_row);
    } else {
      unit.kernel.softmax(score_row);
    }
    std::fill(x + count, x + keys, 0.0f);
  }
  for (int64_t panel = 0; panel * values_->nr < args.value_depth; ++panel) {
    const int64_t column = panel * values_->nr, columns = std::min<int64_t>(values_->nr, args.value_depth - column);
    const GemmF32Panels panels{values_, columns, 1, keys, unit.values + column * args.keys};
    values_->run(product(panels, unit.scores, rows, score_row_, y + column, args.y.row), 0, 1);
  }
  for (int64_t i = 0; args.divides_last && i < rows; ++i)
    unit.kernel.multiply(y + i * args.y.row, args.value_depth, unit.inverses[i]);
}

}  // namespace lowbit::kernels
