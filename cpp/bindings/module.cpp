// The extension module lowbit._core.
#include <optional>
#include <string>

#include "base/cpu.h"
#include "base/float_environment.h"
#include "base/memory.h"
#include "base/threads.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"

namespace py = pybind11;

namespace lowbit {
namespace {

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

class FloatEnvironment {
 public:
  void enter() { held_.emplace(); }
  void exit(const py::args&) { held_.reset(); }

 private:
  std::optional<DefaultFloatEnvironment> held_;
};

}  // namespace
}  // namespace lowbit

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled graphs; see lowbit.Session for the public face.";
#ifdef LOWBIT_VERSION
  m.attr("__version__") = LOWBIT_VERSION;
#endif
  py::register_local_exception_translator(lowbit::translate);
  m.def("cpu", &lowbit::cpu, "Model, available instruction sets, the default one, and the default number of threads.");
  m.def("available_memory", &lowbit::available_memory, py::arg("root") = "",
        "Bytes that this process may use in all; root: of the file system in which cgroups are found.");
  py::class_<lowbit::FloatEnvironment>(m, "DefaultFloatEnvironment",
                                       "A context: the default rounding and denormals, for numbers that Python makes.")
      .def(py::init<>())
      .def("__enter__", &lowbit::FloatEnvironment::enter)
      .def("__exit__", &lowbit::FloatEnvironment::exit);
  lowbit::bind_graph(m);
  lowbit::bind_kernels(m);
  lowbit::bind_peak(m);
}
