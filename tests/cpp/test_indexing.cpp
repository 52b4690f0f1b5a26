// Operators on indices, sizes and types other than float: right, refused, and never out of bounds.
#include <atomic>
#include <limits>
#include <thread>

#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();

Array numbers(Shape shape, std::initializer_list<int64_t> values) {
  Array array(DType::i64, shape);
  std::copy(values.begin(), values.end(), array.as<int64_t>());
  return array;
}

bool gives(const Array& array, std::initializer_list<int64_t> values) {
  return array.type.shape.elements() == static_cast<int64_t>(values.size()) &&
         std::equal(values.begin(), values.end(), array.as<int64_t>());
}

std::unique_ptr<Session> indexing(const std::string& op) {
  Maker m;
  const std::string x = m.input("i64", dims({4, 2})), i = m.input("i64", dims({3, 2}));
  std::vector<std::string> inputs = {x, i};
  if (op == "scatter") inputs = {x, i, m.constant(numbers({3, 2}, {1, 2, 3, 4, 5, 6}))};
  if (op == "index_put") inputs = {x, m.constant(numbers({3, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})), i};
  return m.session({m.node(op, inputs, {{"axis", int64_t{0}}})}, default_isa());
}

TEST(an_index_out_of_range_is_refused_and_named) {
  for (const char* op : {"take", "gather", "index", "scatter", "index_put"}) {
    const std::unique_ptr<Session> session = indexing(op);
    const bool negative = std::string_view(op) == "index" || std::string_view(op) == "index_put";
    const Array x = numbers({4, 2}, {0, 10, 1, 11, 2, 12, 3, 13});
    run(*session, {x, numbers({3, 2}, {0, 1, 2, 3, 0, 3})});
    for (int64_t bad : {int64_t{4}, negative ? int64_t{-5} : int64_t{-1}, kLeast, kMost}) {
      const Array indices = numbers({3, 2}, {0, 1, 2, 3, 0, bad});
      CHECK(throws(ErrorKind::input, "is out of range for an axis of size 4", [&] { run(*session, {x, indices}); }));
      CHECK(throws(ErrorKind::input, op, [&] { run(*session, {x, indices}); }));
    }
  }
}

// What was checked may be something else when it is used: nothing out of bounds may be touched then.
void run_while_it_changes(const Session& session, std::vector<Array> inputs, size_t changing, int64_t bad) {
  std::atomic<bool> done{false};
  volatile int64_t* values = inputs[changing].as<int64_t>();
  const int64_t count = inputs[changing].type.shape.elements();
  const std::vector<int64_t> good(values, values + count);
  std::thread writer([&] {
    while (!done.load()) {
      for (int64_t i = count / 2; i < count; ++i) values[i] = bad;
      for (int64_t i = count / 2; i < count; ++i) values[i] = good[i];
    }
  });
  std::vector<Tensor> in;
  for (Array& input : inputs) in.push_back(input.view());
  for (int i = 0; i < 3000; ++i) {
    try {
      Session::Call call(session, in);
      std::vector<Array> outputs;
      std::vector<Tensor> out;
      for (const TensorType& type : call.outputs()) outputs.emplace_back(type.dtype, type.shape);
      for (Array& output : outputs) out.push_back(output.view());
      call.run(out);
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::input);
    }
  }
  done.store(true);
  writer.join();
}

TEST(indices_may_change_during_a_call) {
  const Array x = numbers({4, 2}, {0, 10, 1, 11, 2, 12, 3, 13}), i = numbers({3, 2}, {0, 1, 2, 3, 0, 3});
  for (const char* op : {"take", "gather", "index", "scatter", "index_put"})
    for (int64_t bad : {int64_t{1} << 36, int64_t{-1}, kLeast}) run_while_it_changes(*indexing(op), {x, i}, 1, bad);
}

TEST(offsets_divisors_and_keys_may_change_during_a_call) {
  Maker bags;
  const std::string o = bags.input("i64", dims({3})), i = bags.constant(numbers({4}, {0, 4, 2, 1}));
  const auto bag = bags.session(
      {bags.node("embedding_bag", {bags.floats({5, 3}), i, o}, {{"mode", std::string("sum")}})}, default_isa());
  run_while_it_changes(*bag, {numbers({3}, {0, 1, 4})}, 0, int64_t{1} << 40);
  for (const char* op : {"floor_div", "trunc_div", "remainder", "fmod"}) {
    Maker m;
    const std::string x = m.constant(numbers({3}, {kLeast, kLeast, 7})), y = m.input("i64", dims({3}));
    const auto session = m.session({m.node(op, {x, y})}, default_isa());
    for (int64_t bad : {int64_t{0}, int64_t{-1}}) run_while_it_changes(*session, {numbers({3}, {2, 3, 5})}, 0, bad);
  }
  Maker m;
  const std::string x = m.input("i64", dims({100}));
  const auto sort = m.session({m.nodes("sort", {x}, 2, {{"axis", int64_t{0}}})[1]}, default_isa());
  Array keys(DType::i64, {100});
  for (int64_t k = 0; k < 100; ++k) keys.as<int64_t>()[k] = k * 37 % 100;
  run_while_it_changes(*sort, {keys}, 0, kMost);
}

