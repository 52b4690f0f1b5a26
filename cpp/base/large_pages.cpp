#include "base/large_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

namespace lowbit {

// Gone with the last of its pieces.
struct LargePages::Stretch {
  std::byte* data = nullptr;  // as it was mapped
  size_t bytes = 0;
  std::byte* begin = nullptr;  // of its first large page
  std::atomic<int64_t> users{1};
};

namespace {

constexpr size_t kLarge = size_t{2} << 20;  // bytes of a page
constexpr size_t kStretch = size_t{32} << 20;
constexpr size_t kWorthIt = size_t{4} << 20;  // below, half a page that is left over is too much
constexpr size_t kAlignment = 64;

thread_local LargePages* current = nullptr;

constexpr size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// AddressSanitizer sees what is read or written between buffers only where each is an allocation of its own.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kTogether = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kTogether = false;
#else
constexpr bool kTogether = true;
#endif
#else
constexpr bool kTogether = true;
#endif

}  // namespace

LargePages::LargePages(size_t expected)
    : expected_(kTogether && expected >= kWorthIt ? expected : 0), before_(current) {
  current = this;
}

LargePages::~LargePages() {
  current = before_;
  give(stretch_);
}

LargePages::Piece LargePages::take(size_t bytes) {
  return current != nullptr && current->expected_ > 0 ? current->cut(bytes) : Piece();
}

void LargePages::give(Stretch* stretch) noexcept {
  if (stretch == nullptr || stretch->users.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  munmap(stretch->data, stretch->bytes);
  delete stretch;
}

LargePages::Piece LargePages::cut(size_t bytes) {
  const size_t needed = round_up(bytes, kAlignment);
  if (stretch_ == nullptr || needed > stretch_->bytes - kLarge - used_) {
    const size_t size = round_up(std::max(needed, std::clamp(expected_, kLarge, kStretch)), kLarge) + kLarge;
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(data, size, MADV_HUGEPAGE);
#endif
    auto* begin = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(data), kLarge));
    give(stretch_);
    stretch_ = new Stretch{static_cast<std::byte*>(data), size, begin};
    used_ = 0;
    expected_ = expected_ > size ? expected_ - size : 1;
  }
  const Piece piece{stretch_->begin + used_, stretch_};
  used_ += needed;
  stretch_->users.fetch_add(1, std::memory_order_relaxed);
  return piece;
}

}  // namespace lowbit
