// The plain truth.
#include "kernels/gather_i4/groups.h"

namespace lowbit::kernels {

void gather_i4_scalar(const GemmI4Source& table, int64_t row, float* y) {
  each_group(table, row, y, [](const uint8_t* codes, int64_t count, int zero_point, float scale, float* out) {
    one_by_one(codes, 0, count, zero_point, scale, out);
  });
}

}  // namespace lowbit::kernels
