// lstm, gru and rnn: one direction of one layer over time. The inputs' share of the gates comes in, computed for all
// steps at once; here each step adds the state's share and applies the cell. With a quantized weight (quantized_), the
// share is of codes, and one kernel does the step.
//
// A sample's sums do not depend on its neighbours, so the batch may be split among threads, which then run all steps
// without waiting for each other. Few samples with large weights split each step's product instead.
//
// With lengths, a sample's steps past its end leave its state and give zeros; backward, they come first.
#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/rnn/rnn.h"

namespace lowbit::graph {
namespace {

using kernels::RnnRow;

constexpr int64_t kTap = 0;
constexpr int64_t kRowsATask = 4;  // fewer samples read the weights as slowly as they multiply
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kTaskWork = 1 << 19;  // multiply-adds of a step that are worth waking a thread for

// What one step of one share of the batch sees.
struct Step {
  int64_t rows;
  const float* gates;   // of the step's first row, [rows][gates]
  const float* before;  // [rows][outputs]
  float* y;             // [rows][outputs]
  float* c;             // [rows][hidden], lstm
  float* scratch;       // [rows][gates + hidden]
  RnnRow* states;       // [rows]
  int8_t* codes;        // [rows][outputs, rounded up to quads]
  int threads;
  const int64_t* lengths = nullptr;  // [rows], if samples end before the last step
  int64_t t = 0;

  bool runs(int64_t row) const { return lengths == nullptr || t < lengths[row]; }
};

class Recurrent : public Op {
 public:
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32, 3);
    const Shape& x = inputs[0].shape;
    require(x[2] == gates_ * hidden_, "the gates must have " + std::to_string(gates_ * hidden_) + " values a step");
    const Shape state{x[1], outputs_};
    std::vector<TensorType> types = {{DType::f32, {x[0], x[1], outputs_}}, {DType::f32, state}};
    if (has_cell_) types.push_back({DType::f32, {x[1], hidden_}});
    for (size_t i = 1; i < types.size(); ++i) {
      const size_t input = h0_ + i - 1;
      if (input >= inputs.size() || !present_[input]) continue;
      require_type(inputs, input, DType::f32);
      require_shape(inputs, input, types[i].shape);
    }
    if (lengths_ < inputs.size() && present_[lengths_]) {
      require_type(inputs, lengths_, DType::i64);
      require_shape(inputs, lengths_, {x[1]});
    }
    return types;
  }
  bool reads(size_t input) const override {
    return input == 0 || input == h0_ || input == lengths_ || (has_cell_ && input == h0_ + 1);
  }
  std::string kernel() const override { return coded_ != nullptr ? kernel_.name : weights_->kernel->name; }
  size_t scratch_bytes(Types inputs, Types, int) const override { return scratch_of(inputs[0].shape[1]); }
  size_t scratch_of(int64_t batch) const {
    const size_t codes = coded_ != nullptr ? sizeof(RnnRow) + code_scratch() : 0;
    return batch * ((gates_ + 1) * hidden_ * sizeof(float) + codes);
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work({}, outputs);
    const double rows = static_cast<double>(inputs[0].shape[0] * inputs[0].shape[1]);
    const int64_t products = gates_ * hidden_ * outputs_, projected = projection_ ? hidden_ * outputs_ : 0;
    work.operations = 2.0 * rows * static_cast<double>(products + projected);
    work.bytes += 4.0 * rows * static_cast<double>(gates_ * hidden_) + weight_bytes();
    return work;
  }

  void run(const RunArgs& args) const override {
    start(args);
    run_steps(args);
  }

  void start(const RunArgs& args) const {
    check_lengths(args);
    for (size_t i = 1; i < args.outputs.size(); ++i) start_state(args, i);
  }

  // What may run in a parallel task: throws nothing.
  void run_steps(const RunArgs& args) const {
    const int64_t batch = args.inputs[0].shape[1], shares = shares_of(batch, args.threads);
    if (shares <= 1) return run_rows(args, 0, batch, args.threads);
    run_tasks(shares, args.threads,
              [&](int64_t share) { run_rows(args, share * batch / shares, (share + 1) * batch / shares, 1); });
  }

