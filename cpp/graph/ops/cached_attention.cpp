// cached_attention: attention of new positions over keys and values in caches, which are updated in place where they
// are a caller's states.
#include "kernels/cached_attention/cached_attention.h"

#include <cstring>

#include "base/read_once.h"
#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

using kernels::CachedAttentionArgs;

enum Input : size_t { kQ, kK, kV, kKeys, kValues, kLength, kCosines, kSines, kInputs };
enum Output : size_t { kY, kNewKeys, kNewValues, kOutputs };

class CachedAttention final : public Op {
 public:
  explicit CachedAttention(const NodeInfo& node)
      : kernel_(kernels::best_of(kernels::cached_attention_kernels(), node.isa)),
        scale_(static_cast<float>(node.number("scale"))),
        softcap_(static_cast<float>(node.number("softcap", 0.0))),
        window_(node.integer("window", 0, kMaxSize, 0)) {
    node.expect_inputs(kCosines, kInputs);
    if (node.has(kCosines) != node.has(kSines)) node.fail("takes cosines and sines, or neither");
    node.expect_outputs(kOutputs);
    if (softcap_ < 0.0f) node.fail("softcap must not be negative");
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    for (size_t input : {kQ, kK, kV}) require_type(inputs, input, DType::f32, 4);
    const DType cache = inputs[kKeys].dtype;
    require(cache == DType::f32 || cache == DType::f16 || cache == DType::s8, "caches must be f32, f16 or s8");
    const int64_t scale = cache == DType::s8 ? CachedAttentionArgs::kScale : 0;
    for (size_t input : {kKeys, kValues}) require_type(inputs, input, cache, 5);
    const Shape &q = inputs[kQ].shape, &k = inputs[kK].shape, &v = inputs[kV].shape, &keys = inputs[kKeys].shape;
    require(k[1] > 0 && q[1] % k[1] == 0,
            std::to_string(q[1]) + " heads of q do not share " + std::to_string(k[1]) + " heads of k");
    require_shape(inputs, kK, {q[0], k[1], q[2], q[3]});
    require_shape(inputs, kV, {q[0], k[1], q[2], v[3]});
    require_shape(inputs, kKeys, {q[0], k[1], keys[2], q[3] + scale, CachedAttentionArgs::kBlock});
    require_shape(inputs, kValues, {q[0], k[1], keys[2], CachedAttentionArgs::kBlock, v[3] + scale});
    require_type(inputs, kLength, DType::i64, 1);
    require_shape(inputs, kLength, {q[0]});
    require(q[2] <= keys[2] * CachedAttentionArgs::kBlock,
            std::to_string(q[2]) + " steps do not fit a cache of " + std::to_string(keys[2]) + " blocks");
    if (is_present(inputs, kCosines)) {
      const Shape& turns = inputs[kCosines].shape;
      require_type(inputs, kCosines, DType::f32, 3);
      require((turns[0] == q[0] || turns[0] == 1) && turns[1] == q[2] && turns[2] <= q[3] && turns[2] % 2 == 0,
              "the cosines " + to_string(turns) + " do not fit q " + to_string(q));
      require_type(inputs, kSines, DType::f32, 3);
      require_shape(inputs, kSines, turns);
    }
    return {{DType::f32, {q[0], q[1], q[2], v[3]}}, inputs[kKeys], inputs[kValues]};
  }
  bool reads_orders(size_t input) const override { return input <= kV; }
  bool writes_orders(size_t output) const override { return output == kY; }
  int updates(size_t output) const override {
    return output == kNewKeys ? int{kKeys} : output == kNewValues ? int{kValues} : -1;
  }
  std::string kernel() const override { return kernel_.name; }

  size_t scratch_bytes(Types inputs, Types, int threads) const override {
    const CachedAttentionArgs args = sizes(inputs[kQ].shape, inputs[kV].shape, inputs[kKeys].shape);
    const size_t keys = static_cast<size_t>(args.batch * args.key_heads * args.depth) * sizeof(float);
    return lengths_bytes(args.batch) + keys + kernels::CachedAttentionPlan::most_floats(args, threads) * sizeof(float);
  }
  // What is in the caches is not known before a call, and not counted.
  Work work(Types inputs, Types outputs) const override {
    const Shape &q = inputs[kQ].shape, &v = inputs[kV].shape;
    Work work;
    work.operations =
        static_cast<double>(q[0] * q[1] * q[2]) * static_cast<double>(q[2] + 1) * static_cast<double>(q[3] + v[3]);
    for (size_t input : {kQ, kK, kV}) work.bytes += static_cast<double>(bytes_of(inputs[input]));
    work.bytes += static_cast<double>(bytes_of(outputs[kY]));
    return work;
  }

