#include "base/cpu.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

#ifdef LOWBIT_HAVE_X86
#include <cpuid.h>
#endif

namespace lowbit {
namespace {

constexpr std::array kIsas = {Isa::scalar, Isa::avx2, Isa::avxvnni, Isa::avx512vnni};

#ifdef LOWBIT_HAVE_X86

// __builtin_cpu_supports also asks the operating system (XGETBV), which the plain CPUID bits do not.
bool detect(Isa isa) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avxvnni: {
      unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
      return avx2 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
    }
    case Isa::avx512vnni:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
  }
  return false;
}

std::string read_model() {
  std::array<unsigned, 12> words{};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned* w = words.data() + 4 * leaf;
    if (__get_cpuid(0x80000002u + leaf, w, w + 1, w + 2, w + 3) == 0) return "unknown x86-64 processor";
  }
  std::string model(reinterpret_cast<const char*>(words.data()), sizeof words);
  model.resize(std::strlen(model.c_str()));
  const size_t first = model.find_first_not_of(' '), last = model.find_last_not_of(' ');
  return first == std::string::npos ? "unknown x86-64 processor" : model.substr(first, last - first + 1);
}

#else

bool detect(Isa isa) { return isa == Isa::scalar; }
std::string read_model() { return "unknown processor"; }

#endif

bool available(Isa isa) {
  static const std::array<bool, kIsas.size()> known = [] {
    std::array<bool, kIsas.size()> result{};
    for (size_t i = 0; i < kIsas.size(); ++i) result[i] = detect(kIsas[i]);
    return result;
  }();
  return known[static_cast<size_t>(isa)];
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avxvnni:
      return "avxvnni";
    case Isa::avx512vnni:
      return "avx512vnni";
  }
  return "unknown";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (Isa isa : kIsas)
    if (available(isa)) result.push_back(isa);
  return result;
}

Isa parse_isa(std::string_view name) {
  std::string choices;
  for (Isa isa : available_isas()) {
    if (name_of(isa) == name) return isa;
    choices += (choices.empty() ? "" : ", ") + std::string(name_of(isa));
  }
  bool known = false;
  for (Isa isa : kIsas) known = known || name_of(isa) == name;
  throw Error(ErrorKind::environment, "instruction set '" + std::string(name) + "' is " +
                                          (known ? "not available on this CPU" : "unknown") + "; choose one of " +
                                          choices);
}

Isa default_isa() {
  const char* cap = std::getenv("LOWBIT_ISA");
  if (cap != nullptr && *cap != '\0') return parse_isa(cap);
  return available_isas().back();
}

bool runs_on(Isa kernel, Isa cap) { return kernel <= cap && available(kernel); }

std::string_view cpu_model() {
  static const std::string model = read_model();
  return model;
}

}  // namespace lowbit
