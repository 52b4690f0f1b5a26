// The split into tasks, and the blocks of one task.
#include "kernels/cached_attention/cached_attention.h"

#include <algorithm>

#include "base/watch.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kBlockFloats = 32 * 1024;  // of scores: beside keys and values in the second cache
constexpr int64_t kBlockRows = 48;           // of a causal block, which computes a triangle too many
constexpr double kTaskWork = 1 << 18;        // multiply-adds that are worth waking a thread for,
constexpr double kTaskBytes = 1 << 16;       // and bytes of caches to read

int64_t most_tasks(int threads) { return threads > 1 ? int64_t{4} * threads : 1; }

}  // namespace

CachedAttentionPlan::CachedAttentionPlan(const CachedAttentionArgs& args, int64_t most, int threads) {
  constexpr int64_t kBlock = CachedAttentionArgs::kBlock;
  const int64_t rows = args.steps * args.sharing(), heads = args.batch * args.key_heads;
  scores_ = (most + args.steps + kBlock - 1) / kBlock * kBlock;
  if (args.window > 0) scores_ = std::min(scores_, (args.window + args.steps) / kBlock * kBlock + 2 * kBlock);
  row_floats_ = args.depth + args.value_depth + scores_;
  block_ = std::min(std::max(std::min(kBlockFloats / scores_, kBlockRows), args.sharing()), rows);
  const double numbers =
      static_cast<double>(heads) * static_cast<double>(scores_) * static_cast<double>(args.depth + args.value_depth);
  const double worth =
      std::max(numbers * static_cast<double>(rows) / kTaskWork, numbers * static_cast<int>(args.numbers) / kTaskBytes);
  const int64_t limit = most_tasks(threads);
  const auto wanted = static_cast<int64_t>(std::clamp(worth, 1.0, static_cast<double>(limit)));
  const int64_t blocks = (rows + block_ - 1) / block_;
  pieces_ = wanted > heads ? std::min(blocks, (wanted + heads - 1) / heads) : 1;
  units_ = heads * pieces_;
  tasks_ = std::min(wanted, units_);
}

size_t CachedAttentionPlan::most_floats(const CachedAttentionArgs& args, int threads) {
  const int64_t scores = std::max(kBlockFloats, args.sharing() * (args.blocks + 1) * CachedAttentionArgs::kBlock);
  const int64_t rows = std::max(kBlockRows, args.sharing());
  return static_cast<size_t>(most_tasks(threads) * (scores + rows * (args.depth + args.value_depth)));
}

void CachedAttentionPlan::run(const CachedAttentionKernel& kernel, const CachedAttentionArgs& args, int64_t task,
                              float* scratch) const {
  const int64_t rows = args.steps * args.sharing();
  for (int64_t unit = task * units_ / tasks_; unit < (task + 1) * units_ / tasks_ && !should_stop(); ++unit) {
    const int64_t head = unit / pieces_, piece = unit % pieces_;
    const int64_t b = head / args.key_heads, key_head = head % args.key_heads;
    if (puts()) kernel.put(args, b, key_head, scratch);
    const int64_t last = (piece + 1) * rows / pieces_;
    for (int64_t first = piece * rows / pieces_; first < last && !should_stop(); first += block_)
      kernel.attend({args, b, key_head, first, std::min(block_, last - first), scratch, scores_});
  }
}

}  // namespace lowbit::kernels
