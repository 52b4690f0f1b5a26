// What calls work in, and how much of it a session keeps. A call leases a context, and all contexts together, with the
// session's weights and the outputs of calls, stay within its memory.
//
// Slots are taken and filled by atomic exchange, and bytes are booked by atomic addition: no lock, so a fork in the
// midst of a call leaves the child a working session (short of the contexts that were out).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>

#include "base/shared.h"
#include "graph/idle.h"
#include "graph/planner.h"

namespace lowbit::graph {

struct Context {
  Buffer arena;
  std::vector<std::unique_ptr<Plan>> plans;
  int64_t plan_bytes = 0;  // of all plans
  int64_t booked = 0;      // plans, arena, and the outputs of the last call
};

class LOWBIT_SHARED Contexts {
 public:
  static constexpr size_t kMaxPlans = 16;                       // a context keeps
  static constexpr size_t kMaxContexts = 64;                    // kept between calls
  static constexpr int64_t kMaxPlanBytes = int64_t{256} << 20;  // of all contexts; what a call needs may go beyond

  // Of a session that holds `weights` bytes, and may hold `limit`.
  Contexts(int64_t weights, int64_t limit);
  ~Contexts();
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;

  Context* lease();
  // After a call with this plan, if it came so far.
  void give_back(Context* context, Plan* plan);

  // Another plan for a leased context. The least recently used ones go, of all contexts that no call has.
  Plan* keep(Context& context, std::unique_ptr<Plan> plan);
  // Room for a call with this plan of a leased context. Where it would pass the limit, what others left idle goes, the
  // least recently used first, then what this context keeps beside the plan. Throws Error(limit), with nothing left.
  void make_room(Context& context, const Plan& plan) {
    if (context.booked != need(context, plan) || context.arena.bytes() < plan.arena_bytes) allocate(context, plan);
  }
  // Books so many bytes, while a plan is made for a leased context; give() them. Throws Error(limit).
  void reserve(Context& context, int64_t bytes);
  // Books so many bytes until give(). Throws Error(limit).
  void hold(int64_t bytes);
  void give(int64_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Gives back what no call has used for so long: whole contexts, and arenas that are far larger than what was needed.
  void trim(int64_t nanoseconds);
  // Whether it holds more than weights.
  bool keeps() const { return held_.load() != weights_; }

  struct Memory {
    int64_t held_bytes, limit_bytes;                  // all, weights and calls included
    size_t arena_bytes = 0, contexts = 0, plans = 0;  // of the idle contexts; with what their plans keep
  };
  Memory memory();

  Contexts* next_ = nullptr;  // of all sessions; idle.cpp's

 private:
  using Idle = std::array<Context*, kMaxContexts>;

  static int64_t need(const Context& context, const Plan& plan) {
    return context.plan_bytes + static_cast<int64_t>(std::max(context.arena.bytes(), plan.arena_bytes)) +
           plan.output_bytes;
  }
  void allocate(Context& context, const Plan& plan);
  bool book(int64_t bytes);
  [[noreturn]] void refuse(int64_t bytes) const;
  Idle take_idle();
  void put_back(Context* context);
  template <class Visit>
  void visit_idle(Visit visit);  // bool(Context&): whether it stays
  void discard(Context* context);
  bool discard_oldest();
  void drop(Context& context, const Plan* plan);
  void clear(Context& context, const Plan* but);
  void shed(Context& context, const Plan& but);

  const int64_t weights_, limit_;
  std::atomic<int64_t> held_, plan_bytes_{0};
  std::array<std::atomic<Context*>, kMaxContexts> slots_{};
};

}  // namespace lowbit::graph
