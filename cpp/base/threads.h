// One process-wide thread pool. A caller that finds it busy runs its tasks alone, so callers never wait for each other.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/shared.h"

namespace lowbit {

// CPUs this process may use: the least of its affinity and its cgroup quota (rounded up), at least 1.
int available_threads();
// LOWBIT_THREADS, else available_threads(), at most OMP_NUM_THREADS where that is set. Throws Error(environment) for a
// LOWBIT_THREADS that is no number of threads.
LOWBIT_SHARED int default_threads();

// A borrowed callable `void(int64_t task)`: no allocation, must outlive the call.
class TaskRef {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, TaskRef>)
  TaskRef(F& function)  // NOLINT(google-explicit-constructor): a borrowed lambda is the natural argument
      : object_(&function), call_([](void* object, int64_t task) { (*static_cast<F*>(object))(task); }) {}
  void operator()(int64_t task) const { call_(object_, task); }

 private:
  void* object_;
  void (*call_)(void*, int64_t);
};

// Runs task(0) .. task(count - 1), each once, in no order, on at most `threads` threads (the caller is one of them).
// Once the caller's watch says so (base/watch.h), those that have not begun are left out.
// Tasks must not throw. Workers are created as first needed, up to default_threads() - 1; then nothing is allocated. A
// child of fork() starts with an empty pool.
void parallel_for(int64_t count, int threads, TaskRef task);

}  // namespace lowbit
