// The functions of lowbit.h. No exception passes; what went wrong is kept for the thread that asked.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <new>

#include "graph/layout.h"
#include "lowbit.h"
#include "reader/load.h"

#ifndef LOWBIT_VERSION
#define LOWBIT_VERSION "0"
#endif

struct lowbit_model {
  lowbit::reader::Model loaded;
  std::vector<std::string> input_sizes, output_sizes;
};

namespace lowbit {
namespace {

using graph::Session;

thread_local std::string last_error;

lowbit_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::format:
      return LOWBIT_ERROR_FORMAT;
    case ErrorKind::graph:
      return LOWBIT_ERROR_GRAPH;
    case ErrorKind::input:
      return LOWBIT_ERROR_INPUT;
    case ErrorKind::limit:
      return LOWBIT_ERROR_LIMIT;
    case ErrorKind::unsupported:
      return LOWBIT_ERROR_UNSUPPORTED;
    case ErrorKind::environment:
      return LOWBIT_ERROR_ENVIRONMENT;
    case ErrorKind::system:
      return LOWBIT_ERROR_SYSTEM;
    case ErrorKind::interrupt:
      break;
  }
  return LOWBIT_ERROR_INTERNAL;
}

// Names from files may hold any bytes, or be cut off in a character.
std::string as_utf8(std::string_view text) {
  std::string made;
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const size_t length = first < 0x80                    ? 1
                          : first >= 0xf0 && first < 0xf5 ? 4
                          : first >= 0xe0                 ? 3
                          : first >= 0xc2                 ? 2
                                                          : 0;
    bool sound = length > 0 && first < 0xf5 && at + length <= text.size();
    for (size_t i = 1; sound && i < length; ++i) sound = (text[at + i] & 0xc0) == 0x80;
    const auto second = static_cast<unsigned char>(sound && length > 2 ? text[at + 1] : 0);
    sound = sound && !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f) &&
            !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second > 0x8f);
    made += sound ? text.substr(at, length) : "?";
    at += sound ? length : 1;
  }
  return made;
}

