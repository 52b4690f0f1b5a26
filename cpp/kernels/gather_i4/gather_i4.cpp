// The table of kernels and the choice among them.
#include "kernels/gather_i4/gather_i4.h"

#include <algorithm>

#include "kernels/gather_i4/groups.h"

namespace lowbit::kernels {
namespace {

constexpr GatherI4Kernel kTable[] = {
#ifdef LOWBIT_HAVE_X86
    {"avx512vnni", Isa::avx512vnni, gather_i4_avx512vnni},
    {"avx2", Isa::avx2, gather_i4_avx2},
#endif
    {"scalar", Isa::scalar, gather_i4_scalar},
};

}  // namespace

std::span<const GatherI4Kernel> gather_i4_kernels() { return kTable; }

const GatherI4Kernel& select_gather_i4(Isa cap) {
  return *std::ranges::find_if(kTable, [cap](const GatherI4Kernel& kernel) { return runs_on(kernel.isa, cap); });
}

}  // namespace lowbit::kernels
