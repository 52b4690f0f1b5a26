#include "base/cgroups.h"

#include <cstdio>
#include <cstring>

namespace lowbit {
namespace {

// The group's directory under the mount, those above it, and the mount itself, which is a container's own group.
void add_groups(int version, const std::string& mount, std::string group, std::vector<Cgroup>& groups) {
  for (; !group.empty() && group != "/"; group.erase(group.rfind('/'))) groups.push_back({version, mount + group});
  groups.push_back({version, mount});
}

// Whether a list such as "cpu,cpuacct" names the controller.
bool names(std::string_view list, std::string_view controller) {
  while (!list.empty()) {
    const size_t end = list.find(',');
    if (list.substr(0, end) == controller) return true;
    list = end == std::string_view::npos ? std::string_view() : list.substr(end + 1);
  }
  return false;
}

}  // namespace

std::optional<std::string> read_line(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return std::nullopt;
  char line[512];
  const bool ok = std::fgets(line, sizeof line, file) != nullptr;
  std::fclose(file);
  if (!ok) return std::nullopt;
  line[std::strcspn(line, "\n")] = '\0';
  return line;
}

std::vector<Cgroup> cgroups(std::string_view controller, const std::string& root) {
  const std::string v2 = root + "/sys/fs/cgroup", hybrid = v2 + "/unified", v1 = v2 + "/" + std::string(controller);
  std::vector<Cgroup> groups = {{2, v2}, {1, v1}};
  std::FILE* file = std::fopen((root + "/proc/self/cgroup").c_str(), "r");
  if (file == nullptr) return groups;
  char line[4096];
  while (std::fgets(line, sizeof line, file) != nullptr) {  // "0::/path" or "4:cpu,cpuacct:/path"
    line[std::strcspn(line, "\n")] = '\0';
    char* controllers = std::strchr(line, ':');
    char* path = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
    if (path == nullptr || path[1] != '/' || std::strstr(path, "..") != nullptr) continue;
    *path++ = '\0';
    if (*++controllers == '\0') {
      add_groups(2, v2, path, groups);
      add_groups(2, hybrid, path, groups);
    } else if (names(controllers, controller)) {
      add_groups(1, v1, path, groups);
    }
  }
  std::fclose(file);
  return groups;
}

}  // namespace lowbit
