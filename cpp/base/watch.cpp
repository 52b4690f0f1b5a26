#include "base/watch.h"

#include <algorithm>
#include <ctime>

namespace lowbit {
namespace {

using Clock = Watch::Clock;

constexpr auto kAsk = std::chrono::milliseconds(50);
constexpr int kPatience = 50;     // asking takes no more than one part in so many
constexpr double kForever = 1e9;  // seconds

constinit thread_local Looking looking;

// Exact to some milliseconds, and read in a few nanoseconds.
Clock::time_point about_now() {
#ifdef CLOCK_MONOTONIC_COARSE
  timespec time{};
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &time) == 0)
    return Clock::time_point(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
#endif
  return Clock::now();
}

}  // namespace

void Watch::restart() {
  if (!seconds_) return;
  deadline_ = Clock::now() +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(*seconds_, kForever)));
}

bool Watch::look(Clock::time_point now, bool called) {
  State runs = State::runs;
  if (seconds_ && now >= deadline_) {
    state_.compare_exchange_strong(runs, State::late);
  } else if (called && interrupt_.ask != nullptr && now >= next_) {
    const bool first = next_ == Clock::time_point();
    const auto start = first ? now : Clock::now();
    if (!first && interrupt_.ask(interrupt_.object)) state_.compare_exchange_strong(runs, State::interrupted);
    next_ = now + kAsk + (first ? Clock::duration() : kPatience * (Clock::now() - start));
  }
  return stopped();
}

Watching::Watching(Watch* watch, bool called) : changes_(watch != looking.watch) {
  if (!changes_) return;
  before_ = looking;
  looking = {};
  looking.watch = watch;
  looking.called = called;
}

Watching::~Watching() {
  if (changes_) looking = before_;
}

Watch* watched() { return looking.watch; }

bool should_stop() {
  if (looking.watch == nullptr) return false;
  if (looking.watch->stopped()) return true;
  return looking.watch->look(about_now(), looking.called);
}

}  // namespace lowbit
