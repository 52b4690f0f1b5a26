// Each kind of Error as its Python exception.
#pragma once

#include <pybind11/pybind11.h>

#include "base/error.h"

namespace lowbit {

inline const char* exception_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::graph:
      return "GraphError";
    case ErrorKind::input:
      return "InputError";
    case ErrorKind::limit:
      return "LimitError";
    case ErrorKind::unsupported:
      return "UnsupportedError";
    case ErrorKind::environment:
      return "EnvironmentVariableError";
    case ErrorKind::format:
      return "FormatError";
    case ErrorKind::system:     // Python opens files itself
    case ErrorKind::interrupt:  // stands for the caller's own exception
      break;
  }
  return "LowbitError";
}

// For register_local_exception_translator. The classes live in Python, and are looked up only when one is raised. Names
// from files may hold any bytes.
inline void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const std::string text = error.what();
    const pybind11::object exception = pybind11::module_::import("lowbit.errors").attr(exception_name(error.kind()));
    const auto message = pybind11::reinterpret_steal<pybind11::object>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
    PyErr_SetObject(exception.ptr(), message.ptr());
  }
}

}  // namespace lowbit
