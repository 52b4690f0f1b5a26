// GraphBuilder and Session: arrays in, arrays out, and nothing converted silently. Planning and running release the
// GIL.
#include <pthread.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>

#include "base/memory.h"
#include "bindings/bindings.h"
#include "graph/layout.h"
#include "graph/session.h"
#include "reader/load.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using graph::Dim;
using graph::GraphBuilder;
using graph::Session;
using graph::State;

// Without the GIL for as long as it lives. While the interpreter shuts down, a thread that asks for the GIL back is
// unwound by pthread_exit, which would end the process here, or drop references without the GIL: such a thread sleeps.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

// Where Python's signals are handled.
std::atomic<unsigned long> main_thread{0};

void find_main_thread() {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
}

// Asks Python, as its interpreter does between instructions, whether a signal's handler raised something: Ctrl-C does.
class Signals {
 public:
  // Runs f(an interrupt), and throws what was raised.
  template <class F>
  static auto heeded(F f) {
    Signals signals;
    try {
      return f(PyThread_get_thread_ident() == main_thread ? Interrupt{ask, &signals} : Interrupt{});
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupt && signals.raised_) throw py::error_already_set(*signals.raised_);
      throw;
    }
  }

 private:
  static bool ask(void* signals) {
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    if (raised) static_cast<Signals*>(signals)->raised_.emplace();
    PyGILState_Release(state);
    return raised;
  }

  std::optional<py::error_already_set> raised_;
};

// -------------------------------------------------------------------------------------------------------- arrays

std::optional<DType> dtype_of(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  if (order != '=' && order != '|' && order != '<') return std::nullopt;
  const auto size = dtype.itemsize();
  switch (dtype.kind()) {
    case 'f':
      return size == 4 ? std::optional(DType::f32) : size == 2 ? std::optional(DType::f16) : std::nullopt;
    case 'i':
      return size == 8   ? std::optional(DType::i64)
             : size == 4 ? std::optional(DType::i32)
             : size == 1 ? std::optional(DType::s8)
                         : std::nullopt;
    case 'u':
      return size == 1 ? std::optional(DType::u8) : std::nullopt;
    case 'b':
      return DType::boolean;
    default:
      return std::nullopt;
  }
}

py::dtype numpy_dtype(DType type) {
  switch (type) {
    case DType::f32:
      return py::dtype::of<float>();
    case DType::f16:
      return py::dtype("float16");
    case DType::i64:
      return py::dtype::of<int64_t>();
    case DType::i32:
      return py::dtype::of<int32_t>();
    case DType::boolean:
      return py::dtype::of<bool>();
    case DType::s8:
      return py::dtype::of<int8_t>();
    case DType::u8:
    case DType::bf16:
      return py::dtype::of<uint8_t>();
  }
  return py::dtype::of<uint8_t>();
}

[[noreturn]] void reject(const std::string& what, const std::string& reason) {
  throw Error(ErrorKind::input, what + " " + reason);
}

py::array as_array(py::handle object, const std::string& what) {
  if (!py::isinstance<py::array>(object))
    reject(what, "must be a NumPy array, is " + std::string(py::str(py::type::handle_of(object).attr("__name__"))));
  return py::reinterpret_borrow<py::array>(object);
}

bool is_plain(const py::array& array) {
  constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  return (array.flags() & kPlain) == kPlain;
}

// A view of a dense array; the caller keeps the array.
Tensor view_of(const py::array& array, const std::string& what) {
  const std::optional<DType> type = dtype_of(array.dtype());
  if (!type) reject(what, "has dtype " + std::string(py::str(array.dtype())) + ", which no graph takes");
  if (array.ndim() > kMaxRank) reject(what, "has more than 8 axes");
  Tensor tensor;
  tensor.dtype = *type;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) tensor.shape.push_back(array.shape(axis));
  tensor.strides = graph::strides_of(tensor.shape, graph::Layout::contiguous);
  tensor.data = const_cast<void*>(array.data());
  return tensor;
}

// The views of a call's arrays, with room for a few before anything is allocated.
class Views {
 public:
  void add(const py::array& array, const std::string& what) {
    if (count_ == kRoom) return add_more(array, what);
    tensors_[count_] = view_of(array, what);
    keep_[count_++] = array;
  }
  std::span<const Tensor> span() const {
    return more_.empty() ? std::span<const Tensor>(tensors_.data(), count_) : std::span<const Tensor>(more_);
  }

 private:
  static constexpr size_t kRoom = 8;
  void add_more(const py::array& array, const std::string& what) {
    if (more_.empty()) more_.assign(tensors_.begin(), tensors_.end());
    more_.push_back(view_of(array, what));
    keep_more_.push_back(array);
  }

