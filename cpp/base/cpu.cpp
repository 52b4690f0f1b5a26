#include "base/cpu.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <string>

#include "base/error.h"

namespace lowbit {
namespace {

constexpr size_t kCount = std::size(kIsas);

bool has_all(std::string_view features) {
  while (!features.empty()) {
    const size_t end = std::min(features.find(' '), features.size());
    if (!cpu_has(features.substr(0, end))) return false;
    features.remove_prefix(std::min(end + 1, features.size()));
  }
  return true;
}

}  // namespace

bool is_available(Isa isa) {
  static const std::array<bool, kCount> known = [] {
    std::array<bool, kCount> result{};
    for (size_t i = 0; i < kCount; ++i) result[i] = has_all(kIsas[i].features);
    return result;
  }();
  return known[static_cast<size_t>(isa)];
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (size_t i = 0; i < kCount; ++i)
    if (is_available(static_cast<Isa>(i))) result.push_back(static_cast<Isa>(i));
  return result;
}

Isa parse_isa(std::string_view name) {
  std::string choices;
  for (Isa isa : available_isas()) {
    if (name_of(isa) == name) return isa;
    choices += (choices.empty() ? "" : ", ") + std::string(name_of(isa));
  }
  const bool known = std::ranges::any_of(kIsas, [&](const IsaInfo& isa) { return isa.name == name; });
  throw Error(ErrorKind::environment, "instruction set '" + std::string(name) + "' is " +
                                          (known ? "not available on this CPU" : "unknown") + "; choose one of " +
                                          choices);
}

Isa default_isa() {
  const char* cap = std::getenv("LOWBIT_ISA");
  if (cap != nullptr && *cap != '\0') return parse_isa(cap);
  return available_isas().back();
}

bool runs_on(Isa kernel, Isa cap) { return kernel <= cap && is_available(kernel); }

}  // namespace lowbit
