// What the calls of single kernel rows share: their keywords, their arrays, and the epilogue of the integer families.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "bindings/rows.h"
#include "kernels/kernel.h"

namespace lowbit {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void bind_matrices(py::module_& m);
void bind_images(py::module_& m);
void bind_eltwise(py::module_& m);
void bind_layers(py::module_& m);

// The keywords of a call. Each is read by its name into what a kernel takes; one that nobody reads is refused.
class Keywords {
 public:
  explicit Keywords(py::kwargs given) : given_(std::move(given)) {}

  // Left as it is where the keyword is absent or None.
  template <class T>
  void read(const char* name, T& value) {
    if (const py::object found = take(name); !found.is_none()) value = found.cast<T>();
  }
  template <class T>
  T get(const char* name, T value) {
    read(name, value);
    return value;
  }
  // An array of `size` elements, held as long as the keywords; null where it is absent or None.
  template <class T>
  const T* array(const char* name, int64_t size) {
    const py::object found = take(name);
    if (found.is_none()) return nullptr;
    require(py::isinstance<Array<T>>(found) && py::cast<py::array>(found).size() == size,
            std::string(name) + " has a wrong type or size");
    return py::cast<Array<T>>(found).data();
  }
  void finish() const {
    for (const auto& [name, value] : given_)
      if (!read_.contains(name)) throw py::type_error("unknown argument " + std::string(py::str(name)));
  }

 private:
  py::object take(const char* name) {
    read_.add(py::str(name));
    return given_.contains(name) ? py::object(given_[name]) : py::none();
  }

  py::kwargs given_;
  py::set read_;
};

// In a buffer, with space for `more` elements and the slack behind.
template <class T>
Buffer copy(const Array<T>& array, int64_t more = 0) {
  Buffer buffer((array.size() + more) * sizeof(T));
  std::copy_n(array.data(), array.size(), buffer.as<T>());
  return buffer;
}

// For results: bytes that are not written stay 0xa5, so that a test sees a stray write.
template <class T>
Array<T> output(const std::vector<py::ssize_t>& shape) {
  Array<T> y(shape);
  if (y.nbytes() > 0) std::memset(y.mutable_data(), 0xa5, y.nbytes());
  return y;
}
inline py::array output(DType type, const std::vector<py::ssize_t>& shape) {
  return type == DType::u8 ? py::array(output<uint8_t>(shape)) : py::array(output<float>(shape));
}

// Rows of the grid [n][h][w][pitch], of which the first channels count.
template <class T>
kernels::Rows<T> rows_of(T* data, int64_t h, int64_t w, int64_t pitch) {
  return {data, h * w * pitch, w * pitch, pitch};
}

inline DType output_type(Keywords& keywords) {
  const std::string name = keywords.get<std::string>("output", "u8");
  require(name == "u8" || name == "f32", "output must be u8 or f32");
  return name == "u8" ? DType::u8 : DType::f32;
}

inline void read_bounds(Keywords& keywords, float& min, float& max) {
  min = keywords.get("min", -std::numeric_limits<float>::infinity());
  max = keywords.get("max", std::numeric_limits<float>::infinity());
}

inline void read_codes(Keywords& keywords, int32_t& lo, int32_t& hi) {
  keywords.read("lo", lo), keywords.read("hi", hi);
  require(0 <= lo && lo <= hi && hi <= 255, "need 0 <= lo <= hi <= 255");
}

// What the integer families share: the zero points of x and the epilogue, from `keywords` into a call's arguments,
// whose grid is set. Holds what these point at.
class Quantized {
 public:
  template <class Args>
  Quantized(Keywords& keywords, Args& args, const Array<float>& multiplier, const Array<float>& bias, int64_t channels,
            int64_t residual_pitch)
      : multiplier_(copy(multiplier, kernels::Epilogue::kSlack)), bias_(copy(bias, kernels::Epilogue::kSlack)) {
    require(multiplier.size() == channels && bias.size() == channels, "multiplier and bias must be one a channel");
    const kernels::Grid& grid = args.grid;
    if constexpr (requires { args.x_zero_point; }) {
      keywords.read("x_zero_point", args.x_zero_point);
      args.x_zero_points = keywords.array<uint8_t>("x_zero_points", grid.n);
    }
    kernels::Epilogue& e = args.epilogue;
    e.multiplier = multiplier_.as<float>();
    e.bias = bias_.as<float>();
    e.row_scale = keywords.array<float>("row_scale", grid.n);
    if (const uint8_t* residual = keywords.array<uint8_t>("residual", grid.rows() * residual_pitch))
      e.residual = rows_of(residual, grid.h, grid.w, residual_pitch);
    keywords.read("residual_multiplier", e.residual_multiplier);
    read_codes(keywords, e.lo, e.hi);
    if (const uint8_t* table = keywords.array<uint8_t>("table", 256)) e.table = &table_.emplace(table);
    read_bounds(keywords, e.min, e.max);
    e.output = output_type(keywords);
    keywords.read("bounded", e.bounded);
  }
  Quantized(const Quantized&) = delete;
  Quantized& operator=(const Quantized&) = delete;

 private:
  Buffer multiplier_, bias_;
  std::optional<kernels::CodeTable> table_;
};

// Runs task(0 .. tasks - 1) in this thread, the last one first: their order must not matter.
template <class F>
void run_tasks(int64_t tasks, F task) {
  require(tasks > 0, "need tasks > 0");
  py::gil_scoped_release release;
  for (int64_t i = tasks - 1; i >= 0; --i) task(i);
}

}  // namespace lowbit
