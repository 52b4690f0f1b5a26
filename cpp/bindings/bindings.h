// One function a binding file; module.cpp calls them all. Nothing here computes.
#pragma once

#include <pybind11/pybind11.h>

namespace lowbit {

void bind_graph(pybind11::module_& m);
void bind_kernels(pybind11::module_& m);
void bind_peak(pybind11::module_& m);

}  // namespace lowbit