  bool is_reverse() const { return reverse_; }

 protected:
  // inputs h0 and lengths: where the initial states begin, and the last input; they may be absent.
  Recurrent(const NodeInfo& node, int64_t gates, size_t h0, size_t lengths, bool has_cell)
      : kernel_(kernels::best_of(kernels::rnn_kernels(), node.isa)),
        gates_(gates),
        h0_(h0),
        lengths_(lengths),
        has_cell_(has_cell),
        present_(node.present) {
    const bool coded = node.op.starts_with("quantized_");
    const Shape& shape = coded ? node.weight(1, 2)->shape : node.constant(1, DType::f32, 2).type.shape;
    hidden_ = shape[0] / gates;
    outputs_ = shape[1];
    if (hidden_ == 0 || outputs_ == 0 || shape[0] % gates != 0)
      node.fail("w_hh must have " + std::to_string(gates) + " times as many rows as there are units, has shape " +
                to_string(shape));
    if (!coded) weights_ = pack(node, 1);
    node.expect_outputs(has_cell ? 3 : 2);
    reverse_ = node.integer("reverse", 0, 1, 0) == 1;
  }

  static std::shared_ptr<const kernels::GemmF32Weights> pack(const NodeInfo& node, size_t input) {
    const Constant& weight = *node.constants[input];
    const int64_t n = weight.type.shape[0], k = weight.type.shape[1];
    const int64_t rows = node.types.empty() ? 0 : std::min(node.types[0].shape[1], kMaxTypicalRows);
    const kernels::GemmF32Kernel& kernel = kernels::select_gemm_f32(node.isa, n, 1, k, rows);
    return node.shared<kernels::GemmF32Weights>(input, {key_of(&kernel)}, [&](kernels::GemmF32Weights& packed) {
      kernel.pack(weight.buffer->as<float>(), n, 1, k, packed);
    });
  }

  // bias [gates * hidden], or null.
  void pack_codes(const NodeInfo& node, const std::shared_ptr<const Buffer>& bias) {
    const Weight& weight = *node.weight(1, 2);
    if (weight.bits != 8 || weight.group_size != 0 || weight.scale_type != DType::f32 || weight.offsets.bytes() > 0)
      node.fail("no kernel reads its weight yet, " + describe(weight));
    coded_ = node.shared<kernels::RnnWeights>(1, {gates_, key_of(bias.get())}, [&](kernels::RnnWeights& packed) {
      kernels::pack_rnn(weight.codes.as<int8_t>(), weight.scales.as<float>(),
                        bias != nullptr ? bias->as<float>() : nullptr, gates_, hidden_, outputs_, packed);
    });
  }

  virtual void run_step(const Step& step) const = 0;

  // Steps walk back and forth over the weights, so that what a cache still holds is read first.
  void run_codes(const Step& step, float* h, bool relu = false) const {
    for (int64_t r = 0; r < step.rows; ++r)
      step.states[r] = kernel_.code(step.before + r * outputs_, outputs_, step.codes + r * code_scratch());
    kernels::RnnStep args;
    args.weights = coded_.get();
    args.rows = step.rows;
    args.codes = step.codes, args.states = step.states;
    args.x = step.gates, args.before = step.before;
    args.c = step.c, args.h = h;
    args.lengths = step.lengths, args.t = step.t;
    args.relu = relu, args.backward = step.t % 2 != 0;
    const int64_t panels = coded_->panel_count(), work = step.rows * gates_ * hidden_ * outputs_;
    const int64_t tasks = std::clamp<int64_t>(work / kTaskWork, 1, step.threads);
    run_tasks(tasks, step.threads,
              [&](int64_t task) { kernel_.step(args, task * panels / tasks, (task + 1) * panels / tasks); });
  }

