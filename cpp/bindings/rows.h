// Rows of kernel tables by name: what all families' bindings share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/kernel.h"

namespace lowbit {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw Error(ErrorKind::input, message);
}

template <class Kernel>
const Kernel& find(kernels::KernelTable<Kernel> table, const std::string& name) {
  for (const Kernel* row : table) {
    if (name != row->name) continue;
    if (!is_available(row->isa)) throw Error(ErrorKind::environment, "this CPU cannot run kernel " + name);
    return *row;
  }
  throw Error(ErrorKind::input, "no kernel is called '" + name + "'");
}

}  // namespace lowbit