  void run(const RunArgs& run) const override {
    const Tensor &q = run.inputs[kQ], &keys = run.inputs[kKeys], &values = run.inputs[kValues];
    CachedAttentionArgs args = sizes(q.shape, run.inputs[kV].shape, keys.shape);
    const int64_t most = read_lengths(run, args);
    args.q = rows_of<const float>(q), args.k = rows_of<const float>(run.inputs[kK]);
    args.v = rows_of<const float>(run.inputs[kV]), args.y = rows_of<float>(run.outputs[kY]);
    args.keys = taken(keys, run.outputs[kNewKeys]), args.values = taken(values, run.outputs[kNewValues]);
    args.numbers = static_cast<CachedAttentionArgs::Numbers>(size_of(keys.dtype));
    if (is_present(run.inputs, kCosines)) {
      const Tensor& turns = run.inputs[kCosines];
      args.cosines = turns.as<const float>(), args.sines = run.inputs[kSines].as<const float>();
      args.turned = turns.shape[2], args.turns_batch = turns.shape[0] == 1 ? 0 : turns.shape[1] * turns.shape[2];
    }
    if (args.batch == 0 || args.steps == 0) return;
    auto* floats = reinterpret_cast<float*>(run.scratch + lengths_bytes(args.batch));
    if (run.outputs[kY].shape.elements() == 0) return put(args, run.threads, floats);
    const kernels::CachedAttentionPlan plan(args, most, run.threads);
    if (!plan.puts()) put(args, run.threads, floats);
    run_tasks(plan.tasks(), run.threads,
              [&](int64_t task) { plan.run(kernel_, args, task, floats + task * plan.task_floats()); });
  }

 private:
  template <class Item>
  static bool is_present(std::span<const Item> inputs, size_t input) {
    return inputs.size() > input && inputs[input].shape.rank() > 0;
  }

  // The new positions of all heads, into the caches.
  void put(const CachedAttentionArgs& args, int threads, float* scratch) const {
    run_tasks(args.batch * args.key_heads, threads, [&](int64_t head) {
      kernel_.put(args, head / args.key_heads, head % args.key_heads, scratch + head * args.depth);
    });
  }

  CachedAttentionArgs sizes(const Shape& q, const Shape& v, const Shape& keys) const {
    CachedAttentionArgs args;
    args.batch = q[0], args.heads = q[1], args.steps = q[2], args.depth = q[3];
    args.key_heads = v[1], args.value_depth = v[3], args.blocks = keys[2];
    args.scale = scale_, args.softcap = softcap_, args.window = window_;
    return args;
  }

  static size_t lengths_bytes(int64_t batch) { return static_cast<size_t>(batch * 8 + 63) / 64 * 64; }

  // Checked, into scratch: the caller's may change. The longest.
  static int64_t read_lengths(const RunArgs& run, CachedAttentionArgs& args) {
    auto* lengths = reinterpret_cast<int64_t*>(run.scratch);
    const int64_t capacity = args.blocks * CachedAttentionArgs::kBlock;
    int64_t most = 0;
    for (int64_t row = 0; row < args.batch; ++row) {
      lengths[row] = read_once(run.inputs[kLength].as<const int64_t>() + row);
      if (lengths[row] < 0 || lengths[row] > capacity - args.steps)
        throw Error(ErrorKind::input, "row " + std::to_string(row) + " of the cache holds " +
                                          std::to_string(lengths[row]) + " of " + std::to_string(capacity) +
                                          " positions, and " + std::to_string(args.steps) + " more do not fit");
      most = std::max(most, lengths[row]);
    }
    args.length = lengths;
    return most;
  }

  static void* taken(const Tensor& cache, const Tensor& updated) {
    if (updated.data != cache.data && bytes_of(cache) > 0)
      std::memcpy(updated.data, cache.data, static_cast<size_t>(bytes_of(cache)));
    return updated.data;
  }

  template <class T>
  static kernels::HeadRows<T> rows_of(const Tensor& x) {
    return {x.as<T>(), x.strides[0], x.strides[1], x.strides[2]};
  }

  const kernels::CachedAttentionKernel& kernel_;
  float scale_, softcap_;
  int64_t window_;
};

}  // namespace

const OpRows kCachedAttentionOps = {{"cached_attention", make<CachedAttention>}};

}  // namespace lowbit::graph