  // y = x w^T, + bias, + residual (a row of y's length each), within bounds.
  static void multiply(const kernels::GemmF32Weights& weights, const Step& step, const float* x, float* y,
                       const float* bias = nullptr, const float* residual = nullptr, float min = -kInfinity) {
    kernels::GemmF32Args gemm;
    gemm.weights = &weights;
    gemm.grid = {1, 1, step.rows};
    gemm.x = {x, 0, 0, weights.run};
    gemm.taps = {&kTap, 1};
    gemm.bias = bias;
    if (residual != nullptr) gemm.residual = {residual, 0, 0, weights.n};
    gemm.min = min, gemm.max = kInfinity;
    gemm.y = {y, 0, 0, weights.n};
    run_kernel(*weights.kernel, gemm, step.threads);
  }

  const kernels::RnnKernel& kernel_;
  std::shared_ptr<const kernels::GemmF32Weights> weights_, projection_;  // null: codes, none
  std::shared_ptr<const kernels::RnnWeights> coded_;                     // null: floats
  std::shared_ptr<const Buffer> bias_;                                   // null: none
  int64_t gates_, hidden_ = 0, outputs_ = 0;

 private:
  const int64_t* lengths(const RunArgs& args) const {
    return lengths_ < args.inputs.size() && args.inputs[lengths_].data != nullptr
               ? args.inputs[lengths_].as<const int64_t>()
               : nullptr;
  }

  void check_lengths(const RunArgs& args) const {
    const int64_t *at = lengths(args), steps = args.inputs[0].shape[0];
    for (int64_t b = 0; at != nullptr && b < args.inputs[0].shape[1]; ++b)
      if (at[b] < 1 || at[b] > steps)
        throw Error(ErrorKind::input,
                    "the length " + std::to_string(at[b]) + " of a sequence is not in 1 .. " + std::to_string(steps));
  }

  void start_state(const RunArgs& args, size_t output) const {
    const Tensor& state = args.outputs[output];
    const size_t input = h0_ + output - 1;
    if (input < args.inputs.size() && args.inputs[input].data != nullptr) {
      std::copy_n(args.inputs[input].as<const float>(), state.shape.elements(), state.as<float>());
    } else {
      std::fill_n(state.as<float>(), state.shape.elements(), 0.0f);
    }
  }

  double weight_bytes() const {
    return coded_ != nullptr ? static_cast<double>(coded_->bytes())
                             : 4.0 * static_cast<double>(gates_ * hidden_ * outputs_);
  }
  int64_t code_scratch() const { return (outputs_ + 3) / 4 * 4; }

  int64_t shares_of(int64_t batch, int threads) const {
    constexpr double kCachedWeights = 1 << 19;  // bytes: beyond, a share must be large enough to reuse them
    const int64_t least = weight_bytes() <= kCachedWeights ? kRowsATask : int64_t{3} * kRowsATask;
    return std::min<int64_t>(threads, batch / least);
  }

  void run_rows(const RunArgs& args, int64_t first, int64_t last, int threads) const {
    const Tensor &x = args.inputs[0], &y = args.outputs[0], &h = args.outputs[1];
    const int64_t steps = x.shape[0], batch = x.shape[1], rows = last - first;
    float* state = h.as<float>() + first * outputs_;
    Step step{rows, nullptr, state, nullptr, nullptr, nullptr, nullptr, nullptr, threads};
    if (has_cell_) step.c = args.outputs[2].as<float>() + first * hidden_;
    auto* const floats = reinterpret_cast<float*>(args.scratch);
    auto* const states = reinterpret_cast<RnnRow*>(floats + batch * (gates_ + 1) * hidden_);
    step.scratch = floats + first * (gates_ + 1) * hidden_;
    step.states = states + first;
    step.codes = reinterpret_cast<int8_t*>(states + batch) + first * code_scratch();
    if (const int64_t* at = lengths(args)) step.lengths = at + first;
    for (int64_t i = 0; i < steps && !should_stop(); ++i) {
      step.t = reverse_ ? steps - 1 - i : i;
      const int64_t row = step.t * batch + first;
      step.gates = x.as<const float>() + row * gates_ * hidden_;
      step.y = y.as<float>() + row * outputs_;
      run_step(step);
      if (step.lengths == nullptr)
        step.before = step.y;
      else
        keep_ended(step, state);
    }
    if (steps > 0 && step.lengths == nullptr) std::copy_n(step.before, rows * outputs_, state);
  }

