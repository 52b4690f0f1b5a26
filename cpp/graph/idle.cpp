#include "graph/idle.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <cstddef>

#include "graph/contexts.h"

namespace lowbit::graph::idle {

std::atomic<bool> watched{false};

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr size_t kStack = size_t{256} << 10;

// All contexts, as a list through them. Static storage that is never destroyed: the thread may outlive main().
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
Contexts* first = nullptr;
std::atomic<int64_t> after{10 * kSecond};

class Locked {
 public:
  Locked() { pthread_mutex_lock(&lock); }
  ~Locked() { pthread_mutex_unlock(&lock); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
};

// Whether any session keeps something still.
bool trim_all() {
  const Locked locked;
  bool left = false;
  for (Contexts* each = first; each != nullptr; each = each->next_) {
    each->trim(period());
    left = left || each->keeps();
  }
  return left;
}

void* look_after(void*) {
  for (;;) {
    const int64_t pause = period() / 2;
    const timespec duration{.tv_sec = static_cast<time_t>(pause / kSecond), .tv_nsec = pause % kSecond};
    nanosleep(&duration, nullptr);
    if (trim_all()) continue;
    watched.store(false);
    // A call that ended meanwhile may have found itself watched.
    if (!trim_all() || watched.exchange(true)) return nullptr;
  }
}

void add_fork_handlers() {
  pthread_atfork([] { pthread_mutex_lock(&lock); }, [] { pthread_mutex_unlock(&lock); },
                 [] {
                   watched.store(false);
                   pthread_mutex_unlock(&lock);
                 });
}

pthread_once_t fork_handlers = PTHREAD_ONCE_INIT;

}  // namespace

int64_t period() { return after.load(std::memory_order_relaxed); }
void set_period(int64_t nanoseconds) { after.store(nanoseconds, std::memory_order_relaxed); }

void add(Contexts& contexts) {
  pthread_once(&fork_handlers, add_fork_handlers);
  const Locked locked;
  contexts.next_ = first;
  first = &contexts;
}

void remove(Contexts& contexts) {
  const Locked locked;
  Contexts** link = &first;
  while (*link != &contexts) link = &(*link)->next_;
  *link = contexts.next_;
}

void start_watching() {
  if (watched.exchange(true)) return;
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return watched.store(false);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStack);
  sigset_t all, before;  // signals belong to the host program's threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  if (pthread_create(&thread, &attributes, look_after, nullptr) != 0) watched.store(false);  // the next call tries
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace lowbit::graph::idle