TEST(bags_with_wrong_offsets_are_refused) {
  Maker m;
  const std::string table = m.floats({5, 3}), i = m.input("i64", dims({4})), o = m.input("i64", dims({3}));
  const auto session =
      m.session({m.node("embedding_bag", {table, i, o}, {{"mode", std::string("mean")}})}, default_isa());
  const Array indices = numbers({4}, {0, 4, 2, 1});
  run(*session, {indices, numbers({3}, {0, 0, 4})});
  for (const Array& offsets : {numbers({3}, {0, 3, 2}), numbers({3}, {1, 2, 3}), numbers({3}, {0, 2, 5}),
                               numbers({3}, {0, kLeast, 2}), numbers({3}, {0, kMost, kMost})})
    CHECK(throws(ErrorKind::input, "offsets must rise", [&] { run(*session, {indices, offsets}); }));
  CHECK(throws(ErrorKind::input, "index 5 is out of range",
               [&] { run(*session, {numbers({4}, {0, 5, 0, 0}), numbers({3}, {0, 0, 0})}); }));
}

TEST(whole_numbers_divide_without_a_trap) {
  for (const char* op : {"floor_div", "trunc_div", "remainder", "fmod"}) {
    Maker m;
    const std::string a = m.input("i64", dims({3})), b = m.input("i64", dims({3}));
    const auto session = m.session({m.node(op, {a, b})}, default_isa());
    run(*session, {numbers({3}, {kLeast, kMost, -7}), numbers({3}, {-1, kLeast, 2})});
    CHECK(throws(ErrorKind::input, "divided by zero",
                 [&] { run(*session, {numbers({3}, {1, 2, 3}), numbers({3}, {1, 0, 1})}); }));
  }
  Maker m;
  const std::string a = m.input("i64", dims({4})), b = m.input("i64", dims({4}));
  const auto session = m.session({m.node("pow", {a, b}), m.node("mul", {a, b}), m.node("sub", {a, b})}, default_isa());
  const auto found = run(*session, {numbers({4}, {3, -1, kMost, 2}), numbers({4}, {4, kLeast, 3, -1})});
  CHECK(gives(found[0], {81, 1, kMost, 0}));
}

TEST(what_depends_on_symbols_is_computed_with_the_plan) {
  Maker m;
  const Dim n = symbol(m.builder.symbol("n", 1, 100));
  const std::string x = m.input("i64", {n});
  const std::string count = m.node("arange", {},
                                   {{"start", int64_t{5}},
                                    {"length", std::vector<int64_t>(n.rpn)},
                                    {"step", int64_t{-2}},
                                    {"dtype", std::string("i64")}});
  const std::string size = m.node("dim_value", {}, {{"value", std::vector<int64_t>(n.rpn)}});
  const std::string running = m.node("cumsum", {count}, {{"axis", int64_t{0}}});
  const auto session = m.session({m.node("add", {x, m.node("mul", {running, size})}), count}, default_isa());
  const auto found = run(*session, {numbers({3}, {100, 200, 300})});
  CHECK(gives(found[0], {115, 224, 327}));
  CHECK(gives(found[1], {5, 3, 1}));
  CHECK(gives(run(*session, {numbers({1}, {0})})[0], {5}));
  Array input = numbers({3}, {1, 2, 3});
  const std::vector<Tensor> in = {input.view()};
  Session::Call call(*session, in);
  CHECK(!call.plan().kept.empty());
  CHECK(call.plan().steps.size() == 2);  // the sum, and the copy to the second output
}

