// The rows that the files of this folder give to the table.
#pragma once

#include "kernels/peak/peak.h"

namespace lowbit::kernels {

extern const PeakKernel kPeakScalar;
#if defined(LOWBIT_HAVE_X86)
extern const PeakKernel kPeakAvx2;
extern const PeakKernel kPeakAvxVnni;
extern const PeakKernel kPeakAvx512Vnni;
#endif

}  // namespace lowbit::kernels