  // A sample that runs takes its new state; of one that has ended, or is yet to begin, the step gives zeros.
  void keep_ended(const Step& step, float* state) const {
    for (int64_t r = 0; r < step.rows; ++r) {
      float* y = step.y + r * outputs_;
      if (step.runs(r))
        std::copy_n(y, outputs_, state + r * outputs_);
      else
        std::fill_n(y, outputs_, 0.0f);
    }
  }

  size_t h0_, lengths_;
  bool has_cell_, reverse_ = false;
  std::vector<bool> present_;
};

class Lstm final : public Recurrent {
 public:
  enum Input : size_t { kGates, kWeight, kH0, kC0, kProjection, kLengths, kInputs };
  explicit Lstm(const NodeInfo& node) : Recurrent(node, 4, kH0, kLengths, true) {
    node.expect_inputs(kWeight + 1, kInputs);
    if (node.has(kProjection)) {
      const Constant& projection = node.constant(kProjection, DType::f32, 2);
      if (!(projection.type.shape == Shape{outputs_, hidden_}))
        node.fail("w_hr must have shape " + to_string(Shape{outputs_, hidden_}) + ", has " +
                  to_string(projection.type.shape));
      projection_ = pack(node, kProjection);
    } else if (outputs_ != hidden_) {
      node.fail("w_hh must have one column a unit");
    }
    if (weights_ == nullptr) pack_codes(node, nullptr);
  }

 private:
  void run_step(const Step& step) const override {
    const bool projected = projection_ != nullptr;
    float *gates = step.scratch, *full = projected ? gates + step.rows * 4 * hidden_ : step.y;
    if (coded_ != nullptr) {
      run_codes(step, full);
    } else {
      multiply(*weights_, step, step.before, gates, nullptr, step.gates);
      for (int64_t r = 0; r < step.rows; ++r)
        if (step.runs(r)) kernel_.lstm(gates + r * 4 * hidden_, hidden_, step.c + r * hidden_, full + r * hidden_);
    }
    if (projected) multiply(*projection_, step, full, step.y);
  }
};

class Gru final : public Recurrent {
 public:
  enum Input : size_t { kGates, kWeight, kBias, kH0, kLengths, kInputs };
  explicit Gru(const NodeInfo& node) : Recurrent(node, 3, kH0, kLengths, false) {
    node.expect_inputs(kWeight + 1, kInputs);
    if (outputs_ != hidden_) node.fail("w_hh must have one column a unit");
    if (node.has(kBias)) {
      const Constant& bias = node.constant(kBias, DType::f32, 1);
      if (bias.type.shape[0] != 3 * hidden_)
        node.fail("b_hh must have " + std::to_string(3 * hidden_) + " values, has " + to_string(bias.type.shape));
      bias_ = bias.buffer;
    }
    if (weights_ == nullptr) pack_codes(node, bias_);
  }

 private:
  void run_step(const Step& step) const override {
    if (coded_ != nullptr) return run_codes(step, step.y);
    multiply(*weights_, step, step.before, step.scratch, bias_ ? bias_->as<float>() : nullptr);
    for (int64_t r = 0; r < step.rows; ++r)
      if (step.runs(r))
        kernel_.gru(step.gates + r * 3 * hidden_, step.scratch + r * 3 * hidden_, step.before + r * hidden_, hidden_,
                    step.y + r * hidden_);
  }
};

class Rnn final : public Recurrent {
 public:
  enum Input : size_t { kGates, kWeight, kH0, kLengths, kInputs };
  explicit Rnn(const NodeInfo& node)
      : Recurrent(node, 1, kH0, kLengths, false), eltwise_(kernels::best_of(kernels::eltwise_kernels(), node.isa)) {
    node.expect_inputs(kWeight + 1, kInputs);
    if (outputs_ != hidden_) node.fail("w_hh must be square");
    const std::string& kind = node.text("kind");
    if (kind != "tanh" && kind != "relu") node.fail("attribute 'kind' must be tanh or relu");
    relu_ = kind == "relu";
    if (weights_ == nullptr) pack_codes(node, nullptr);
  }

