// Which instruction sets there are, and which of them this process may use.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "base/shared.h"

namespace lowbit {

// Ascending within an architecture: a CPU (or cap) at one level also runs every kernel of the lower levels.
enum class Isa { scalar, avx2, avxvnni, avx512vnni };

struct IsaInfo {
  const char* name;
  const char* architecture;  // whose builds have it
  int lanes;                 // numbers of 32 bits in a vector; scalar kernels are laid out as if they had vectors, too
  const char* features;      // what the CPU must have, and what cpp/isa.cmake lets the compiler use
};

// The only list of instruction sets, in the order of Isa.
inline constexpr IsaInfo kIsas[] = {
    {"scalar", "any", 8, ""},
    {"avx2", "x86", 8, "avx2 fma f16c"},
    {"avxvnni", "x86", 8, "avx2 fma f16c avxvnni"},
    {"avx512vnni", "x86", 16, "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512vnni"},
};
constexpr const IsaInfo& info_of(Isa isa) { return kIsas[static_cast<size_t>(isa)]; }
constexpr std::string_view name_of(Isa isa) { return info_of(isa).name; }

LOWBIT_SHARED std::vector<Isa>
available_isas();  // what this CPU and operating system can run, ascending; scalar is always there
LOWBIT_SHARED Isa
parse_isa(std::string_view name);          // throws Error(environment) for an unknown name or one this CPU lacks
LOWBIT_SHARED Isa default_isa();           // the best available, capped by LOWBIT_ISA; reads the environment each time
LOWBIT_SHARED bool is_available(Isa isa);  // can this CPU run it?
LOWBIT_SHARED bool runs_on(Isa kernel, Isa cap);  // may a kernel row of this ISA be used under this cap on this CPU?

// Each architecture has its own (cpu_<architecture>.cpp).
bool cpu_has(std::string_view feature);  // and does the operating system let it be used?
LOWBIT_SHARED std::string_view cpu_model();

}  // namespace lowbit
