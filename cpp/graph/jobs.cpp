#include "graph/jobs.h"

#include <algorithm>

namespace lowbit::graph {
namespace {

constexpr size_t kMaxKeptBytes = size_t{1} << 26;  // of what depends on no input; what goes beyond is computed anew

}  // namespace

// Views of what is known cost nothing and stay in the second job.
Jobs divide(const Program& program, std::span<const TensorType> types) {
  const size_t count = program.nodes.size();
  std::vector<char> known(types.size(), 0), wanted(types.size(), 0), kept(types.size(), 0), needed(types.size(), 0);
  std::vector<char> is_known(count, 0), runs_always(count, 0), runs_once(count, 0);
  for (size_t value = 0; value < types.size(); ++value) known[value] = program.values[value].is_constant;
  size_t bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const Program::Node& node = program.nodes[i];
    size_t made = 0;
    for (int value : node.outputs) made += bytes_of(types[value]);
    is_known[i] = bytes + made <= kMaxKeptBytes && std::all_of(node.inputs.begin(), node.inputs.end(),
                                                               [&](int value) { return value < 0 || known[value]; });
    if (is_known[i]) bytes += made;
    for (int value : node.outputs) known[value] = is_known[i];
  }
  const auto any = [](const std::vector<int>& values, const std::vector<char>& flags) {
    return std::any_of(values.begin(), values.end(), [&](int value) { return flags[value]; });
  };
  const auto mark = [](const std::vector<int>& values, std::vector<char>& flags) {
    for (int value : values)
      if (value >= 0) flags[value] = 1;
  };
  Jobs jobs;
  for (const Program::Output& output : program.outputs) {
    jobs.always.outputs.push_back(output.value);
    wanted[output.value] = 1;
  }
  for (size_t i = count; i-- > 0;) {
    const Program::Node& node = program.nodes[i];
    if (is_known[i] && !any(node.outputs, wanted)) continue;
    runs_always[i] = !is_known[i] || node.impl->is_view();
    if (runs_always[i])
      mark(node.inputs, wanted);
    else
      for (int value : node.outputs) kept[value] = wanted[value];
  }
  needed = kept;
  for (size_t i = count; i-- > 0;) {
    runs_once[i] = is_known[i] && any(program.nodes[i].outputs, needed);
    if (runs_once[i]) mark(program.nodes[i].inputs, needed);
  }
  for (size_t i = 0; i < count; ++i) {
    if (runs_once[i]) jobs.once.nodes.push_back(i);
    if (runs_always[i]) jobs.always.nodes.push_back(i);
  }
  for (size_t value = 0; value < types.size(); ++value)
    if (kept[value]) jobs.once.outputs.push_back(value);
  return jobs;
}

}  // namespace lowbit::graph