  size_t count_ = 0;
  std::array<Tensor, kRoom> tensors_;
  std::array<py::object, kRoom> keep_;
  std::vector<Tensor> more_;
  std::vector<py::object> keep_more_;
};

// Calls f(array, what it is) for each, if there are as many as expected. A sequence may make an array anew each time it
// is asked for it, so each is asked for once, and held.
template <class F>
void each_array(const py::sequence& arrays, const char* kind, size_t expected, F f) {
  if (const size_t count = py::len(arrays); count != expected)
    throw Error(ErrorKind::input,
                "expected " + std::to_string(expected) + " " + kind + "s, got " + std::to_string(count));
  for (size_t i = 0; i < expected; ++i) {
    const std::string what = std::string(kind) + " " + std::to_string(i);
    const py::object object = arrays[i];
    f(as_array(object, what), what);
  }
}

// Arrays that are not dense are copied, others are used in place.
Views input_views(const Session& session, const py::sequence& inputs) {
  Views views;
  each_array(inputs, "input", session.program().given_inputs(), [&](py::array array, const std::string& what) {
    if (!is_plain(array)) {
      if (array.nbytes() > session.program().memory_limit)
        throw Error(ErrorKind::limit, what + " is not contiguous, and a copy takes " + in_mebibytes(array.nbytes()) +
                                          "; the session may hold " + in_mebibytes(session.program().memory_limit) +
                                          ", which limits=lowbit.Limits(memory=...) sets");
      array = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C").cast<py::array>();
    }
    views.add(array, what);
  });
  return views;
}

Views output_views(const Session& session, const py::sequence& outputs) {
  Views views;
  each_array(outputs, "output", session.program().given_outputs(),
             [&](const py::array& array, const std::string& what) {
               if (!is_plain(array) || !array.writeable()) reject(what, "must be writeable, C-contiguous and aligned");
               views.add(array, what);
             });
  return views;
}

py::list new_outputs(const Session::Call& call, Views& views) {
  py::list arrays;
  for (const TensorType& type : call.outputs()) {
    const py::array array(numpy_dtype(type.dtype), std::vector<py::ssize_t>(type.shape.begin(), type.shape.end()));
    views.add(array, "output");
    arrays.append(array);
  }
  return arrays;
}

py::list run(const Session& session, const py::sequence& inputs, State* state) {
  const Views in = input_views(session, inputs);
  return Signals::heeded([&](Interrupt interrupt) {
    std::optional<Session::Call> call;
    {
      const ReleasedGil released;
      call.emplace(session, in.span(), interrupt, state);
    }
    Views out;
    py::list outputs = new_outputs(*call, out);
    const ReleasedGil released;
    call->run(out.span());
    call.reset();
    return outputs;
  });
}

void run_into(const Session& session, const py::sequence& inputs, const py::sequence& outputs, State* state) {
  const Views in = input_views(session, inputs), out = output_views(session, outputs);
  Signals::heeded([&](Interrupt interrupt) {
    const ReleasedGil released;
    Session::Call(session, in.span(), interrupt, state).run(out.span());
  });
}

py::list profile(const Session& session, const py::sequence& inputs, int repeats, State* state, Interrupt interrupt) {
  if (repeats < 1) throw Error(ErrorKind::input, "repeats must be at least 1, got " + std::to_string(repeats));
  const Views in = input_views(session, inputs);
  std::optional<Session::Call> planned;
  {
    const ReleasedGil released;
    planned.emplace(session, in.span(), interrupt, state);
  }
  Session::Call& call = *planned;
  Views out;
  const py::list outputs = new_outputs(call, out);
  std::vector<double> seconds;
  {
    const ReleasedGil released;
    call.profile(out.span(), 1, seconds);  // warm
    call.profile(out.span(), repeats, seconds);
  }
  py::list rows;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const graph::Work work = call.work(i);
    const graph::Plan::Step& step = call.plan().steps[i];
    const auto add = [&](std::string_view name, double share) {
      py::dict row;
      row["node"] = py::str(name.data(), name.size());
      row["op"] = py::str(step.op_name.data(), step.op_name.size());
      row["kernel"] = step.op->kernel();
      row["seconds"] = seconds[i] * share;
      row["operations"] = work.operations * share;
      row["bytes"] = work.bytes * share;
      rows.append(row);
    };
    double channels = 0;
    for (const graph::MergedLayer& layer : step.layers) channels += static_cast<double>(layer.channels);
    for (const graph::MergedLayer& layer : step.layers) add(layer.name, static_cast<double>(layer.channels) / channels);
    if (step.layers.empty()) add(step.name, 1);
  }
  return rows;
}

