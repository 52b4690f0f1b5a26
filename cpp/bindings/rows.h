// Rows of kernel tables by name: what all families' bindings share. A table holds kernels, or pointers to them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <type_traits>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/eltwise/eltwise.h"

namespace lowbit {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw Error(ErrorKind::input, message);
}

inline const char* row_name(const kernels::EltwiseKernel* kernel) { return name_of(*kernel); }
inline Isa row_isa(const kernels::EltwiseKernel* kernel) { return isa_of(*kernel); }
template <class Row>
const char* row_name(const Row& row) {
  if constexpr (std::is_pointer_v<Row>) {
    return row->name;
  } else {
    return row.name;
  }
}
template <class Row>
Isa row_isa(const Row& row) {
  if constexpr (std::is_pointer_v<Row>) {
    return row->isa;
  } else {
    return row.isa;
  }
}

template <class Row>
const Row& find(std::span<const Row> table, const std::string& name) {
  for (const Row& row : table) {
    if (name != row_name(row)) continue;
    if (!is_available(row_isa(row))) throw Error(ErrorKind::environment, "this CPU cannot run kernel " + name);
    return row;
  }
  throw Error(ErrorKind::input, "no kernel is called '" + name + "'");
}

// name, isa, available; of a matrix kernel also its tile.
template <class Row>
pybind11::list describe(std::span<const Row> table) {
  pybind11::list rows;
  for (const Row& kernel : table) {
    pybind11::dict row;
    row["name"] = row_name(kernel);
    row["isa"] = std::string(name_of(row_isa(kernel)));
    if constexpr (requires { kernel.mr + kernel.nr; }) {
      row["mr"] = kernel.mr;
      row["nr"] = kernel.nr;
    }
    row["available"] = is_available(row_isa(kernel));
    rows.append(row);
  }
  return rows;
}

}  // namespace lowbit
