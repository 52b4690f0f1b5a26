// lowbit for C++17: lowbit.h with ownership and exceptions (docs/embedding.md).
//
//   lowbit::Model model("net.lowbit");
//   std::vector<float> image(1 * 3 * 224 * 224);
//   std::vector<lowbit::Array> outputs = model({lowbit::view(image, {1, 3, 224, 224})});
//   const float* scores = outputs[0].data<float>();
#ifndef LOWBIT_HPP
#define LOWBIT_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "lowbit.h"

namespace lowbit {

// What went wrong; status() says of what kind.
class Exception : public std::runtime_error {
 public:
  Exception(lowbit_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  lowbit_status status() const noexcept { return status_; }

 private:
  lowbit_status status_;
};

// The library's functions. Throws Exception where the library is older than this header.
inline const lowbit_api& api() {
  static const lowbit_api* const table = lowbit_get_api(LOWBIT_API_VERSION);
  if (table == nullptr || table->size < sizeof(lowbit_api))
    throw Exception(LOWBIT_ERROR_UNSUPPORTED, "this liblowbit.so is older than lowbit.h: install the newer one");
  return *table;
}

inline void check(lowbit_status status) {
  if (status != LOWBIT_OK) throw Exception(status, api().error_text());
}

// The dtype of a C++ type.
template <class T>
constexpr lowbit_dtype dtype_of() {
  using U = std::remove_cv_t<T>;
  static_assert(std::is_same_v<U, float> || std::is_same_v<U, std::int64_t> || std::is_same_v<U, std::int32_t> ||
                    std::is_same_v<U, bool> || std::is_same_v<U, std::uint8_t> || std::is_same_v<U, std::int8_t>,
                "no graph takes elements of this type");
  if constexpr (std::is_same_v<U, float>) return LOWBIT_F32;
  if constexpr (std::is_same_v<U, std::int64_t>) return LOWBIT_I64;
  if constexpr (std::is_same_v<U, std::int32_t>) return LOWBIT_I32;
  if constexpr (std::is_same_v<U, bool>) return LOWBIT_BOOL;
  if constexpr (std::is_same_v<U, std::uint8_t>) return LOWBIT_U8;
  return LOWBIT_S8;
}

using Shape = std::vector<std::int64_t>;

// A tensor over memory of the caller's, dense and row-major. Inputs are never written to.
template <class T>
lowbit_tensor view(T* data, std::size_t count, const Shape& shape) {
  if (shape.size() > LOWBIT_MAX_RANK) throw Exception(LOWBIT_ERROR_INPUT, "a shape has at most 8 axes");
  lowbit_tensor tensor{};
  tensor.data = const_cast<std::remove_cv_t<T>*>(data);
  tensor.bytes = count * sizeof(T);
  tensor.dtype = dtype_of<T>();
  tensor.rank = static_cast<std::int32_t>(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis) tensor.shape[axis] = shape[axis];
  return tensor;
}
template <class Container>
lowbit_tensor view(Container& elements, const Shape& shape) {
  return view(elements.data(), elements.size(), shape);
}

// Memory of its own, and what lies in it.
class Array {
 public:
  Array() = default;
  explicit Array(const lowbit_tensor& type) : tensor_(type), memory_(allocate(type.bytes)) {
    tensor_.data = memory_.get();
  }

  lowbit_dtype dtype() const { return static_cast<lowbit_dtype>(tensor_.dtype); }
  Shape shape() const { return {tensor_.shape, tensor_.shape + tensor_.rank}; }
  std::size_t bytes() const { return tensor_.bytes; }
  std::size_t size() const {
    std::size_t count = 1;
    for (std::int32_t axis = 0; axis < tensor_.rank; ++axis) count *= static_cast<std::size_t>(tensor_.shape[axis]);
    return count;
  }
  // Throws Exception where the elements are of another type.
  template <class T>
  T* data() {
    if (dtype_of<T>() != dtype()) throw Exception(LOWBIT_ERROR_INPUT, "an array holds elements of another type");
    return static_cast<T*>(tensor_.data);
  }
  template <class T>
  const T* data() const {
    return const_cast<Array*>(this)->data<T>();
  }
  const lowbit_tensor& tensor() const { return tensor_; }

