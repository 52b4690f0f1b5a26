#include "graph/contexts.h"

#include <algorithm>
#include <chrono>

#include "base/memory.h"

namespace lowbit::graph {
namespace {

constexpr size_t kSmallArena = size_t{1} << 20;  // not worth giving back

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t last_use(const Context& context) {
  int64_t last = 0;
  for (const auto& plan : context.plans) last = std::max(last, plan->last_used);
  return last;
}

bool older(const std::unique_ptr<Plan>& a, const std::unique_ptr<Plan>& b) { return a->last_used < b->last_used; }

}  // namespace

Contexts::Contexts(int64_t weights, int64_t limit) : weights_(weights), limit_(limit), held_(weights) {
  idle::add(*this);
}

Contexts::~Contexts() {
  idle::remove(*this);
  for (std::atomic<Context*>& slot : slots_) delete slot.load();
}

Context* Contexts::lease() {
  for (std::atomic<Context*>& slot : slots_) {
    if (slot.load(std::memory_order_relaxed) == nullptr) continue;
    if (Context* context = slot.exchange(nullptr, std::memory_order_acquire)) return context;
  }
  auto context = std::make_unique<Context>();
  context->plans.reserve(kMaxPlans);
  return context.release();
}

void Contexts::give_back(Context* context, Plan* plan) {
  if (plan != nullptr) plan->last_used = now();
  put_back(context);
  idle::watch();
}

void Contexts::put_back(Context* context) {
  for (std::atomic<Context*>& slot : slots_) {
    Context* expected = nullptr;
    if (slot.load(std::memory_order_relaxed) != nullptr) continue;
    if (slot.compare_exchange_strong(expected, context, std::memory_order_release, std::memory_order_relaxed)) return;
  }
  discard(context);
}

Contexts::Idle Contexts::take_idle() {
  Idle idle{};
  for (size_t i = 0; i < kMaxContexts; ++i) idle[i] = slots_[i].exchange(nullptr, std::memory_order_acquire);
  return idle;
}

void Contexts::discard(Context* context) {
  give(context->booked);
  plan_bytes_.fetch_sub(context->plan_bytes, std::memory_order_relaxed);
  delete context;
}

bool Contexts::discard_oldest() {
  Context* oldest = nullptr;
  for (Context* context : take_idle()) {
    if (context == nullptr) continue;
    if (oldest == nullptr || last_use(*context) < last_use(*oldest)) std::swap(oldest, context);
    if (context != nullptr) put_back(context);
  }
  if (oldest != nullptr) discard(oldest);
  return oldest != nullptr;
}

// A plan that is booked.
void Contexts::drop(Context& context, const Plan* plan) {
  const int64_t bytes = plan->bytes;
  std::erase_if(context.plans, [&](const auto& each) { return each.get() == plan; });
  context.plan_bytes -= bytes, context.booked -= bytes;
  plan_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  give(bytes);
}

// All but one plan, and books nothing for what is left.
void Contexts::clear(Context& context, const Plan* but) {
  context.arena = Buffer();
  std::erase_if(context.plans, [&](const auto& plan) { return plan.get() != but; });
  const int64_t left = but != nullptr ? but->bytes : 0;
  plan_bytes_.fetch_sub(context.plan_bytes - left, std::memory_order_relaxed);
  context.plan_bytes = left;
  give(context.booked);
  context.booked = 0;
}

bool Contexts::book(int64_t bytes) {
  for (int64_t held = held_.load(std::memory_order_relaxed);;) {
    if (bytes <= 0 || bytes <= limit_ - held) {
      if (held_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed)) return true;
    } else {
      if (!discard_oldest()) return false;
      held = held_.load(std::memory_order_relaxed);
    }
  }
}

void Contexts::refuse(int64_t bytes) const {
  throw Error(ErrorKind::limit, "a call with inputs of these sizes needs " + in_mebibytes(bytes) +
                                    " for what it works in and its outputs, beside the " + in_mebibytes(held_.load()) +
                                    " that the session holds (" + in_mebibytes(weights_) +
                                    " of weights, and what other calls need); it may hold " + in_mebibytes(limit_) +
                                    ", which limits=lowbit.Limits(memory=...) sets");
}

