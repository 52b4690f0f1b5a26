// Which instruction sets this process may use.
#pragma once

#include <string_view>
#include <vector>

namespace lowbit {

// Ordered: a CPU (or cap) at one level also runs every kernel of the lower levels.
enum class Isa { scalar, avx2, avxvnni, avx512vnni };

std::string_view name_of(Isa isa);
std::vector<Isa> available_isas();     // what this CPU and operating system can run, ascending; scalar is always there
Isa parse_isa(std::string_view name);  // throws Error(environment) for an unknown name or one this CPU lacks
Isa default_isa();                     // the best available, capped by LOWBIT_ISA; reads the environment each time
bool runs_on(Isa kernel, Isa cap);     // may a kernel row of this ISA be used under this cap on this CPU?
std::string_view cpu_model();

}  // namespace lowbit