 private:
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };
  static void* allocate(std::size_t bytes) { return ::operator new(bytes + 1, std::align_val_t{64}); }

  lowbit_tensor tensor_{};
  std::unique_ptr<void, Free> memory_;
};

struct Port {
  std::string name, sizes;  // "x", "[batch, 3, 224, 224]"
  lowbit_dtype dtype;
  Shape shape;  // -1: free, or depends on a free size
};

struct Options {
  int threads = 0;          // of one call at most; 0: LOWBIT_THREADS, else as many as the process may use
  std::string isa;          // caps the instruction set; "": the best
  std::int64_t memory = 0;  // bytes that the model may hold in all; 0: what the process may use
  double operations = 0;    // of one call; 0: 1e13; below 0: any number
  double seconds = 0;       // that one call may take; 0: any time
  std::int64_t batch = 0;   // what a free size called so may be in one call; 0: 65536; below 0: any size
};

// A loaded model: immutable, and safe to run from many threads at once. All of it throws Exception.
class Model {
 public:
  explicit Model(const std::string& path, const Options& options = {}) {
    load(options, [&](const lowbit_options& given, lowbit_model** model) {
      return api().load_file(path.c_str(), &given, model);
    });
  }
  // The bytes need not outlive the call.
  Model(const void* data, std::size_t bytes, const Options& options = {}) {
    load(options, [&](const lowbit_options& given, lowbit_model** model) {
      return api().load_memory(data, bytes, &given, model);
    });
  }

  const std::vector<Port>& inputs() const { return inputs_; }
  const std::vector<Port>& outputs() const { return outputs_; }
  int threads() const { return api().threads(model_.get()); }
  std::string isa() const { return api().isa(model_.get()); }

  // Runs into arrays of the caller's, which are then of the outputs' shapes. It allocates nothing once these shapes
  // were run.
  void run(const lowbit_tensor* inputs, std::size_t input_count, lowbit_tensor* outputs,
           std::size_t output_count) const {
    check(api().run(model_.get(), inputs, input_count, outputs, output_count));
  }
  void run(const std::vector<lowbit_tensor>& inputs, std::vector<lowbit_tensor>& outputs) const {
    run(inputs.data(), inputs.size(), outputs.data(), outputs.size());
  }
  // Runs into new arrays.
  std::vector<Array> operator()(const std::vector<lowbit_tensor>& inputs) const {
    std::vector<lowbit_tensor> tensors(outputs_.size());
    check(api().output_shapes(model_.get(), inputs.data(), inputs.size(), tensors.data(), tensors.size()));
    std::vector<Array> arrays;
    arrays.reserve(tensors.size());
    for (lowbit_tensor& tensor : tensors) {
      arrays.emplace_back(tensor);
      tensor.data = arrays.back().tensor().data;
    }
    run(inputs.data(), inputs.size(), tensors.data(), tensors.size());
    return arrays;
  }

 private:
  template <class Load>
  void load(const Options& options, Load load) {
    lowbit_options given{};
    given.size = sizeof given;
    given.threads = options.threads;
    given.isa = options.isa.empty() ? nullptr : options.isa.c_str();
    given.memory = options.memory;
    given.operations = options.operations;
    given.seconds = options.seconds;
    given.batch = options.batch;
    lowbit_model* model = nullptr;
    check(load(given, &model));
    model_.reset(model);
    inputs_ = ports(api().input_count(model), api().input);
    outputs_ = ports(api().output_count(model), api().output);
  }
  template <class Describe>
  std::vector<Port> ports(std::size_t count, Describe describe) const {
    std::vector<Port> found;
    for (std::size_t i = 0; i < count; ++i) {
      lowbit_port port{};
      check(describe(model_.get(), i, &port));
      found.push_back(
          {port.name, port.sizes, static_cast<lowbit_dtype>(port.dtype), Shape(port.shape, port.shape + port.rank)});
    }
    return found;
  }

  struct Unload {
    void operator()(lowbit_model* model) const { api().unload(model); }
  };
  std::unique_ptr<lowbit_model, Unload> model_;
  std::vector<Port> inputs_, outputs_;
};

}  // namespace lowbit

#endif
