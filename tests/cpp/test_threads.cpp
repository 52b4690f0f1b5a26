// The thread pool: every task once, nested and concurrent callers, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/threads.h"
#include "check.h"

namespace lowbit::test {
namespace {

bool runs_each_once(int64_t count, int threads) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
  auto task = [&](int64_t i) { runs[static_cast<size_t>(i)].fetch_add(1); };
  parallel_for(count, threads, task);
  for (const std::atomic<int>& n : runs)
    if (n.load() != 1) return false;
  return true;
}

// The exit status of a child that runs `work`.
int in_child(const std::function<bool()>& work) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) _exit(work() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

TEST(parallel_for_runs_each_task_once) {
  for (int64_t count : {0, 1, 2, 3, 17, 1000})
    for (int threads : {1, 2, 3, 64}) CHECK(runs_each_once(count, threads));
}

TEST(parallel_for_after_workers_have_parked) {
  for (int i = 0; i < 20; ++i) {
    CHECK(runs_each_once(50, 2));
    usleep(i % 3 == 0 ? 2000 : 50);
  }
}

TEST(parallel_for_nested_and_concurrent) {
  std::atomic<int> total{0};
  auto outer = [&](int64_t) {
    auto inner = [&](int64_t) { total.fetch_add(1); };
    parallel_for(10, 4, inner);
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([&] {
      for (int j = 0; j < 50; ++j) parallel_for(10, 4, outer);
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(total.load() == 8 * 50 * 100);
}

TEST(parallel_for_in_forked_children) {
  CHECK(runs_each_once(100, 4));
  for (int i = 0; i < 5; ++i) CHECK(in_child([] { return runs_each_once(100, 4); }) == 0);
  CHECK(runs_each_once(100, 4));
}

TEST(fork_while_the_pool_is_busy) {
  std::atomic<bool> stop{false};
  std::atomic<int64_t> ran{0};
  // The busy thread allocates nothing: a fork in the midst of the sanitizer's allocator leaves its lock taken for good.
  std::thread busy([&] {
    auto task = [&](int64_t) { ran.fetch_add(1); };
    while (!stop.load()) parallel_for(200, 4, task);
  });
  for (int i = 0; i < 10; ++i) CHECK(in_child([] { return runs_each_once(100, 4); }) == 0);
  stop = true;
  busy.join();
  CHECK(ran.load() % 200 == 0);
}

TEST(default_threads_reads_the_environment) {
  CHECK(default_threads() >= 1);
  setenv("LOWBIT_THREADS", "3", 1);
  CHECK(default_threads() == 3);
  for (const char* bad : {"0", "-1", "two", "2x", "99999", " 2", "1.5"}) {
    setenv("LOWBIT_THREADS", bad, 1);
    CHECK(throws(ErrorKind::environment, bad, [] { default_threads(); }));
  }
  unsetenv("LOWBIT_THREADS");
}

TEST(default_threads_heeds_what_openmp_is_told) {
  setenv("OMP_NUM_THREADS", "1", 1);
  CHECK(default_threads() == 1);
  for (const char* one : {" 1", "1,4", "1 , 2"}) {
    setenv("OMP_NUM_THREADS", one, 1);
    CHECK(default_threads() == 1);
  }
  for (const char* no_limit : {"1024", "", "0", "-1", "many", "99999999999"}) {
    setenv("OMP_NUM_THREADS", no_limit, 1);
    CHECK(default_threads() == available_threads());
  }
  setenv("OMP_NUM_THREADS", "1", 1);
  setenv("LOWBIT_THREADS", "3", 1);
  CHECK(default_threads() == 3);
  unsetenv("LOWBIT_THREADS");
  unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace lowbit::test
