// The tables of kernels, and the one kernel that runs outside of sessions: what rounding loses, for calibration.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/rows.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/families.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

py::dict tables() {
  py::dict families;
  for (const kernels::Family& family : kernels::families()) {
    py::list rows;
    for (const kernels::KernelRow* kernel : family.rows) {
      py::dict row;
      row["name"] = kernel->name;
      row["isa"] = std::string(name_of(kernel->isa));
      row["available"] = is_available(kernel->isa);
      rows.append(row);
    }
    families[family.name] = rows;
  }
  return families;
}

Floats rounding_errors(const Floats& x, const Floats& factor, const Floats& low, const Floats& high,
                       const std::string& isa) {
  require(x.ndim() == 2 && factor.ndim() == 2 && factor.shape(1) == x.shape(0),
          "x must be [rows][row], factor [trials][rows]");
  for (const Floats* bound : {&low, &high})
    require(bound->ndim() == 2 && bound->shape(0) == factor.shape(0) && bound->shape(1) == factor.shape(1),
            "low and high must be [trials][rows]");
  Floats error({factor.shape(0), factor.shape(1)});
  kernels::RoundingArgs args = {x.shape(0), x.shape(1), factor.shape(0)};
  args.x = x.data(), args.factor = factor.data(), args.low = low.data(), args.high = high.data();
  args.error = error.mutable_data();
  const kernels::EltwiseKernel& kernel =
      kernels::best_of(kernels::eltwise_kernels(), isa.empty() ? default_isa() : parse_isa(isa));
  py::gil_scoped_release release;
  kernels::rounding_errors(kernel, args);
  return error;
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("kernels", tables, "The rows of each family of kernels, best first: name, isa, available.");
  m.def("rounding_errors", rounding_errors,
        "What rounding rows of x [rows][row] to codes loses, for each factor and bounds [trials][rows].",
        py::arg("x").noconvert(), py::arg("factor").noconvert(), py::arg("low").noconvert(),
        py::arg("high").noconvert(), py::kw_only(), py::arg("isa") = "");
}

}  // namespace lowbit
