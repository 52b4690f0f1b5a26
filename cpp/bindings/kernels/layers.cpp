// Rows of the families that serve whole layers: attention, normalization, recurrent cells, blending, four-bit tables.
#include <algorithm>

#include "bindings/kernels/call.h"
#include "kernels/attention/attention.h"
#include "kernels/blend/blend.h"
#include "kernels/gather/gather.h"
#include "kernels/norm/norm.h"
#include "kernels/rnn/rnn.h"

namespace lowbit {
namespace {

using namespace kernels;

template <class T>
HeadRows<T> head_rows(T* data, const Array<float>& x) {
  const int64_t row = x.shape(3), head = x.shape(2) * row;
  return {data, x.shape(1) * head, head, row};
}

// Of shape [batch][heads][length][keys]; strides of 0 repeat.
AttentionMask mask_of(const py::array& mask, const AttentionArgs& args) {
  const bool floats = py::isinstance<py::array_t<float>>(mask);
  require(floats || py::isinstance<py::array_t<bool>>(mask), "the mask must be of float32 or bool");
  const int64_t sizes[] = {args.batch, args.heads, args.length, args.keys};
  require(mask.ndim() == 4 && std::equal(sizes, sizes + 4, mask.shape()), "the mask has a wrong shape");
  const auto stride = [&](int axis) { return mask.strides(axis) / mask.itemsize(); };
  require(stride(3) == 0 || stride(3) == 1, "keys must be adjacent in the mask, or repeat");
  return {mask.data(), floats, stride(0), stride(1), stride(2), stride(3)};
}

Array<float> run_attention(const std::string& name, const Array<float>& q, const Array<float>& k, const Array<float>& v,
                           const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const AttentionKernel& kernel = find(attention_kernels(), name);
  require(q.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4, "q, k and v must be [batch][heads][rows][columns]");
  AttentionArgs args;
  args.batch = q.shape(0), args.heads = q.shape(1), args.length = q.shape(2), args.depth = q.shape(3);
  args.key_heads = k.shape(1), args.keys = k.shape(2), args.value_depth = v.shape(3);
  require(
      k.shape(0) == args.batch && k.shape(3) == args.depth && args.key_heads > 0 && args.heads % args.key_heads == 0,
      "q and k must agree in sizes");
  require(std::equal(k.shape(), k.shape() + 3, v.shape()), "k and v must agree in sizes");
  args.q = head_rows(q.data(), q), args.k = head_rows(k.data(), k), args.v = head_rows(v.data(), v);
  const auto mask = keywords.get("mask", std::optional<py::array>());
  if (mask) args.mask = mask_of(*mask, args);
  keywords.read("scale", args.scale), keywords.read("causal", args.causal);
  keywords.read("nan_if_empty", args.nan_if_empty), keywords.read("divides_last", args.divides_last);
  const AttentionPlan plan(args, kernel.isa, keywords.get("threads", 1));
  keywords.finish();
  Array<float> y = output<float>({args.batch, args.heads, args.length, args.value_depth});
  args.y = head_rows(y.mutable_data(), y);
  const Buffer scratch(plan.scratch_bytes());
  const EltwiseKernel& copier = best_of(eltwise_kernels(), kernel.isa);
  run_tasks(plan.tasks(), [&](int64_t task) { plan.run(kernel, copier, args, task, scratch.as<float>()); });
  return y;
}

Array<float> run_norm(const std::string& name, const Array<float>& x, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const NormKernel& kernel = find(norm_kernels(), name);
  require(x.ndim() == 2, "x must be [rows][row]");
  NormArgs args;
  args.rows = x.shape(0), args.row = x.shape(1);
  keywords.read("inner", args.inner), keywords.read("cycle", args.cycle);
  require(args.inner > 0 && args.cycle > 0 && args.row % args.inner == 0, "inner must divide row, cycle be positive");
  args.weight = keywords.array<float>("weight", args.cycle * args.row / args.inner);
  args.bias = keywords.array<float>("bias", args.cycle * args.row / args.inner);
  keywords.read("eps", args.eps), keywords.read("centered", args.centered);
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  Array<float> y = output<float>({args.rows, args.row});
  args.x = x.data(), args.y = y.mutable_data();
  run_tasks(tasks, [&](int64_t task) { normalize(kernel, args, task, tasks); });
  return y;
}

py::tuple run_lstm(const std::string& name, const Array<float>& gates, const Array<float>& before) {
  const int64_t hidden = before.size();
  require(gates.size() == 4 * hidden, "gates must be [4 * hidden], c [hidden]");
  Array<float> c = output<float>({hidden}), h = output<float>({hidden});
  std::copy_n(before.data(), hidden, c.mutable_data());
  find(rnn_kernels(), name).lstm(gates.data(), hidden, c.mutable_data(), h.mutable_data());
  return py::make_tuple(c, h);
}

Array<float> run_gru(const std::string& name, const Array<float>& x, const Array<float>& s,
                     const Array<float>& before) {
  const int64_t hidden = before.size();
  require(x.size() == 3 * hidden && s.size() == 3 * hidden, "x and s must be [3 * hidden], before [hidden]");
  Array<float> h = output<float>({hidden});
  find(rnn_kernels(), name).gru(x.data(), s.data(), before.data(), hidden, h.mutable_data());
  return h;
}

// A step on codes from states h [rows][k], with the panels in that many parts: the new states, and c.
py::tuple run_rnn_step(const std::string& name, const Array<int8_t>& w, const Array<float>& scales,
                       const Array<float>& h, const Array<float>& x, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const RnnKernel& kernel = find(rnn_kernels(), name);
  const auto gates = keywords.get<int64_t>("gates", 1);
  require(w.ndim() == 2 && h.ndim() == 2 && scales.size() == w.shape(0) && h.shape(1) == w.shape(1) &&
              (gates == 1 || gates == 3 || gates == 4) && w.shape(0) % gates == 0 &&
              x.size() == h.shape(0) * w.shape(0),
          "w must be [gates * hidden][k], scales [gates * hidden], h [rows][k], x [rows][gates * hidden]");
  const int64_t hidden = w.shape(0) / gates, k = w.shape(1), rows = h.shape(0);
  RnnWeights weights;
  pack_rnn(w.data(), scales.data(), keywords.array<float>("bias", gates * hidden), gates, hidden, k, weights);
  std::vector<int8_t> codes(static_cast<size_t>(rows * 4 * weights.quads()));
  std::vector<RnnRow> states(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row)
    states[row] = kernel.code(h.data() + row * k, k, codes.data() + row * 4 * weights.quads());
  Array<float> c = output<float>({rows, hidden}), y = output<float>({rows, hidden});
  const float* before = keywords.array<float>("c", rows * hidden);
  RnnStep step;
  step.weights = &weights, step.rows = rows;
  step.codes = codes.data(), step.states = states.data();
  step.x = x.data(), step.before = h.data();
  step.c = c.mutable_data(), step.h = y.mutable_data();
  keywords.read("relu", step.relu), keywords.read("backward", step.backward);
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  require((gates == 4) == (before != nullptr) && (gates == 1 || gates == 4 || k == hidden), "c is of four gates");
  if (before != nullptr) std::copy_n(before, rows * hidden, step.c);
  run_tasks(tasks, [&](int64_t task) {
    kernel.step(step, task * weights.panel_count() / tasks, (task + 1) * weights.panel_count() / tasks);
  });
  return py::make_tuple(y, c);
}

py::array run_blend(const std::string& name, const py::array& x, const Array<float>& row_weights,
                    const Array<int64_t>& offsets, const Array<float>& weights, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const BlendKernel& kernel = find(blend_kernels(), name);
  const bool codes = py::isinstance<Array<uint8_t>>(x);
  require(x.ndim() == 2 && (codes || py::isinstance<Array<float>>(x)),
          "x must be [rows][elements], C order, uint8 or float32");
  require(offsets.ndim() == 2 && weights.size() == offsets.size(), "offsets and weights must be [pixels][taps]");
  require(row_weights.size() == x.shape(0) && x.shape(0) <= BlendArgs::kMaxRows, "there must be a weight for each row");
  BlendArgs args;
  args.pixels = offsets.shape(0), args.taps = static_cast<int>(offsets.shape(1));
  args.rows = static_cast<int>(x.shape(0));
  keywords.read("channels", args.channels);
  for (int64_t i = 0; i < offsets.size(); ++i)
    require(offsets.data()[i] >= 0 && offsets.data()[i] + args.channels <= x.shape(1), "an offset lies outside of x");
  for (int i = 0; i < args.rows; ++i) args.row[i] = x.data(i), args.row_weights[i] = row_weights.data()[i];
  args.offsets = offsets.data(), args.weights = weights.data();
  args.counts = keywords.array<int32_t>("counts", args.pixels);
  for (int64_t i = 0; args.counts != nullptr && i < args.pixels; ++i)
    require(args.counts[i] >= 0 && args.counts[i] <= args.taps, "counts must be 0 .. taps");
  args.y_stride = args.channels + keywords.get<int64_t>("gap", 0);
  keywords.finish();
  py::array y = output(codes ? DType::u8 : DType::f32, {args.pixels, args.y_stride});
  args.y = y.mutable_data();
  codes ? kernel.u8(args) : kernel.f32(args);
  return y;
}

// y given: rows times weights are added to it.
Array<float> run_gather(const std::string& name, const py::array& codes, const py::array& scales, int64_t k,
                        int64_t row, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const GatherKernel& kernel = find(gather_kernels(), name);
  const bool bytes = py::isinstance<py::array_t<int8_t>>(codes);
  const bool wide = py::isinstance<Array<float>>(scales);
  require(wide || py::isinstance<Array<uint16_t>>(scales), "scales must be float32, or uint16 (half floats)");
  const int given = keywords.get("bits", 4), bits = bytes ? 8 : given;
  require(bytes || bits == 4 || bits == 2, "codes of uint8 have 4 or 2 bits");
  require(codes.ndim() == 2 && k > 0 && codes.shape(1) == (k * bits + 7) / 8,
          "codes must be int8 [n][k] or uint8 [n][ceil(k * bits / 8)]");
  const int64_t n = codes.shape(0), groups = n > 0 ? scales.size() / n : 0;
  require(groups > 0 && scales.size() == n * groups && k % groups == 0 && (k / groups % (8 / bits) == 0 || groups == 1),
          "scales must be [n][groups], each of whole bytes of codes");
  require(0 <= row && row < n, "there is no such row");
  const GatherTable table{bits,
                          static_cast<const uint8_t*>(codes.data()),
                          scales.data(),
                          keywords.array<uint8_t>("zero_points", scales.size()),
                          n,
                          k,
                          k / groups,
                          wide,
                          wide ? static_cast<const void*>(keywords.array<float>("offsets", scales.size()))
                               : keywords.array<uint16_t>("offsets", scales.size()),
                          wide};
  const auto weight = keywords.get("weight", std::optional<float>());
  const auto* sums = keywords.array<float>("y", k);
  keywords.finish();
  require(weight.has_value() == (sums != nullptr), "weight and y go together");
  Array<float> y = output<float>({k});
  if (!weight) {
    kernel.run(table, &row, 1, y.mutable_data());
  } else {
    std::copy_n(sums, k, y.mutable_data());
    kernel.add(table, row, *weight, y.mutable_data());
  }
  return y;
}

}  // namespace

void bind_layers(py::module_& m) {
  m.def("attention", run_attention, py::arg("kernel"), py::arg("q").noconvert(), py::arg("k").noconvert(),
        py::arg("v").noconvert());
  m.def("norm", run_norm, py::arg("kernel"), py::arg("x").noconvert());
  m.def("lstm", run_lstm, py::arg("kernel"), py::arg("gates").noconvert(), py::arg("c").noconvert());
  m.def("rnn_step", run_rnn_step, py::arg("kernel"), py::arg("w").noconvert(), py::arg("scales").noconvert(),
        py::arg("h").noconvert(), py::arg("x").noconvert());
  m.def("gru", run_gru, py::arg("kernel"), py::arg("x").noconvert(), py::arg("s").noconvert(),
        py::arg("before").noconvert());
  m.def("blend", run_blend, py::arg("kernel"), py::arg("x"), py::arg("row_weights").noconvert(),
        py::arg("offsets").noconvert(), py::arg("weights").noconvert());
  m.def("gather", run_gather, py::arg("kernel"), py::arg("codes").noconvert(), py::arg("scales").noconvert(),
        py::arg("k"), py::arg("row"));
}

}  // namespace lowbit