 private:
  void run_step(const Step& step) const override {
    if (coded_ != nullptr) return run_codes(step, step.y, relu_);
    multiply(*weights_, step, step.before, step.y, nullptr, step.gates, relu_ ? 0.0f : -kInfinity);
    if (relu_) return;
    kernels::UnaryArgs tanh;
    tanh.kind = kernels::UnaryKind::tanh;
    tanh.count = step.rows * hidden_;
    tanh.x = tanh.y = step.y;
    kernels::unary(eltwise_, tanh);
  }

  const kernels::EltwiseKernel& eltwise_;
  bool relu_ = false;
};

// Two directions of a layer: the inputs and outputs of the second lie behind those of the first. Several threads run
// both at once, each without waiting for others, which a step's product that they share must at every step.
class BothDirections final : public Op {
 public:
  BothDirections(std::unique_ptr<Recurrent> first, std::unique_ptr<Recurrent> second, size_t inputs, size_t outputs)
      : first_(std::move(first)), second_(std::move(second)), inputs_(inputs), outputs_(outputs) {}

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    std::vector<TensorType> types = first_->infer(inputs.first(inputs_), symbols);
    for (TensorType& type : second_->infer(inputs.subspan(inputs_), symbols)) types.push_back(type);
    return types;
  }
  bool reads(size_t input) const override {
    return input < inputs_ ? first_->reads(input) : second_->reads(input - inputs_);
  }
  std::string kernel() const override { return first_->kernel(); }
  size_t scratch_bytes(Types inputs, Types, int) const override {
    return second_scratch(inputs[0].shape[1]) + second_->scratch_of(inputs[inputs_].shape[1]);
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = first_->work(inputs.first(inputs_), outputs.first(outputs_));
    const Work more = second_->work(inputs.subspan(inputs_), outputs.subspan(outputs_));
    work.operations += more.operations, work.bytes += more.bytes;
    return work;
  }

  void run(const RunArgs& args) const override {
    const bool at_once = args.threads > 1 && args.threads < kThreadsApart;
    RunArgs first = args, second = args;
    first.inputs = args.inputs.first(inputs_), second.inputs = args.inputs.subspan(inputs_);
    first.outputs = args.outputs.first(outputs_), second.outputs = args.outputs.subspan(outputs_);
    if (at_once) first.threads = second.threads = 1;
    second.scratch += second_scratch(args.inputs[0].shape[1]);
    first_->start(first), second_->start(second);
    if (!at_once) return first_->run_steps(first), second_->run_steps(second);
    run_tasks(2, args.threads,
              [&](int64_t task) { task == 0 ? first_->run_steps(first) : second_->run_steps(second); });
  }

 private:
  static constexpr int kThreadsApart = 4;  // that are worth more on one direction after the other

  size_t second_scratch(int64_t batch) const { return (first_->scratch_of(batch) + 63) / 64 * 64; }

  std::unique_ptr<Recurrent> first_, second_;
  size_t inputs_, outputs_;  // of the first
};

}  // namespace

bool are_directions(const Op& first, const Op& second) {
  const auto *a = dynamic_cast<const Recurrent*>(&first), *b = dynamic_cast<const Recurrent*>(&second);
  return a != nullptr && b != nullptr && a->is_reverse() != b->is_reverse();
}

std::unique_ptr<Op> both_directions(std::unique_ptr<Op> first, std::unique_ptr<Op> second, size_t inputs,
                                    size_t outputs) {
  const auto recurrent = [](std::unique_ptr<Op>& op) {
    return std::unique_ptr<Recurrent>(static_cast<Recurrent*>(op.release()));
  };
  return std::make_unique<BothDirections>(recurrent(first), recurrent(second), inputs, outputs);
}

const OpRows kRecurrentOps = {
    {"gru", make<Gru>},           {"lstm", make<Lstm>}, {"quantized_gru", make<Gru>}, {"quantized_lstm", make<Lstm>},
    {"quantized_rnn", make<Rnn>}, {"rnn", make<Rnn>},
};

}  // namespace lowbit::graph
