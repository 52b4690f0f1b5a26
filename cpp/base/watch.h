// What ends a call early: its deadline, or who called. Tasks and long loops ask between pieces of work, and leave the
// rest undone; the session then throws. Asking costs next to nothing, so that short pieces can ask, too.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

namespace lowbit {

// Whether the thread that called wants the call to end; it is asked there, every 50 ms or so.
struct Interrupt {
  bool (*ask)(void* object) = nullptr;
  void* object = nullptr;
};

class Watch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Watch(std::optional<double> seconds = {}, Interrupt interrupt = {})
      : seconds_(seconds), interrupt_(interrupt) {
    restart();
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void restart();  // the deadline counts from now
  std::optional<double> seconds() const { return seconds_; }
  bool is_needed() const { return seconds_.has_value() || interrupt_.ask != nullptr; }
  bool stopped() const { return state_.load(std::memory_order_relaxed) != State::runs; }
  bool is_late() const { return state_.load(std::memory_order_relaxed) == State::late; }
  // Whether to stop; called: this is the thread that called.
  bool look(Clock::time_point now, bool called);

 private:
  enum class State : uint8_t { runs, late, interrupted };
  std::optional<double> seconds_;
  Interrupt interrupt_;
  Clock::time_point deadline_, next_;  // next_: when to ask
  std::atomic<State> state_{State::runs};
};

// What a thread looks at.
struct Looking {
  Watch* watch = nullptr;
  bool called = false;
};

// While it lives, its thread looks at the watch; null: at none.
class Watching {
 public:
  Watching(Watch* watch, bool called);
  ~Watching();
  Watching(const Watching&) = delete;
  Watching& operator=(const Watching&) = delete;

 private:
  bool changes_;
  Looking before_;
};

Watch* watched();    // by this thread
bool should_stop();  // what this thread works for

}  // namespace lowbit
