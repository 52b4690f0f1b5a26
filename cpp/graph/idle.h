// Gives back what sessions keep and no call uses, also of a process that calls nothing any more: by one thread, which
// is there while any session keeps something. A forked child has none until its first call ends.
#pragma once

#include <atomic>

#include "base/shared.h"

namespace lowbit::graph {

class Contexts;

namespace idle {

extern std::atomic<bool> watched;

// Between them, the thread looks after `contexts`.
void add(Contexts& contexts);
void remove(Contexts& contexts);

void start_watching();
// Of a call that leaves something behind.
inline void watch() {
  if (!watched.load(std::memory_order_relaxed)) start_watching();
}

// After how many nanoseconds without a call something is given back; for tests, before the first call.
int64_t period();
LOWBIT_SHARED void set_period(int64_t nanoseconds);

}  // namespace idle

}  // namespace lowbit::graph
