// The control groups of this process, whose limits containers set.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lowbit {

struct Cgroup {
  int version;            // 1 or 2
  std::string directory;  // where the files of its limits are
};

// Those that may limit what a controller ("cpu", "memory") gives: the process's own, and all above it. root: of the
// file system, for tests.
std::vector<Cgroup> cgroups(std::string_view controller, const std::string& root = "");

// The first line of a file, without its end; nothing where there is no such file.
std::optional<std::string> read_line(const std::string& path);

}  // namespace lowbit
