// All kernel families of this build, for those who list them.
#pragma once

#include <vector>

#include "base/shared.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct Family {
  const char* name;
  std::vector<const KernelRow*> rows;  // best first
};
LOWBIT_SHARED std::vector<Family> families();

}  // namespace lowbit::kernels
