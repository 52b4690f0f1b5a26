// The memory that is made while a session is prepared, counted as it is made: what goes beyond a limit is refused
// before it is allocated.
#pragma once

#include <cstddef>
#include <memory>

namespace lowbit {

// From its construction to its end, an account books all Buffers, and all vectors with a BookedAllocator, that its
// thread makes and frees.
class MemoryAccount {
 public:
  // held: what is there already. Booking more than `limit` in all throws Error(limit).
  MemoryAccount(size_t held, size_t limit);
  ~MemoryAccount();
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  size_t held() const { return held_; }

  // In the account of this thread, if it has one.
  static void take(size_t bytes);
  static void give(size_t bytes) noexcept;

 private:
  size_t held_, limit_;
  bool is_tight_ = false;
  MemoryAccount* before_;
};

template <class T>
struct BookedAllocator {
  using value_type = T;
  BookedAllocator() = default;
  template <class Other>
  explicit BookedAllocator(const BookedAllocator<Other>&) {}

  T* allocate(size_t count) {
    MemoryAccount::take(count * sizeof(T));
    try {
      return std::allocator<T>().allocate(count);
    } catch (...) {
      MemoryAccount::give(count * sizeof(T));
      throw;
    }
  }
  void deallocate(T* data, size_t count) noexcept {
    MemoryAccount::give(count * sizeof(T));
    std::allocator<T>().deallocate(data, count);
  }
  friend bool operator==(const BookedAllocator&, const BookedAllocator&) { return true; }
};

}  // namespace lowbit
