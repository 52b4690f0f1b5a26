// The tables of kernels, and the one kernel that runs outside of sessions: what rounding loses, for calibration.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/rows.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_i4/gemm_i4.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/peak/peak.h"
#include "kernels/pool/pool.h"
#include "kernels/spmm_i8/spmm_i8.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

py::dict tables() {
  py::dict families;
  families["gemm_i8"] = describe(kernels::gemm_i8_kernels());
  families["spmm_i8"] = describe(kernels::spmm_i8_kernels());
  families["gemm_i4"] = describe(kernels::gemm_i4_kernels());
  families["gemm_f32"] = describe(kernels::gemm_f32_kernels());
  families["dwconv_i8"] = describe(kernels::dwconv_i8_kernels());
  families["dwconv_f32"] = describe(kernels::dwconv_f32_kernels());
  families["pool"] = describe(kernels::pool_kernels());
  families["eltwise"] = describe(kernels::eltwise_kernels());
  families["peak"] = describe(kernels::peak_kernels());
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
  const kernels::EltwiseKernel& kernel = kernels::select_eltwise(isa.empty() ? default_isa() : parse_isa(isa));
  py::gil_scoped_release release;
  kernels::rounding_errors(kernel, args);
  return error;
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("kernels", tables, "The rows of each family of kernels, best first: name, isa, available, mr, nr.");
  m.def("rounding_errors", rounding_errors,
        "What rounding rows of x [rows][row] to codes loses, for each factor and bounds [trials][rows].",
        py::arg("x").noconvert(), py::arg("factor").noconvert(), py::arg("low").noconvert(),
        py::arg("high").noconvert(), py::kw_only(), py::arg("isa") = "");
}

}  // namespace lowbit
