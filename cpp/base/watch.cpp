#include "base/watch.h"

#include <algorithm>

namespace lowbit {
namespace {

using Clock = Watch::Clock;

constexpr auto kAsk = std::chrono::milliseconds(50);
constexpr auto kShort = std::chrono::microseconds(100);  // between two readings of the clock
constexpr int kMostPieces = 64;                          // that may follow a reading, were they short so far
constexpr int kPatience = 50;                            // asking takes no more than one part in so many
constexpr double kForever = 1e9;                         // seconds

constinit thread_local Looking looking;

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
    if (!first && interrupt_.ask(interrupt_.object)) state_.compare_exchange_strong(runs, State::interrupted);
    next_ = now + kAsk + (first ? Clock::duration() : kPatience * (Clock::now() - now));
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
  if (--looking.left > 0) return false;
  const auto now = Clock::now();
  looking.stride = now - looking.last < kShort ? std::min(2 * looking.stride, kMostPieces) : 1;
  looking.left = looking.stride;
  looking.last = now;
  return looking.watch->look(now, looking.called);
}

}  // namespace lowbit
