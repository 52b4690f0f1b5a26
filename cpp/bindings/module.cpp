// The extension module lowbit._core.
#include <string>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace lowbit {
namespace {

const char* exception_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::graph:
      return "GraphError";
    case ErrorKind::input:
      return "InputError";
    case ErrorKind::unsupported:
      return "UnsupportedError";
    case ErrorKind::environment:
      return "EnvironmentVariableError";
  }
  return "LowbitError";
}

// The classes live in Python, and are looked up only when one is raised. Names from files may hold any bytes.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const std::string text = error.what();
    const py::object exception = py::module_::import("lowbit.errors").attr(exception_name(error.kind()));
    const auto message = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
    PyErr_SetObject(exception.ptr(), message.ptr());
  }
}

py::dict cpu() {
  py::list isas;
  for (Isa isa : available_isas()) isas.append(std::string(name_of(isa)));
  py::dict result;
  result["model"] = std::string(cpu_model());
  result["isas"] = isas;
  result["default_isa"] = std::string(name_of(default_isa()));
  result["threads"] = default_threads();
  return result;
}

}  // namespace
}  // namespace lowbit

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled graphs and kernels; see lowbit.Session for the public face.";
#ifdef LOWBIT_VERSION
  m.attr("__version__") = LOWBIT_VERSION;
#endif
  py::register_local_exception_translator(lowbit::translate);
  m.def("cpu", &lowbit::cpu, "Model, available instruction sets, the default one, and the default number of threads.");
  lowbit::bind_graph(m);
  lowbit::bind_gemm(m);
  lowbit::bind_eltwise(m);
  lowbit::bind_peak(m);
}
