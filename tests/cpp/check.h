// The smallest test harness that does: a test is a function that registers itself, a failed check is printed and
// counted.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace lowbit::test {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& tests();
int& failures();

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST(name)                                                  \
  static void name();                                               \
  static const lowbit::test::Register register_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::printf("%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      ++lowbit::test::failures();                                          \
    }                                                                      \
  } while (false)

// Whether `call` throws an Error of that kind whose text holds `part`.
inline bool throws(ErrorKind kind, const std::string& part, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() == kind && std::string(error.what()).find(part) != std::string::npos) return true;
    std::printf("other error: %s\n", error.what());
    return false;
  }
  std::printf("no error, expected '%s'\n", part.c_str());
  return false;
}

// Calls of the allocator so far, on all threads.
long allocations();

}  // namespace lowbit::test
