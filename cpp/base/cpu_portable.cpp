// Of an architecture without kernels of its own nothing needs to be known.
#include "base/cpu.h"

namespace lowbit {

bool cpu_has(std::string_view) { return false; }
std::string_view cpu_model() { return "unknown processor"; }

}  // namespace lowbit