TEST(hostile_attributes_are_refused) {
  const auto refused = [](const char* part, const char* op, int inputs, Attributes attributes, int outputs = 1) {
    Maker m;
    std::vector<std::string> names;
    for (int i = 0; i < inputs; ++i) names.push_back(m.input(i == 0 ? "f32" : "i64", dims({3, 4})));
    const std::vector<std::string> made = m.nodes(op, names, outputs, std::move(attributes));
    return throws(ErrorKind::graph, part, [&] { m.session({made[0]}, default_isa()); });
  };
  const std::string sum = "sum";
  CHECK(refused("axis 2 is out of range", "take", 2, {{"axis", int64_t{2}}}));
  CHECK(refused("takes 2 inputs", "take", 1, {{"axis", int64_t{0}}}));
  CHECK(refused("takes 2", "index", 1, {{"axis", int64_t{0}}}));
  CHECK(refused("more than", "index", 4, {{"axis", int64_t{0}}}));
  CHECK(refused("takes 3", "index_put", 2, {{"axis", int64_t{0}}}));
  CHECK(refused("'reduce' must be", "scatter", 3, {{"axis", int64_t{0}}, {"reduce", std::string("xor")}}));
  CHECK(refused("input 2 must be f32", "scatter", 3, {{"axis", int64_t{0}}}));
  CHECK(refused("k is 5", "topk", 1, {{"axis", int64_t{1}}, {"k", int64_t{5}}}, 2));
  CHECK(refused("k is -1", "topk", 1, {{"axis", int64_t{1}}, {"k", int64_t{-1}}}, 2));
  CHECK(refused("gives 2 outputs", "sort", 1, {{"axis", int64_t{1}}}));
  CHECK(refused("axes repeat", "reduce", 1, {{"kind", sum}, {"axes", std::vector<int64_t>{0, -2}}}));
  CHECK(refused("not defined for f32", "reduce", 1, {{"kind", std::string("any")}, {"axes", std::vector<int64_t>{0}}}));
  CHECK(refused("'kind' must be", "reduce", 1, {{"kind", std::string("mode")}, {"axes", std::vector<int64_t>{0}}}));
  CHECK(refused("do not broadcast", "expand", 1, {{"shape", std::vector<int64_t>{2, 4}}}));
  CHECK(refused("too large", "expand", 1, {{"shape", std::vector<int64_t>{int64_t{1} << 40, 3, 4}}}));
  CHECK(refused("negative", "expand", 1, {{"shape", std::vector<int64_t>{-1, 3, 4}}}));
  CHECK(refused("negative or too large", "arange", 0,
                {{"start", int64_t{0}}, {"length", kMost}, {"dtype", std::string("i64")}}));
  CHECK(refused("'dtype' must be", "arange", 0,
                {{"start", int64_t{0}}, {"length", int64_t{1}}, {"dtype", std::string("f32")}}));
  CHECK(refused("input 0 is f32, input 1 i64", "add", 2, {}));
  CHECK(refused("names no comparison", "compare", 2, {{"kind", std::string("like")}}));
  CHECK(refused("not defined for f32", "logical", 2, {{"kind", std::string("and")}}));
  CHECK(refused("must be bool", "where", 3, {}));
  CHECK(refused("must be bool", "logical_not", 1, {}));
  CHECK(refused("'upper' must be", "triangle", 1, {{"diagonal", int64_t{0}}, {"upper", int64_t{2}}}));
}

// All sizes of the last axes, which have loops of their own, with memory that ends where the tensor ends.
TEST(reductions_and_order_stay_within_their_memory) {
  for (int64_t inner : {1, 2, 63, 64, 65, 130}) {
    for (int64_t size : {1, 2, 7, 8, 9, 17}) {
      Maker m;
      const std::string x = m.input("f32", dims({2, size, inner}));
      const std::vector<int64_t> axes = {1};
      std::vector<std::string> outputs;
      for (const char* kind : {"sum", "max", "min", "prod"})
        outputs.push_back(m.node("reduce", {x}, {{"kind", std::string(kind)}, {"axes", axes}}));
      outputs.push_back(m.node("argmax", {x}, {{"axis", int64_t{1}}}));
      outputs.push_back(m.node("cumsum", {x}, {{"axis", int64_t{1}}}));
      for (const std::string& name : m.nodes("sort", {x}, 2, {{"axis", int64_t{1}}})) outputs.push_back(name);
      for (const std::string& name : m.nodes("topk", {x}, 2, {{"axis", int64_t{1}}, {"k", (size + 1) / 2}}))
        outputs.push_back(name);
      Random random(static_cast<uint64_t>(inner * 100 + size));
      const Array input = random_floats({2, size, inner}, random);
      const auto session = m.session(outputs, default_isa(), 2);
      const auto found = run(*session, {input});
      for (int64_t row = 0; row < 2; ++row)
        for (int64_t column = 0; column < inner; ++column) {
          const int64_t place = found[4].as<int64_t>()[row * inner + column];
          const float best = input.as<float>()[(row * size + place) * inner + column];
          CHECK(found[1].as<float>()[row * inner + column] == best);
          CHECK(found[6].as<float>()[(row * size + size - 1) * inner + column] == best);
        }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
