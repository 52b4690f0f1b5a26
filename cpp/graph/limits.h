// What a session and its calls may use. Absent: no limit.
#pragma once

#include <cstdint>
#include <optional>

namespace lowbit::graph {

struct Limits {
  std::optional<int64_t> memory;            // bytes that a session may hold in all; absent: what this process may use
  std::optional<double> operations = 1e13;  // of one call: a multiply-add counts two, a byte read or written one
  std::optional<double> seconds;            // that one call may take
};

}  // namespace lowbit::graph
