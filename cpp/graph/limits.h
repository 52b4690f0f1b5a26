// What a session and its calls may use. Absent: no limit.
#pragma once

#include <cstdint>
#include <optional>

namespace lowbit::graph {

struct Limits {
  std::optional<int64_t> memory;            // bytes that a session may hold in all; absent: what this process may use
  std::optional<double> operations = 1e13;  // of one call: a multiply-add counts two, a byte read or written one
  std::optional<int64_t> batch = 65536;     // of one call: the free sizes that are called so
  std::optional<double> seconds;            // that one call may take
  std::optional<int64_t> weights;           // bytes that constants and packed weights may take; absent: see program.h
};

}  // namespace lowbit::graph
