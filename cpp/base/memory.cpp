#include "base/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/cgroups.h"

namespace lowbit {
namespace {

constexpr int64_t kNoLimit = INT64_MAX;

// Of a file with a number of bytes; "max", and a number that is none, are no limit.
int64_t limit_in(const std::string& path) {
  const auto line = read_line(path);
  int64_t bytes = 0;
  if (!line || std::from_chars(line->data(), line->data() + line->size(), bytes).ec != std::errc()) return kNoLimit;
  return bytes > 0 ? bytes : kNoLimit;
}

int64_t cgroup_limit(const std::string& root) {
  int64_t least = kNoLimit;
  for (const Cgroup& group : cgroups("memory", root))
    least =
        std::min(least, limit_in(group.directory + (group.version == 1 ? "/memory.limit_in_bytes" : "/memory.max")));
  return least;
}

int64_t address_space() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur > static_cast<rlim_t>(kNoLimit)) return kNoLimit;
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

int64_t available_memory(const std::string& root) {
  const int64_t machine = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return std::min({machine, cgroup_limit(root), address_space()});
}

void return_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

std::string in_mebibytes(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace lowbit
