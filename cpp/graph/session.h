// A session: one program, run by any number of callers at once. Each call leases a context: an arena, and the plans of
// the last few input shapes it met. A call with a shape its context knows allocates nothing.
#pragma once

#include "base/shared.h"
#include "graph/contexts.h"
#include "graph/state.h"

namespace lowbit::graph {

class LOWBIT_SHARED Session {
 public:
  // threads 0: default_threads(). Throws Error(graph) with every problem of the graph, Error(environment).
  Session(Graph&& graph, Isa isa, int threads, const Limits& limits = {});
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Program& program() const { return program_; }
  Isa isa() const { return isa_; }
  int threads() const { return threads_; }

  // One call. Inputs and outputs are dense row-major views that stay valid until the call is gone.
  class LOWBIT_SHARED Call {
   public:
    // The limit of seconds counts from here, and for each repetition of profile(). Once it has passed, or `interrupt`
    // says so, this, run() and profile() end with Error(limit), or Error(interrupt); the session stays as it is.
    // Leases a context and plans for these inputs. Throws Error(input) if they do not fit the graph, Error(limit).
    // state: what the caller keeps, updated by run(); null: one that is used in this call alone.
    Call(const Session& session, std::span<const Tensor> inputs, Interrupt interrupt = {}, State* state = nullptr);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    std::span<const TensorType> outputs() const {
      return std::span(plan_->outputs).first(session_.program_.given_outputs());
    }
    const Plan& plan() const { return *plan_; }
    // `outputs` of exactly those types, apart from each other and from the inputs; else throws Error(input).
    void run(std::span<const Tensor> outputs);
    // The same, `repeats` times, and the state stays as it is; seconds[step] is the median.
    void profile(std::span<const Tensor> outputs, int repeats, std::vector<double>& seconds);
    Work work(size_t step) const;  // of one step of the plan

   private:
    void take_state(State* state);
    void give_back(Plan* plan);
    Plan* find_plan();
    void bind(std::span<const Tensor> outputs);
    void step(const Plan::Step& step);

    const Session& session_;
    std::span<const Tensor> inputs_;
    Watch watch_;
    Context* context_;
    Plan* plan_ = nullptr;
    std::unique_ptr<State> own_;
    State* state_ = nullptr;
  };

  void run(std::span<const Tensor> inputs, std::span<const Tensor> outputs) const { Call(*this, inputs).run(outputs); }

  Contexts& contexts() const { return contexts_; }

  // What a caller keeps between calls; sizes: of the symbols, -1 of those that no state has. The session must outlive
  // it.
  std::unique_ptr<State> state(std::vector<int64_t> sizes) const {
    return std::make_unique<State>(program_, contexts_, std::move(sizes));
  }

 private:
  Program program_;
  Isa isa_;
  int threads_;
  Limits limits_;
  mutable Contexts contexts_;
};

}  // namespace lowbit::graph
