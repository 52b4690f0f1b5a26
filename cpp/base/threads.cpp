// The pool is a fixed table of mailboxes in static storage: it is never destroyed, so workers parked at process exit
// touch nothing that is gone, and a forked child starts over by clearing the table. One caller owns the pool at a time.
// It posts a job to as many workers as it wants, works along, then takes back the posts that no worker has picked up: a
// worker that wakes late costs nothing.
//
// Each thread begins with a share of adjacent tasks, the same in every job, and then helps others with theirs: layers
// that are cut alike find what they read in the cache of the core that wrote it.
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cfenv>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "base/cgroups.h"
#include "base/error.h"
#include "base/watch.h"

namespace lowbit {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWorkers = 255;
constexpr auto kSpin = std::chrono::microseconds(100);  // about the gap between two layers

// idle -> posted -> running -> idle, idle -> parked -> posted, posted -> idle (taken back), running -> awaited -> idle.
enum State : uint32_t { kIdle, kParked, kPosted, kRunning, kAwaited };

struct alignas(64) Mailbox {
  std::atomic<uint32_t> state{kIdle};
};

// Tasks that one thread takes first.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Pool {
  std::atomic<bool> busy{false};
  // The job: written by the owner before it posts, read by workers after they pick the post up.
  const TaskRef* task = nullptr;
  Watch* watch = nullptr;                       // that the caller looks at
  int threads = 0;                              // that have shares, the caller included
  std::array<Share, kMaxWorkers + 1> shares{};  // the caller's is the first
  int workers = 0;                              // created so far; touched by the owner only
  int limit = 0;                                // of threads, the caller included; 0: not read yet
  std::array<Mailbox, kMaxWorkers> mailboxes{};
};

constinit Pool pool;
std::atomic<bool> fork_handler_set{false};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins for a bounded time until `done()`; false if the time ran out first.
template <class F>
bool spin_until(F done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

void work(int self) {
  for (int i = 0; i < pool.threads; ++i) {
    Share& share = pool.shares[(self + i) % pool.threads];
    for (int64_t task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
      if (should_stop()) return;
      (*pool.task)(task);
    }
  }
}

void* worker_main(void* argument) {
  auto* mailbox = static_cast<Mailbox*>(argument);
  std::atomic<uint32_t>& state = mailbox->state;
  const int self = static_cast<int>(mailbox - pool.mailboxes.data()) + 1;
  std::fesetenv(FE_DFL_ENV);  // the creator may flush denormals; results must not depend on who runs a task
  const auto posted = [&] { return state.load(std::memory_order_relaxed) == kPosted; };
  for (;;) {
    if (!spin_until(posted)) {
      uint32_t expected = kIdle;
      if (state.compare_exchange_strong(expected, kParked)) state.wait(kParked);
    }
    uint32_t expected = kPosted;
    if (!state.compare_exchange_strong(expected, kRunning, std::memory_order_acquire)) continue;
    {
      const Watching watching(pool.watch, false);
      work(self);
    }
    if (state.exchange(kIdle, std::memory_order_acq_rel) == kAwaited) state.notify_one();
  }
  return nullptr;
}

bool start_worker(Mailbox& mailbox) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // Signals belong to the host program's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, worker_main, &mailbox) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
}

// The workers did not follow into the child, whatever they were doing.
void reset_after_fork() {
  for (Mailbox& mailbox : pool.mailboxes) mailbox.state.store(kIdle, std::memory_order_relaxed);
  pool.workers = 0;
  pool.limit = 0;
  pool.busy.store(false, std::memory_order_relaxed);
}

// Workers there are for a job that wants `wanted` of them; creates the missing ones, within the process's limit.
int hire(int wanted) {
  if (wanted <= pool.workers) return wanted;
  if (pool.limit == 0) {
    try {
      pool.limit = default_threads();
    } catch (const Error&) {
      pool.limit = available_threads();
    }
  }
  wanted = std::min({wanted, pool.limit - 1, kMaxWorkers});
  if (wanted > pool.workers && !fork_handler_set.exchange(true)) pthread_atfork(nullptr, nullptr, reset_after_fork);
  while (pool.workers < wanted && start_worker(pool.mailboxes[pool.workers])) ++pool.workers;
  return std::min(wanted, pool.workers);
}

