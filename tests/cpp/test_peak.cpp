// The loops behind the roofline do all the work that their rates are made of: their results count it.
#include <cstring>

#include "base/buffer.h"
#include "check.h"
#include "kernels/peak/peak.h"

namespace lowbit::test {
namespace {

using kernels::kPeakBlock;
using kernels::PeakKernel;

bool can_run(const PeakKernel& kernel) { return is_available(kernel.isa); }

TEST(peak_loops_multiply_as_often_as_they_say) {
  for (const PeakKernel* kernel : kernels::peak_kernels()) {
    if (!can_run(*kernel)) continue;
    for (int64_t turns : {0, 1, 7, 1000}) {
      CHECK(kernel->dot(turns) == static_cast<uint32_t>(turns * kernel->int8_operations / 2 * -6));
      CHECK(kernel->fma(turns) == static_cast<float>(turns * kernel->f32_operations / 2));
    }
  }
}

TEST(peak_loops_read_every_byte) {
  constexpr int64_t kBlocks = 5;
  const Buffer data(kBlocks * kPeakBlock);
  std::byte* bytes = data.as<std::byte>();
  for (int64_t i = 0; i < kBlocks * kPeakBlock; ++i) bytes[i] = static_cast<std::byte>(i * i + i / 7);
  for (const PeakKernel* kernel : kernels::peak_kernels()) {
    if (!can_run(*kernel)) continue;
    for (int64_t turns = 0; turns <= 2 * kBlocks; ++turns) {
      uint32_t expected = 0;
      for (int64_t at = 0; at < turns * kPeakBlock; at += 4) {
        uint32_t word;
        std::memcpy(&word, bytes + at % (kBlocks * kPeakBlock), 4);
        expected ^= word;
      }
      CHECK(kernel->read(bytes, kBlocks, turns) == expected);
    }
  }
}

TEST(peak_rates_of_one_thread_and_of_more) {
  const Buffer data(1 << 16);
  const std::span<const std::byte> bytes(data.as<const std::byte>(), data.bytes());
  for (Isa isa : available_isas()) {
    const PeakKernel& kernel = kernels::best_of(kernels::peak_kernels(), isa);
    CHECK(can_run(kernel) && kernel.isa <= isa);
    for (int threads : {1, 2, 3}) {
      CHECK(kernels::peak_int8(kernel, 0, threads) > 0);
      CHECK(kernels::peak_f32(kernel, 0, threads) > 0);
      CHECK(kernels::peak_read(kernel, bytes.subspan(1), 0, threads) > 0);  // unaligned: it begins later
    }
    CHECK(kernels::peak_read(kernel, bytes.first(kPeakBlock), 0, 2) == 0);
  }
}

}  // namespace
}  // namespace lowbit::test