std::unique_ptr<State> new_state(const Session& session, const std::map<std::string, int64_t>& sizes) {
  std::vector<int64_t> known;
  for (const graph::Symbol& symbol : session.program().symbols) {
    const auto found = sizes.find(symbol.name);
    known.push_back(found == sizes.end() ? -1 : found->second);
    if (known.back() >= 0 && !symbol.allows(known.back()))
      throw Error(ErrorKind::input, "size '" + symbol.name + "' cannot be " + std::to_string(known.back()));
  }
  return session.state(std::move(known));
}

py::list nodes(const Session& session) {
  py::list rows;
  for (const graph::Program::Node& node : session.program().nodes) {
    py::dict row;
    row["node"] = node.name;
    row["op"] = node.op;
    row["kernel"] = node.impl->is_view() ? "view" : node.impl->kernel();
    rows.append(row);
  }
  return rows;
}

py::dict memory(const Session& session) {
  const graph::Contexts::Memory memory = session.contexts().memory();
  py::dict result;
  result["packed_bytes"] = session.program().packed_bytes;
  result["held_bytes"] = memory.held_bytes;
  result["limit_bytes"] = memory.limit_bytes;
  result["arena_bytes"] = memory.arena_bytes;
  result["contexts"] = memory.contexts;
  result["plans"] = memory.plans;
  return result;
}

py::list session_inputs(const Session& session) {
  const graph::Program& program = session.program();
  py::list result;
  for (const graph::Program::Input& input : program.inputs) {
    py::list shape;
    for (const Dim& dim : input.shape) shape.append(dim.rpn.size() == 2 && dim.rpn[0] == 0 ? dim.rpn[1] : -1);
    result.append(py::make_tuple(program.values[input.value].name, std::string(graph::name_of(input.dtype)), shape));
  }
  return result;
}

py::list session_outputs(const Session& session) {
  const graph::Program& program = session.program();
  py::list result;
  for (const graph::Program::Output& output : program.outputs)
    result.append(
        py::make_tuple(program.values[output.value].name, std::string(graph::name_of(output.dtype)), output.shape));
  return result;
}

// ------------------------------------------------------------------------------------------------------- builder

Dim dim_of(py::handle object) {
  if (py::isinstance<py::int_>(object)) return Dim::constant(object.cast<int64_t>());
  return Dim{object.cast<std::vector<int64_t>>()};
}

template <class T>
std::vector<T> list_of(const py::sequence& items) {
  std::vector<T> values;
  for (py::handle item : items) values.push_back(item.cast<T>());
  return values;
}

bool is_list(py::handle object) { return py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object); }

graph::Attribute attribute_of(py::handle object) {
  if (py::isinstance<py::int_>(object)) return object.cast<int64_t>();  // bool too
  if (py::isinstance<py::float_>(object)) return object.cast<double>();
  if (py::isinstance<py::str>(object)) return object.cast<std::string>();
  if (!is_list(object)) throw py::type_error("an attribute must be an int, a float, a text or a list");
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  bool sizes = false, reals = false;
  for (py::handle item : items) {
    sizes = sizes || is_list(item);
    reals = reals || py::isinstance<py::float_>(item);
  }
  if (sizes) {
    std::vector<Dim> dims;
    for (py::handle item : items) dims.push_back(dim_of(item));
    return dims;
  }
  return reals ? graph::Attribute(list_of<double>(items)) : graph::Attribute(list_of<int64_t>(items));
}

// What Python hands over and C++ cannot even hold (an integer past 64 bits, say) is one more problem of the graph.
template <class F>
void note_failures(GraphBuilder& builder, const std::string& what, F read) {
  try {
    read();
  } catch (const py::cast_error&) {
    builder.problem(what + ": holds a value of a wrong type or size");
  } catch (const py::type_error& error) {
    builder.problem(what + ": " + error.what());
  }
}

void add_input(GraphBuilder& builder, const std::string& name, const std::string& dtype, const py::sequence& shape) {
  std::vector<Dim> dims;
  note_failures(builder, "input '" + name + "'", [&] {
    for (py::handle dim : shape) dims.push_back(dim_of(dim));
  });
  builder.input(name, dtype, std::move(dims));
}

Buffer copy_of(py::array array) {
  if (!is_plain(array))
    array = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C").cast<py::array>();
  Buffer buffer(array.nbytes());
  if (array.nbytes() > 0) std::memcpy(buffer.as<void>(), array.data(), array.nbytes());
  return buffer;
}