void post(Mailbox& mailbox) {
  if (mailbox.state.exchange(kPosted, std::memory_order_acq_rel) == kParked) mailbox.state.notify_one();
}

// Takes the post back, or waits until the worker is done with it.
void settle(Mailbox& mailbox) {
  std::atomic<uint32_t>& state = mailbox.state;
  uint32_t expected = kPosted;
  if (state.compare_exchange_strong(expected, kIdle, std::memory_order_acq_rel)) return;
  if (spin_until([&] { return state.load(std::memory_order_acquire) != kRunning; })) return;  // idle, or parked again
  expected = kRunning;
  if (state.compare_exchange_strong(expected, kAwaited, std::memory_order_acq_rel)) state.wait(kAwaited);
}

int processors(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return kMaxThreads;
  const double whole = quota / period;
  return whole >= kMaxThreads ? kMaxThreads
                              : std::max(1, static_cast<int>(whole) + (whole > static_cast<int>(whole) ? 1 : 0));
}

// cpu.max of one cgroup v2 directory: "max 100000" or "150000 100000".
int quota_v2(const std::string& directory) {
  const auto line = read_line(directory + "/cpu.max");
  double quota = 0, period = 0;
  if (!line || std::sscanf(line->c_str(), "%lf %lf", &quota, &period) != 2) return kMaxThreads;
  return processors(quota, period);
}

int quota_v1(const std::string& directory) {
  const auto quota = read_line(directory + "/cpu.cfs_quota_us"), period = read_line(directory + "/cpu.cfs_period_us");
  if (!quota || !period) return kMaxThreads;
  return processors(std::atof(quota->c_str()), std::atof(period->c_str()));
}

int cgroup_quota() {
  int least = kMaxThreads;
  for (const Cgroup& group : cgroups("cpu"))
    least = std::min(least, group.version == 1 ? quota_v1(group.directory) : quota_v2(group.directory));
  return least;
}

int affinity() {
#ifdef __linux__
  // The kernel refuses a set smaller than its own mask: ask with more room until it fits.
  for (int cpus = CPU_SETSIZE; cpus <= (1 << 18); cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(cpus);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// OMP_NUM_THREADS, by which Ray, Spark and Dask say how many CPUs a worker has without pinning it to them. Of a list,
// one for each level of nesting, the first counts. What is no number is left to OpenMP to complain of.
int openmp_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return kMaxThreads;
  while (std::isspace(static_cast<unsigned char>(*text))) ++text;
  int value = 0;
  const auto parsed = std::from_chars(text, text + std::strlen(text), value);
  return parsed.ec == std::errc() && value >= 1 ? std::min(value, kMaxThreads) : kMaxThreads;
}

}  // namespace

int available_threads() { return std::clamp(std::min(affinity(), cgroup_quota()), 1, kMaxThreads); }

int default_threads() {
  const char* text = std::getenv("LOWBIT_THREADS");
  if (text == nullptr || *text == '\0') return std::min(available_threads(), openmp_threads());
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < 1 || value > kMaxThreads) {
    throw Error(ErrorKind::environment, "LOWBIT_THREADS must be a whole number from 1 to " +
                                            std::to_string(kMaxThreads) + ", got '" + text + "'");
  }
  return value;
}

void parallel_for(int64_t count, int threads, TaskRef task) {
  const int wanted = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
  if (wanted <= 0 || pool.busy.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < count && !should_stop(); ++i) task(i);
    return;
  }
  const int helpers = hire(wanted);
  pool.task = &task;
  pool.watch = watched();
  pool.threads = helpers + 1;
  for (int i = 0; i < pool.threads; ++i) {
    Share& share = pool.shares[i];
    share.next.store(count * i / pool.threads, std::memory_order_relaxed);
    share.end = count * (i + 1) / pool.threads;
  }
  for (int i = 0; i < helpers; ++i) post(pool.mailboxes[i]);
  work(0);
  for (int i = 0; i < helpers; ++i) settle(pool.mailboxes[i]);
  pool.busy.store(false, std::memory_order_release);
}

}  // namespace lowbit
