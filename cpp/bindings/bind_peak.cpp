// The loops of kernels/peak, for the roofline.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/rows.h"
#include "kernels/peak/peak.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Rate = double (*)(const kernels::PeakKernel&, double seconds, int threads);

void check(double seconds, int threads) {
  require(seconds >= 0 && seconds <= 60 && threads >= 1 && threads <= 4096,
          "seconds must be 0 .. 60, threads 1 .. 4096");
}

template <Rate rate>
double operations(const std::string& name, double seconds, int threads) {
  check(seconds, threads);
  const kernels::PeakKernel& kernel = find(kernels::peak_kernels(), name);
  py::gil_scoped_release release;
  return rate(kernel, seconds, threads);
}

double bytes(const std::string& name, const Bytes& data, double seconds, int threads) {
  check(seconds, threads);
  const kernels::PeakKernel& kernel = find(kernels::peak_kernels(), name);
  const std::span<const std::byte> span(reinterpret_cast<const std::byte*>(data.data()), data.nbytes());
  py::gil_scoped_release release;
  return kernels::peak_read(kernel, span, seconds, threads);
}

}  // namespace

void bind_peak(py::module_& m) {
  m.def(
      "select_peak",
      [](const std::string& isa) {
        return kernels::best_of(kernels::peak_kernels(), isa.empty() ? default_isa() : parse_isa(isa)).name;
      },
      "Name of the row chosen for an instruction set.", py::arg("isa") = "");
  m.def("peak_int8", operations<kernels::peak_int8>, "int8 operations a second.", py::arg("kernel"), py::kw_only(),
        py::arg("seconds"), py::arg("threads") = 1);
  m.def("peak_f32", operations<kernels::peak_f32>, "float32 operations a second.", py::arg("kernel"), py::kw_only(),
        py::arg("seconds"), py::arg("threads") = 1);
  m.def("peak_read", bytes, "Bytes a second read from `data`, of which each thread has its part.", py::arg("kernel"),
        py::arg("data").noconvert(), py::kw_only(), py::arg("seconds"), py::arg("threads") = 1);
}

}  // namespace lowbit