void add_constant(GraphBuilder& builder, const std::string& name, const py::object& object) {
  const std::string what = "constant '" + name + "'";
  const py::array array = as_array(object, what);
  const std::optional<DType> type = dtype_of(array.dtype());
  if (!type) return builder.problem(what + ": dtype " + std::string(py::str(array.dtype())) + " is not supported");
  builder.constant(name, graph::name_of(*type), {array.shape(), array.shape() + array.ndim()}, copy_of(array));
}

// A constant f32 that the caller writes, into an array that is the builder's own memory.
py::array add_numbers(GraphBuilder& builder, const std::string& name, const std::vector<int64_t>& shape) {
  TensorType type{DType::f32, {}};
  if (shape.size() > kMaxRank) throw Error(ErrorKind::graph, "constant '" + name + "': its rank is more than 8");
  for (int64_t size : shape) type.shape.push_back(size);
  if (graph::checked_elements(type) < 0)
    throw Error(ErrorKind::graph, "constant '" + name + "': its shape is negative or too large");
  using Held = std::shared_ptr<Buffer>;
  const Held buffer = builder.constant(name, "f32", shape, Buffer(bytes_of(type)));
  const py::capsule owner(new Held(buffer), [](void* held) { delete static_cast<Held*>(held); });
  return {py::dtype::of<float>(), std::vector<py::ssize_t>(shape.begin(), shape.end()), buffer->as<float>(), owner};
}

// What a part of a weight holds, of one of these types; none: nothing.
Buffer part_of(const py::object& object, const std::string& what, std::initializer_list<DType> types,
               DType* type = nullptr) {
  if (object.is_none()) return {};
  const py::array array = as_array(object, what);
  const std::optional<DType> found = dtype_of(array.dtype());
  if (!found || std::find(types.begin(), types.end(), *found) == types.end())
    throw py::type_error(what + " of dtype " + std::string(py::str(array.dtype())) + " are not supported");
  if (type != nullptr) *type = *found;
  return copy_of(array);
}

void add_weight(GraphBuilder& builder, const std::string& name, const std::vector<int64_t>& shape,
                const py::object& codes, int bits, int64_t group_size, const py::object& scales,
                const py::object& zero_points, const py::object& offsets, const py::object& values,
                std::string pattern) {
  note_failures(builder, "weight '" + name + "'", [&] {
    if (shape.size() > kMaxRank) throw py::type_error("its rank is more than 8");
    graph::Weight weight;
    for (int64_t size : shape) weight.shape.push_back(size);
    weight.bits = bits;
    weight.group_size = group_size;
    weight.codes = part_of(codes, "codes", {DType::s8, DType::u8});
    weight.scales = part_of(scales, "scales", {DType::f16, DType::f32}, &weight.scale_type);
    weight.zero_points = part_of(zero_points, "zero points", {DType::u8});
    weight.offsets = part_of(offsets, "offsets", {DType::f16, DType::f32}, &weight.offset_type);
    weight.values = part_of(values, "values", {DType::f32});
    weight.pattern = std::move(pattern);
    builder.weight(name, std::move(weight));
  });
}

void add_node(GraphBuilder& builder, const std::string& op, const std::string& name,
              const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
              const py::dict& attributes) {
  graph::Attributes values;
  for (const auto& [key, value] : attributes) {
    const auto text = key.cast<std::string>();
    note_failures(builder, "node '" + name + "' (" + op + "): attribute '" + text + "'",
                  [&, object = value] { values.emplace(text, attribute_of(object)); });
  }
  builder.node(op, name, inputs, outputs, std::move(values));
}

std::unique_ptr<Session> finish(GraphBuilder& builder, const std::string& isa, int threads,
                                std::optional<int64_t> memory, std::optional<double> operations,
                                std::optional<int64_t> batch, std::optional<double> seconds,
                                std::optional<int64_t> weights) {
  const Isa cap = isa.empty() ? default_isa() : parse_isa(isa);
  graph::Graph graph = builder.finish();
  const ReleasedGil released;
  return std::make_unique<Session>(std::move(graph), cap, threads,
                                   graph::Limits{memory, operations, batch, seconds, weights});
}

// The session of a file by the reader in C++, its document, and bits and bytes of its quantized weights.
py::tuple load_file(const std::string& path, int threads, std::optional<int64_t> memory,
                    std::optional<double> operations, std::optional<int64_t> batch, std::optional<double> seconds) {
  reader::Model model;
  {
    const ReleasedGil released;
    const graph::Limits limits{memory, operations, batch, seconds, std::nullopt};
    model = reader::load(*reader::file_source(path), path, {threads, "", limits, true});
  }
  py::dict weights;
  for (const reader::Stored& weight : model.weights)
    weights[py::str(weight.name)] = py::make_tuple(weight.bits, weight.bytes);
  return py::make_tuple(std::move(model.session), py::str(model.document), weights);
}

}  // namespace

