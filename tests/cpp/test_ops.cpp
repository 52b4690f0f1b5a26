// Operators against naive loops, on every instruction set of this CPU.
#include <array>
#include <cmath>
#include <map>

#include "base/numerics.h"
#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

struct Conv {
  int64_t n, channels, h, w, filters, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
  int64_t top, bottom, left, right;

  int64_t out_h() const { return (h + top + bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_w() const { return (w + left + right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
  Shape output() const { return {n, filters, out_h(), out_w()}; }
  Shape weight() const { return {filters, channels / groups, kernel_h, kernel_w}; }
  Attributes attributes() const {
    return {{"stride", std::vector<int64_t>{stride_h, stride_w}},
            {"dilation", std::vector<int64_t>{dilation_h, dilation_w}},
            {"padding", std::vector<int64_t>{top, bottom, left, right}},
            {"groups", groups}};
  }
  // Calls visit(x index or -1 in the border, w index) over the window of one output element.
  template <class F>
  void window(int64_t sample, int64_t filter, int64_t oh, int64_t ow, F visit) const {
    const int64_t depth = channels / groups, group = filter / (filters / groups);
    for (int64_t c = 0; c < depth; ++c)
      for (int64_t i = 0; i < kernel_h; ++i)
        for (int64_t j = 0; j < kernel_w; ++j) {
          const int64_t y = oh * stride_h + i * dilation_h - top, x = ow * stride_w + j * dilation_w - left;
          const bool inside = y >= 0 && y < h && x >= 0 && x < w;
          visit(inside ? ((sample * channels + group * depth + c) * h + y) * w + x : -1,
                ((filter * depth + c) * kernel_h + i) * kernel_w + j);
        }
  }
};

constexpr Conv kConvs[] = {
    {1, 3, 9, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   {2, 16, 7, 7, 33, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {2, 5, 8, 9, 4, 3, 2, 2, 1, 1, 2, 1, 0, 2, 1, 0},    {1, 24, 10, 6, 24, 3, 3, 2, 2, 1, 1, 24, 1, 1, 1, 1},
    {3, 70, 5, 5, 70, 5, 5, 1, 1, 1, 1, 70, 2, 2, 2, 2}, {1, 12, 6, 6, 18, 3, 3, 1, 1, 2, 2, 3, 2, 2, 2, 2},
    {2, 4, 6, 5, 8, 2, 2, 2, 2, 1, 1, 4, 0, 0, 0, 0},    {1, 1, 12, 12, 1, 7, 7, 3, 3, 1, 1, 1, 3, 3, 3, 3},
};

// Most of whose weights are zero.
constexpr Conv kSparseConvs[] = {
    {2, 32, 9, 8, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {1, 64, 14, 15, 36, 3, 3, 2, 2, 1, 1, 1, 1, 0, 1, 1},
    {3, 96, 6, 6, 70, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {1, 40, 20, 9, 24, 5, 3, 1, 1, 1, 2, 1, 2, 2, 2, 2},
};

template <class F>
void for_each_output(const Conv& conv, F visit) {
  int64_t at = 0;
  for (int64_t n = 0; n < conv.n; ++n)
    for (int64_t c = 0; c < conv.filters; ++c)
      for (int64_t oh = 0; oh < conv.out_h(); ++oh)
        for (int64_t ow = 0; ow < conv.out_w(); ++ow) visit(at++, n, c, oh, ow);
}

// Leaves a tenth of the codes, in blocks of four channels (or one) by four channels of the input.
Array pruned(Array w, int64_t block, Random& random) {
  const Shape& shape = w.type.shape;
  const int64_t area = shape.rank() == 4 ? shape[2] * shape[3] : 1, depth = shape[1];
  std::map<std::array<int64_t, 3>, bool> kept;
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const auto [at, fresh] = kept.try_emplace({i / (depth * area) / block, i / area % depth / 4, i % area});
    if (fresh) at->second = random.whole(0, 9) == 0;
    if (!at->second) w.as<int8_t>()[i] = 0;
  }
  return w;
}

void check_conv2d_i8(const Conv& conv, bool dynamic, bool residual, Isa isa, int threads, int64_t block = 0) {
  Maker m(7);
  const Array x = random_codes(DType::u8, {conv.n, conv.channels, conv.h, conv.w}, m.random);
  Array w = random_codes(DType::s8, conv.weight(), m.random);
  if (block > 0) w = pruned(std::move(w), block, m.random);
  const Array multiplier = random_floats({conv.filters}, m.random, 1e-3f),
              bias = random_floats({conv.filters}, m.random, 30.0f);
  const Array r = random_codes(DType::u8, conv.output(), m.random), table = random_codes(DType::u8, {256}, m.random);
  const Array scale = random_floats({conv.n}, m.random), zero = random_codes(DType::u8, {conv.n}, m.random);

  Attributes attributes = conv.attributes();
  attributes["output"] = std::string(dynamic ? "f32" : "u8");
  attributes["zero_point_x"] = int64_t{77};
  attributes["zero_point_y"] = int64_t{120};
  attributes["lo"] = int64_t{3};
  attributes["residual_multiplier"] = 0.25;
  attributes["residual_zero_point"] = int64_t{9};
  const std::string in = m.input("u8", dims(x.type.shape)), in_r = m.input("u8", dims(r.type.shape)),
                    in_s = m.input("f32", dims({conv.n})), in_z = m.input("u8", dims({conv.n}));
  const std::string y = m.node("quantized_conv2d",
                               {in, m.weight(w), m.constant(multiplier), m.constant(bias), residual ? in_r : "",
                                dynamic ? "" : m.constant(table), dynamic ? in_s : "", dynamic ? in_z : ""},
                               attributes);
  const auto session = m.session({y}, isa, threads);
  const Array got = run(*session, {x, r, scale, zero})[0];
  CHECK((session->program().nodes[0].impl->kernel().find("sparse") != std::string::npos) == (block > 0));

  for_each_output(conv, [&](int64_t at, int64_t n, int64_t c, int64_t oh, int64_t ow) {
    const int32_t zero_point = dynamic ? zero.as<uint8_t>()[n] : 77;
    int32_t acc = 0;
    conv.window(n, c, oh, ow, [&](int64_t xi, int64_t wi) {
      if (xi >= 0) acc += (x.as<uint8_t>()[xi] - zero_point) * w.as<int8_t>()[wi];
    });
    float shifted = residual ? std::fma(-9.0f, 0.25f, bias.as<float>()[c]) : bias.as<float>()[c];
    if (!dynamic) shifted += 120.0f;
    float t = rescale(acc, multiplier.as<float>()[c], dynamic ? scale.as<float>() + n : nullptr, shifted);
    if (residual) t = add_residual(t, r.as<uint8_t>()[at], 0.25f);
    if (dynamic) {
      CHECK(got.as<float>()[at] == t);
    } else {
      CHECK(got.as<uint8_t>()[at] == table.as<uint8_t>()[code_from_float(t, 0, 3, 255)]);
    }
  });
}

TEST(conv2d_i8_is_naive_convolution) {
  for (const Conv& conv : kConvs)
    for (Isa isa : available_isas())
      for (int threads : {1, 2})
        for (bool dynamic : {false, true}) check_conv2d_i8(conv, dynamic, conv.n != 1, isa, threads);
}

TEST(sparse_conv2d_i8_is_naive_convolution) {
  for (const Conv& conv : kSparseConvs)
    for (Isa isa : available_isas())
      for (int threads : {1, 2})
        for (int64_t block : {1, 4}) check_conv2d_i8(conv, conv.h == 9, conv.n != 1, isa, threads, block);
}

TEST(conv2d_is_near_naive_convolution_and_alike_on_all_isas) {
  for (const Conv& conv : kConvs) {
    std::vector<Array> results;
    for (Isa isa : available_isas()) {
      Maker m(8);
      const Array x = random_floats({conv.n, conv.channels, conv.h, conv.w}, m.random),
                  w = random_floats(conv.weight(), m.random), bias = random_floats({conv.filters}, m.random);
      const std::string y =
          m.node("conv2d", {m.input("f32", dims(x.type.shape)), m.constant(w), m.constant(bias)}, conv.attributes());
      results.push_back(run(*m.session({y}, isa, 2), {x})[0]);
      for_each_output(conv, [&](int64_t at, int64_t n, int64_t c, int64_t oh, int64_t ow) {
        double sum = bias.as<float>()[c], magnitude = 1;
        conv.window(n, c, oh, ow, [&](int64_t xi, int64_t wi) {
          const double product = xi >= 0 ? static_cast<double>(x.as<float>()[xi]) * w.as<float>()[wi] : 0.0;
          sum += product, magnitude += std::fabs(product);
        });
        CHECK(std::fabs(results.back().as<float>()[at] - sum) <= 1e-5 * magnitude);
      });
      CHECK(results.back() == results.front());
    }
  }
}

void check_linear_i8(int64_t n, int64_t k, int64_t block) {
  for (Isa isa : available_isas()) {
    for (int64_t rows : {1, 2, 13, 100}) {
      Maker m(9);
      const Array x = random_codes(DType::u8, {rows, k}, m.random);
      Array w = random_codes(DType::s8, {n, k}, m.random);
      if (block > 0) w = pruned(std::move(w), block, m.random);
      const Array multiplier = random_floats({n}, m.random, 1e-2f), bias = random_floats({n}, m.random);
      const std::string y = m.node(
          "quantized_linear", {m.input("u8", dims({rows, k})), m.weight(w), m.constant(multiplier), m.constant(bias)},
          {{"zero_point_x", int64_t{50}}, {"output", std::string("f32")}, {"max", 40.0}});
      const Array got = run(*m.session({y}, isa, 2), {x})[0];
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t c = 0; c < n; ++c) {
          int32_t acc = 0;
          for (int64_t i = 0; i < k; ++i) acc += (x.as<uint8_t>()[row * k + i] - 50) * w.as<int8_t>()[c * k + i];
          const float t = rescale(acc, multiplier.as<float>()[c], nullptr, bias.as<float>()[c]);
          CHECK(got.as<float>()[row * n + c] == std::min(t, 40.0f));
        }
    }
  }
}

TEST(linear_i8_is_naive_product) {
  check_linear_i8(37, 65, 0);
  for (int64_t block : {1, 4}) check_linear_i8(70, 257, block);
}

TEST(views_transposes_and_concats_move_the_right_elements) {
  for (Isa isa : available_isas()) {
    Maker m(10);
    const Array x = random_floats({2, 3, 4, 5}, m.random);
    const std::string in = m.input("f32", dims(x.type.shape));
    const std::string t = m.node("transpose", {in}, {{"perm", std::vector<int64_t>{0, 2, 3, 1}}});
    const std::string r = m.node("reshape", {t}, {{"shape", std::vector<int64_t>{2, 60}}});
    const std::string c = m.node("concat", {r, r}, {{"axis", int64_t{1}}});
    const std::string s = m.node(
        "slice", {c}, {{"axis", int64_t{-1}}, {"start", int64_t{3}}, {"stop", int64_t{1000}}, {"step", int64_t{7}}});
    const Array got = run(*m.session({s}, isa), {x})[0];
    CHECK(got.type.shape == (Shape{2, 17}));
    for (int64_t n = 0; n < 2; ++n)
      for (int64_t i = 0; i < 17; ++i) {
        const int64_t at = (3 + 7 * i) % 60, channel = at % 3, pixel = at / 3;
        CHECK(got.as<float>()[n * 17 + i] == x.as<float>()[(n * 3 + channel) * 20 + pixel]);
      }
  }
}

}  // namespace
}  // namespace lowbit::test
