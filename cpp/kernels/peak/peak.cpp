// The clock around the loops.
#include "kernels/peak/peak.h"

#include <atomic>
#include <chrono>

#include "base/threads.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kTurns = 8192;  // between looks at the clock: tens of microseconds

// How much `call(thread)` does a second, which does `amount`. A thread that starts late does less, at least one call.
template <class F>
double rate(double amount, double seconds, int threads, F call) {
  using Clock = std::chrono::steady_clock;
  std::atomic<int64_t> calls{0};
  const Clock::time_point start = Clock::now();
  const Clock::time_point end =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  auto task = [&](int64_t thread) {
    int64_t count = 0;
    do {
      call(thread);
      ++count;
    } while (Clock::now() < end);
    calls.fetch_add(count, std::memory_order_relaxed);
  };
  parallel_for(threads, threads, task);
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  return amount * static_cast<double>(calls.load()) / elapsed.count();
}

}  // namespace

double peak_int8(const PeakKernel& kernel, double seconds, int threads) {
  return rate(static_cast<double>(kTurns * kernel.int8_operations), seconds, threads,
              [&](int64_t) { kernel.dot(kTurns); });
}

double peak_f32(const PeakKernel& kernel, double seconds, int threads) {
  return rate(static_cast<double>(kTurns * kernel.f32_operations), seconds, threads,
              [&](int64_t) { kernel.fma(kTurns); });
}

double peak_read(const PeakKernel& kernel, std::span<const std::byte> data, double seconds, int threads) {
  const size_t misaligned = reinterpret_cast<uintptr_t>(data.data()) % 64,
               skipped = misaligned == 0 ? 0 : 64 - misaligned;
  const int64_t blocks = (std::ssize(data) - static_cast<int64_t>(skipped)) / kPeakBlock / threads;
  if (blocks <= 0) return 0;
  const std::byte* first = data.data() + skipped;
  // Whole passes, so that what a slice leaves in the caches is not what the next one begins with.
  const int64_t turns = blocks * ((kTurns + blocks - 1) / blocks);
  return rate(static_cast<double>(turns * kPeakBlock), seconds, threads,
              [&](int64_t thread) { kernel.read(first + thread * blocks * kPeakBlock, blocks, turns); });
}

}  // namespace lowbit::kernels
