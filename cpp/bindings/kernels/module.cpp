// The extension module lowbit._kernels, which wheels leave out: single rows of the kernel tables on NumPy arrays, for
// tests. A row is found by its name; operands are checked, copied where kernels read beyond them, and run in tasks.
#include "bindings/errors.h"
#include "bindings/kernels/call.h"

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "Single rows of the kernel tables, for tests; _core.kernels() lists them.";
  pybind11::register_local_exception_translator(lowbit::translate);
  lowbit::bind_matrices(m);
  lowbit::bind_images(m);
  lowbit::bind_eltwise(m);
  lowbit::bind_layers(m);
}