void bind_graph(py::module_& m) {
  find_main_thread();
  py::class_<GraphBuilder>(m, "GraphBuilder",
                           "Takes a graph piece by piece; what is wrong with it is told, all at once, by finish().")
      .def(py::init<>())
      .def("symbol", &GraphBuilder::symbol, py::arg("name"), py::arg("minimum"), py::arg("maximum"),
           py::arg("multiple") = 1, py::arg("remainder") = 0, py::arg("trial") = 0)
      .def(
          "condition",
          [](GraphBuilder& builder, const std::string& kind, std::vector<int64_t> size) {
            builder.condition(kind, {std::move(size)});
          },
          py::arg("kind"), py::arg("size"))
      .def("input", &add_input, py::arg("name"), py::arg("dtype"), py::arg("shape"))
      .def("constant", &add_constant, py::arg("name"), py::arg("array"))
      .def("numbers", &add_numbers, py::arg("name"), py::arg("shape"))
      .def("weight", &add_weight, py::arg("name"), py::kw_only(), py::arg("shape"), py::arg("codes"), py::arg("bits"),
           py::arg("group_size"), py::arg("scales"), py::arg("zero_points") = py::none(),
           py::arg("offsets") = py::none(), py::arg("values") = py::none(), py::arg("pattern") = "")
      .def("node", &add_node, py::arg("op"), py::arg("name"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes"))
      .def("output", &GraphBuilder::output, py::arg("name"))
      .def("state", &GraphBuilder::state, py::arg("input"), py::arg("output"), py::arg("initial") = "",
           py::arg("count") = "", py::arg("axis") = 0)
      .def("finish", &finish, py::arg("isa") = "", py::arg("threads") = 0, py::arg("memory") = py::none(),
           py::arg("operations") = py::none(), py::arg("batch") = py::none(), py::arg("seconds") = py::none(),
           py::arg("weights") = py::none());
  py::class_<State>(m, "State", "What a caller keeps between calls of a session, one call at a time.")
      .def("reset", &State::reset)
      .def(
          "arrays",
          [](const py::object& self) {
            py::list arrays;
            for (const Tensor& value : self.cast<const State&>().values())
              arrays.append(py::array(numpy_dtype(value.dtype),
                                      std::vector<py::ssize_t>(value.shape.begin(), value.shape.end()), value.data,
                                      self));
            return arrays;
          },
          "Its memory, an array a state: to be read and written while no call has it.");
  py::class_<Session>(m, "Session", "A compiled graph; any number of threads may run it at once.")
      .def_property_readonly("inputs", &session_inputs)
      .def_property_readonly("outputs", &session_outputs)
      .def_property_readonly("isa", [](const Session& session) { return std::string(name_of(session.isa())); })
      .def_property_readonly("threads", &Session::threads)
      .def("state", &new_state, py::arg("sizes"), py::keep_alive<0, 1>(),
           "What a caller keeps between calls; sizes: of the symbols, by name.")
      .def("run", &run, py::arg("inputs"), py::arg("state") = nullptr)
      .def("run_into", &run_into, py::arg("inputs"), py::arg("outputs"), py::arg("state") = nullptr)
      .def(
          "profile",
          [](const Session& session, const py::sequence& inputs, int repeats, State* state) {
            return Signals::heeded(
                [&](Interrupt interrupt) { return profile(session, inputs, repeats, state, interrupt); });
          },
          py::arg("inputs"), py::arg("repeats") = 10, py::arg("state") = nullptr)
      .def("nodes", &nodes)
      .def("memory", &memory)
      .def(
          "trim",
          [](const Session& session, double seconds) {
            session.contexts().trim(static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9) * 1e9));
          },
          py::arg("seconds"));
  m.def(
      "give_back_after",
      [](double seconds) { graph::idle::set_period(static_cast<int64_t>(std::clamp(seconds, 1e-3, 1e9) * 1e9)); },
      py::arg("seconds"));
  m.def("load_file", &load_file, py::arg("path"), py::kw_only(), py::arg("threads"), py::arg("memory"),
        py::arg("operations"), py::arg("batch"), py::arg("seconds"),
        "A file's session, document, and bits and bytes of its weights.");
  m.def("operators", &graph::registered_ops, "The names of all operators that a graph may use.");
}

}  // namespace lowbit
