// What a file says beside its graph, as python/lowbit/runtime/meta.py and calls.py read it: it is checked, and names
// come of it for what a call takes and gives.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reader/json.h"

namespace lowbit::reader {

struct Names {
  std::map<std::string, std::string, std::less<>> inputs;  // of a call, by the graph's
  std::map<int64_t, std::string> outputs;                  // by the graph's index
};

// Throws Error(format).
Names names_of(const Json& meta, const std::vector<std::string>& inputs, size_t outputs);

}  // namespace lowbit::reader