lowbit_status failed(lowbit_status status, const char* text) {
  try {
    last_error = as_utf8(text);
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return status;
}

template <class F>
lowbit_status guarded(F f) {
  try {
    f();
    return LOWBIT_OK;
  } catch (const Error& error) {
    return failed(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return failed(LOWBIT_ERROR_LIMIT, "there is not enough memory: free some, or give the process more");
  } catch (const std::exception& error) {
    return failed(LOWBIT_ERROR_INTERNAL, error.what());
  }
}

[[noreturn]] void reject(const std::string& reason) { throw Error(ErrorKind::input, reason); }

reader::Options options_of(const lowbit_options* given) {
  lowbit_options known{};
  if (given) {
    if (given->size < sizeof(size_t) || given->size > 4096)
      reject("lowbit_options: size must be sizeof(lowbit_options)");
    std::memcpy(&known, given, std::min(given->size, sizeof known));
  }
  if (known.threads < 0) reject("lowbit_options: threads must be a positive number, or 0");
  if (known.memory < 0) reject("lowbit_options: memory must be a positive number of bytes, or 0");
  if (!(known.seconds >= 0) || std::isinf(known.seconds)) reject("lowbit_options: seconds must be positive, or 0");
  if (std::isnan(known.operations) || std::isinf(known.operations))
    reject("lowbit_options: operations must be a number, 0 or below 0");
  reader::Options options{known.threads, known.isa ? known.isa : "", {}};
  if (known.memory > 0) options.limits.memory = known.memory;
  if (known.operations > 0) options.limits.operations = known.operations;
  if (known.operations < 0) options.limits.operations.reset();
  if (known.seconds > 0) options.limits.seconds = known.seconds;
  if (known.batch > 0) options.limits.batch = known.batch;
  if (known.batch < 0) options.limits.batch.reset();
  return options;
}

lowbit_status load(const reader::Source& source, const std::string& name, const lowbit_options* options,
                   lowbit_model** model) {
  auto made = std::make_unique<lowbit_model>();
  made->loaded = reader::load(source, name, options_of(options));
  for (const reader::Port& port : made->loaded.inputs) made->input_sizes.push_back(to_string(port.shape));
  for (const reader::Port& port : made->loaded.outputs) made->output_sizes.push_back(to_string(port.shape));
  *model = made.release();
  return LOWBIT_OK;
}

lowbit_status load_file(const char* path, const lowbit_options* options, lowbit_model** model) {
  return guarded([&] {
    if (!model) reject("load_file: model is NULL");
    *model = nullptr;
    if (!path) reject("load_file: path is NULL");
    load(*reader::file_source(path), path, options, model);
  });
}

lowbit_status load_memory(const void* data, size_t bytes, const lowbit_options* options, lowbit_model** model) {
  return guarded([&] {
    if (!model) reject("load_memory: model is NULL");
    *model = nullptr;
    if (!data) reject("load_memory: data is NULL");
    load(*reader::memory_source(data, bytes), "the file in memory", options, model);
  });
}

void unload(lowbit_model* model) { delete model; }

void describe(const reader::Port& from, const std::string& sizes, lowbit_port& port) {
  port = {
      from.name.c_str(), sizes.c_str(), static_cast<int32_t>(from.dtype), static_cast<int32_t>(from.shape.size()), {}};
  for (size_t axis = 0; axis < from.shape.size(); ++axis)
    port.shape[axis] = from.shape[axis].text.empty() ? from.shape[axis].number : -1;
}

lowbit_status port_of(const std::vector<reader::Port>& ports, const std::vector<std::string>& sizes, size_t index,
                      lowbit_port* port) {
  return guarded([&] {
    if (!port) reject("port is NULL");
    if (index >= ports.size())
      reject("there is no number " + std::to_string(index) + ", there are " + std::to_string(ports.size()));
    describe(ports[index], sizes[index], *port);
  });
}

lowbit_status input(const lowbit_model* model, size_t index, lowbit_port* port) {
  return port_of(model->loaded.inputs, model->input_sizes, index, port);
}
lowbit_status output(const lowbit_model* model, size_t index, lowbit_port* port) {
  return port_of(model->loaded.outputs, model->output_sizes, index, port);
}

// Views of a call's arrays, with room for a few before anything is allocated.
class Views {
 public:
  explicit Views(size_t count) : more_(count > few_.size() ? count : 0), count_(count) {}
  std::span<Tensor> span() { return {more_.empty() ? few_.data() : more_.data(), count_}; }

 private:
  std::array<Tensor, 8> few_;
  std::vector<Tensor> more_;
  size_t count_;
};

bool is_dtype(int32_t dtype) { return dtype >= LOWBIT_F32 && dtype <= LOWBIT_S8 && dtype != 2; }

void expect_count(const char* what, size_t count, size_t expected, const void* given) {
  if (count != expected) reject("expected " + std::to_string(expected) + " " + what + ", got " + std::to_string(count));
  if (expected > 0 && !given) reject(std::string(what) + " are NULL");
}

TensorType type_of(const lowbit_tensor& from, const reader::Port& port) {
  if (!is_dtype(from.dtype) || from.rank < 0 || from.rank > LOWBIT_MAX_RANK)
    reject("input '" + port.name + "' has dtype " + std::to_string(from.dtype) + " and rank " +
           std::to_string(from.rank) + ", which are none");
  TensorType type{static_cast<DType>(from.dtype), {}};
  for (int axis = 0; axis < from.rank; ++axis) type.shape.push_back(from.shape[axis]);
  if (graph::checked_elements(type) < 0) reject("input '" + port.name + "' has a size that is negative or too large");
  return type;
}

void view(const lowbit_tensor& from, const reader::Port& port, Tensor& tensor) {
  static_cast<TensorType&>(tensor) = type_of(from, port);
  const auto needed = static_cast<size_t>(bytes_of(tensor));
  if (from.bytes != needed || (needed > 0 && !from.data))
    reject("input '" + port.name + "' " + graph::to_string(tensor) + " takes " + std::to_string(needed) +
           " bytes, has " + (from.data ? std::to_string(from.bytes) : "no data"));
  if (reinterpret_cast<uintptr_t>(from.data) % size_of(tensor.dtype) != 0)
    reject("input '" + port.name + "' is not aligned to its elements");
  tensor.strides = graph::strides_of(tensor.shape, graph::Layout::contiguous);
  tensor.data = from.data;
}

void say(const TensorType& type, lowbit_tensor& tensor) {
  tensor.dtype = static_cast<int32_t>(type.dtype), tensor.rank = type.shape.rank();
  std::copy(type.shape.begin(), type.shape.end(), tensor.shape);
}

lowbit_status output_shapes(const lowbit_model* model, const lowbit_tensor* inputs, size_t input_count,
                            lowbit_tensor* outputs, size_t output_count) {
  return guarded([&] {
    const graph::Program& program = model->loaded.session->program();
    expect_count("inputs", input_count, program.given_inputs(), inputs);
    expect_count("outputs", output_count, program.given_outputs(), outputs);
    std::vector<TensorType> types;
    for (size_t i = 0; i < input_count; ++i) types.push_back(type_of(inputs[i], model->loaded.inputs[i]));
    for (const TensorType& state : graph::state_types(program, graph::sizes_of(program, types))) types.push_back(state);
    types = graph::infer_types(program, types, graph::bind_symbols(program, types));
    for (size_t i = 0; i < output_count; ++i) {
      const TensorType& type = types[program.outputs[i].value];
      say(type, outputs[i]);
      outputs[i].bytes = bytes_of(type);
    }
  });
}

lowbit_status run(const lowbit_model* model, const lowbit_tensor* inputs, size_t input_count, lowbit_tensor* outputs,
                  size_t output_count) {
  return guarded([&] {
    const Session& session = *model->loaded.session;
    expect_count("inputs", input_count, model->loaded.inputs.size(), inputs);
    expect_count("outputs", output_count, model->loaded.outputs.size(), outputs);
    Views in(input_count), out(output_count);
    for (size_t i = 0; i < input_count; ++i) view(inputs[i], model->loaded.inputs[i], in.span()[i]);
    Session::Call call(session, in.span());
    size_t few = output_count;
    for (size_t i = 0; i < output_count; ++i) {
      const TensorType& type = call.outputs()[i];
      say(type, outputs[i]);
      const size_t needed = bytes_of(type);
      if (outputs[i].bytes < needed || (needed > 0 && !outputs[i].data)) few = std::min(few, i);
      Tensor& tensor = out.span()[i];
      static_cast<TensorType&>(tensor) = type;
      tensor.strides = graph::strides_of(type.shape, graph::Layout::contiguous);
      tensor.data = outputs[i].data;
    }
    if (few < output_count) {
      const std::string had = outputs[few].data ? std::to_string(outputs[few].bytes) : "no data";
      for (size_t i = 0; i < output_count; ++i) outputs[i].bytes = bytes_of(call.outputs()[i]);
      reject("output '" + model->loaded.outputs[few].name + "' " + graph::to_string(call.outputs()[few]) + " takes " +
             std::to_string(outputs[few].bytes) + " bytes, has " + had);
    }
    call.run(out.span());
  });
}

constexpr lowbit_api kApi = {
    sizeof(lowbit_api),
    LOWBIT_API_VERSION,
    0,
    [] { return static_cast<const char*>(LOWBIT_VERSION); },
    [] { return last_error.c_str(); },
    load_file,
    load_memory,
    unload,
    [](const lowbit_model* model) { return model->loaded.inputs.size(); },
    [](const lowbit_model* model) { return model->loaded.outputs.size(); },
    input,
    output,
    [](const lowbit_model* model) { return static_cast<int32_t>(model->loaded.session->threads()); },
    [](const lowbit_model* model) { return name_of(model->loaded.session->isa()).data(); },
    output_shapes,
    run,
};

}  // namespace
}  // namespace lowbit

const lowbit_api* lowbit_get_api(uint32_t version) { return version == LOWBIT_API_VERSION ? &lowbit::kApi : nullptr; }
