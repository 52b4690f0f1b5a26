// What CPUID says.
#include <cpuid.h>

#include <array>
#include <cstring>
#include <string>

#include "base/cpu.h"

namespace lowbit {
namespace {

bool has_avxvnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}

bool has_f16c() {  // older compilers do not know its name
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
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

}  // namespace

// __builtin_cpu_supports also asks the operating system (XGETBV), which the plain CPUID bits do not.
bool cpu_has(std::string_view feature) {
  if (feature == "avx2") return __builtin_cpu_supports("avx2");
  if (feature == "fma") return __builtin_cpu_supports("fma");
  if (feature == "f16c") return __builtin_cpu_supports("avx") && has_f16c();
  if (feature == "avxvnni") return __builtin_cpu_supports("avx2") && has_avxvnni();
  if (feature == "avx512f") return __builtin_cpu_supports("avx512f");
  if (feature == "avx512bw") return __builtin_cpu_supports("avx512bw");
  if (feature == "avx512dq") return __builtin_cpu_supports("avx512dq");
  if (feature == "avx512vl") return __builtin_cpu_supports("avx512vl");
  if (feature == "avx512vnni") return __builtin_cpu_supports("avx512vnni");
  return false;
}

std::string_view cpu_model() {
  static const std::string model = read_model();
  return model;
}

}  // namespace lowbit
