// Sequence operators against naive loops, and the same bits on every instruction set and number of threads of this CPU.
#include <cmath>

#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

using Inputs = std::vector<Array>;
using Names = std::vector<std::string>;

// One node over inputs of these shapes; constants are among `shapes` where `constant` says so.
struct Case {
  const char* op;
  std::vector<Shape> shapes;
  std::vector<bool> constant;
  Attributes attributes;
  int outputs = 1;
};

Inputs run_case(const Case& each, Isa isa, int threads, Inputs& operands) {
  Maker m(11);
  Names names;
  Inputs inputs;
  operands.clear();
  for (size_t i = 0; i < each.shapes.size(); ++i) {
    operands.push_back(random_floats(each.shapes[i], m.random));
    if (each.constant.size() > i && each.constant[i]) {
      names.push_back(m.constant(operands.back()));
    } else {
      names.push_back(m.input("f32", dims(each.shapes[i])));
      inputs.push_back(operands.back());
    }
  }
  const Names outputs = m.nodes(each.op, names, each.outputs, each.attributes);
  return run(*m.session(outputs, isa, threads), inputs);
}

bool near(float a, double b) { return std::abs(a - b) <= 1e-4 * std::max(1.0, std::abs(b)); }

// The result on the plain row, after all others gave the same bits.
Inputs everywhere(const Case& each, Inputs& operands) {
  const Inputs plain = run_case(each, Isa::scalar, 1, operands);
  for (Isa isa : available_isas())
    for (int threads : {1, 3}) {
      Inputs again;
      CHECK(run_case(each, isa, threads, again) == plain);
    }
  return plain;
}

TEST(matmul_is_the_naive_product_everywhere) {
  for (const auto& [m, n, k] :
       {std::array<int64_t, 3>{1, 1, 1}, {1, 37, 5}, {13, 65, 17}, {50, 3, 33}, {130, 70, 40}}) {
    for (int64_t turned : {0, 1}) {
      const Shape b = turned == 1 ? Shape{n, k} : Shape{k, n};
      Inputs x;
      const Inputs y = everywhere({"matmul", {{2, m, k}, b}, {}, {{"transpose_b", turned}}}, x);
      for (int64_t i = 0; i < 2 * m * n; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < k; ++j)
          sum += double{x[0].as<float>()[i / n * k + j]} *
                 double{x[1].as<float>()[turned == 1 ? i % n * k + j : j * n + i % n]};
        CHECK(near(y[0].as<float>()[i], sum));
      }
    }
  }
}

TEST(attention_is_softmax_of_products_everywhere) {
  for (const auto& [length, keys, depth] : {std::array<int64_t, 3>{1, 1, 1}, {3, 17, 5}, {70, 33, 20}, {40, 130, 64}}) {
    for (int64_t causal : {0, 1}) {
      const Attributes attributes = {{"scale", 0.5}, {"causal", causal}};
      Inputs x;
      const Case each{
          "attention", {{4, length, depth}, {2, keys, depth}, {2, keys, 7}, {length, keys}}, {}, attributes};
      const Inputs y = everywhere(each, x);
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t i = 0; i < length; ++i) {
          double total = 0, sums[7] = {};
          for (int64_t j = 0; j < (causal == 1 ? std::min(keys, i + 1) : keys); ++j) {
            double score = 0;
            for (int64_t d = 0; d < depth; ++d)
              score += double{x[0].as<float>()[(h * length + i) * depth + d]} *
                       double{x[1].as<float>()[(h / 2 * keys + j) * depth + d]};
            const double e = std::exp(score * 0.5 + double{x[3].as<float>()[i * keys + j]});
            total += e;
            for (int64_t c = 0; c < 7; ++c) sums[c] += e * double{x[2].as<float>()[(h / 2 * keys + j) * 7 + c]};
          }
          for (int64_t c = 0; c < 7; ++c) CHECK(near(y[0].as<float>()[(h * length + i) * 7 + c], sums[c] / total));
        }
    }
  }
}

TEST(normalized_rows_are_near_their_definition_everywhere) {
  for (int64_t row : {1, 15, 16, 63, 65, 4100}) {
    for (const char* op : {"layer_norm", "rms_norm"}) {
      const bool centered = op[0] == 'l';
      std::vector<Shape> shapes = {{3, row}, {row}};
      if (centered) shapes.push_back({row});
      Inputs x;
      const Inputs y = everywhere({op, shapes, {}, {{"eps", 0.1}}}, x);
      for (int64_t r = 0; r < 3; ++r) {
        const float* values = x[0].as<float>() + r * row;
        double mean = 0, square = 0;
        for (int64_t i = 0; centered && i < row; ++i) mean += double{values[i]} / static_cast<double>(row);
        for (int64_t i = 0; i < row; ++i) square += std::pow(double{values[i]} - mean, 2) / static_cast<double>(row);
        for (int64_t i = 0; i < row; ++i) {
          const double bias = centered ? double{x[2].as<float>()[i]} : 0.0;
          const double expected =
              (double{values[i]} - mean) / std::sqrt(square + 0.1) * double{x[1].as<float>()[i]} + bias;
          CHECK(near(y[0].as<float>()[r * row + i], expected));
        }
      }
    }
    Inputs x;
    everywhere({"group_norm", {{2, 6, row}, {6}, {6}}, {}, {{"eps", 0.1}, {"groups", int64_t{3}}}}, x);
  }
}

TEST(recurrent_steps_are_near_their_definition_everywhere) {
  for (const auto& [steps, batch, hidden] : {std::array<int64_t, 3>{1, 1, 1}, {3, 2, 17}, {4, 33, 20}}) {
    for (int64_t reverse : {0, 1}) {
      const Attributes attributes = {{"reverse", reverse}};
      Inputs x;
      const Case lstm{"lstm",
                      {{steps, batch, 4 * hidden}, {4 * hidden, hidden}, {batch, hidden}, {batch, hidden}},
                      {false, true},
                      attributes,
                      3};
      const Inputs y = everywhere(lstm, x);
      const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
      const int64_t t = reverse == 1 ? steps - 1 : 0;  // the first step
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t u = 0; u < hidden; ++u) {
          double gate[4];
          for (int64_t g = 0; g < 4; ++g) {
            gate[g] = double{x[0].as<float>()[(t * batch + b) * 4 * hidden + g * hidden + u]};
            for (int64_t j = 0; j < hidden; ++j)
              gate[g] +=
                  double{x[1].as<float>()[(g * hidden + u) * hidden + j]} * double{x[2].as<float>()[b * hidden + j]};
          }
          const double c =
              sigmoid(gate[1]) * double{x[3].as<float>()[b * hidden + u]} + sigmoid(gate[0]) * std::tanh(gate[2]);
          CHECK(near(y[0].as<float>()[(t * batch + b) * hidden + u], sigmoid(gate[3]) * std::tanh(c)));
        }
      everywhere({"lstm",
                  {{steps, batch, 4 * hidden}, {4 * hidden, 5}, {batch, 5}, {batch, hidden}, {5, hidden}},
                  {false, true, false, false, true},
                  attributes,
                  3},
                 x);
      everywhere({"gru",
                  {{steps, batch, 3 * hidden}, {3 * hidden, hidden}, {3 * hidden}, {batch, hidden}},
                  {false, true, true},
                  attributes,
                  2},
                 x);
      everywhere({"rnn",
                  {{steps, batch, hidden}, {hidden, hidden}},
                  {false, true},
                  {{"reverse", reverse}, {"kind", std::string("tanh")}},
                  2},
                 x);
    }
  }
}

}  // namespace
}  // namespace lowbit::test