void Contexts::hold(int64_t bytes) {
  if (book(bytes)) return;
  throw Error(ErrorKind::limit, "a state needs " + in_mebibytes(bytes) + " more, beside the " +
                                    in_mebibytes(held_.load()) +
                                    " that the session holds with all its states; it may hold " + in_mebibytes(limit_) +
                                    ", which limits=lowbit.Limits(memory=...) sets");
}

void Contexts::reserve(Context& context, int64_t bytes) {
  if (book(bytes)) return;
  clear(context, nullptr);
  if (!book(bytes)) refuse(bytes);
}

void Contexts::allocate(Context& context, const Plan& plan) {
  if (!book(need(context, plan) - context.booked)) {
    clear(context, &plan);
    const int64_t least = need(context, plan);
    if (!book(least)) {
      clear(context, nullptr);
      refuse(least);
    }
  }
  context.booked = need(context, plan);
  if (context.arena.bytes() >= plan.arena_bytes) return;
  context.arena = Buffer();  // the old and the new one never exist together
  context.arena = Buffer(plan.arena_bytes);
}

Plan* Contexts::keep(Context& context, std::unique_ptr<Plan> plan) {
  const Plan& made = *plan;
  if (context.plans.size() == kMaxPlans)
    drop(context, std::min_element(context.plans.begin(), context.plans.end(), older)->get());
  context.plans.push_back(std::move(plan));
  context.plan_bytes += made.bytes;
  if (plan_bytes_.fetch_add(made.bytes, std::memory_order_relaxed) + made.bytes > kMaxPlanBytes) shed(context, made);
  return context.plans.back().get();
}

// Plans of this context and of idle ones, the least recently used first, until few enough are left.
void Contexts::shed(Context& context, const Plan& but) {
  struct Found {
    Context* context;
    const Plan* plan;
  };
  std::vector<Found> found;
  found.reserve((kMaxContexts + 1) * kMaxPlans);
  const Idle idle = take_idle();
  const auto add = [&](Context* each) {
    if (each == nullptr) return;
    for (const auto& plan : each->plans)
      if (plan.get() != &but) found.push_back({each, plan.get()});
  };
  std::for_each(idle.begin(), idle.end(), add);
  add(&context);
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.plan->last_used < b.plan->last_used; });
  for (const Found& each : found) {
    if (plan_bytes_.load(std::memory_order_relaxed) <= kMaxPlanBytes) break;
    drop(*each.context, each.plan);
  }
  for (Context* each : idle)
    if (each != nullptr) each->plans.empty() ? discard(each) : put_back(each);
}

// One context at a time, so that callers find the others.
template <class Visit>
void Contexts::visit_idle(Visit visit) {
  for (std::atomic<Context*>& slot : slots_)
    if (Context* context = slot.exchange(nullptr, std::memory_order_acquire))
      visit(*context) ? put_back(context) : discard(context);
}

void Contexts::trim(int64_t nanoseconds) {
  const int64_t since = now() - nanoseconds, before = held_.load();
  visit_idle([&](Context& context) {
    size_t needed = kSmallArena;
    for (const auto& plan : context.plans)
      if (plan->last_used > since) needed = std::max(needed, plan->arena_bytes);
    if (context.arena.bytes() > 2 * needed) {
      const auto bytes = static_cast<int64_t>(context.arena.bytes());
      context.arena = Buffer();
      context.booked -= bytes;
      give(bytes);
    }
    return last_use(context) > since;
  });
  if (held_.load() + static_cast<int64_t>(kSmallArena) < before) return_free_memory();
}

Contexts::Memory Contexts::memory() {
  Memory memory{.held_bytes = held_.load(), .limit_bytes = limit_};
  visit_idle([&](const Context& context) {
    memory.arena_bytes += context.arena.bytes() + static_cast<size_t>(context.plan_bytes);
    memory.plans += context.plans.size();
    ++memory.contexts;
    return true;
  });
  return memory;
}

}  // namespace lowbit::graph
