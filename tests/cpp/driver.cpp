// An embedder without Python: builds graphs through the builder and runs them, for sanitizers and emulators.
// `lowbit_tests [PART]` runs the tests whose names hold PART.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

#include "check.h"

namespace {

std::atomic<long> allocation_count{0};

void* allocate(size_t bytes, size_t alignment) {
  allocation_count.fetch_add(1, std::memory_order_relaxed);
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes == 0 ? 1 : bytes) != 0) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<size_t>(alignment)); }
// The sanitizer has its own of this form, which would not match the delete below.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return allocate(bytes, alignof(std::max_align_t));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace lowbit::test {

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

int& failures() {
  static int count = 0;
  return count;
}

long allocations() { return allocation_count.load(std::memory_order_relaxed); }

}  // namespace lowbit::test

int main(int argc, char** argv) {
  using namespace lowbit::test;
  int run = 0;
  for (const Test& test : tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    std::printf("%s\n", test.name);
    std::fflush(stdout);
    const int before = failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      std::printf("unexpected exception: %s\n", error.what());
      ++failures();
    }
    if (failures() > before) std::printf("%s FAILED\n", test.name);
    ++run;
  }
  std::printf("%d tests, %d failed checks\n", run, failures());
  return failures() == 0 && run > 0 ? 0 : 1;
}
