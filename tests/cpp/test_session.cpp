// Sessions: the same bits whatever the ISA, threads, batch and neighbours; concurrency, forks, and no allocation when
// warm.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cfenv>
#include <thread>

#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

Attributes pads(std::initializer_list<int64_t> padding, Attributes more = {}) {
  more["padding"] = std::vector<int64_t>(padding);
  return more;
}

// Every kind of step: layouts, views, residual, depthwise, in-place, dynamic quantization, several outputs; batch free.
std::unique_ptr<Session> mixed_net(Isa isa, int threads) {
  Maker m(3);
  const Dim batch = symbol(m.builder.symbol("batch", 0, 1000));
  const std::string x = m.input("f32", {batch, Dim::constant(6), Dim::constant(12), Dim::constant(10)});
  const Attributes integer = {
      {"zero_point_x", int64_t{128}}, {"output", std::string("u8")}, {"zero_point_y", int64_t{128}}};
  const std::string q = m.node("quantize", {x}, {{"scale", 0.02}, {"zero_point", int64_t{128}}});
  const std::string a =
      m.node("quantized_conv2d", {q, m.weight(Shape{32, 6, 3, 3}), m.floats({32}, 1e-3f), m.floats({32}, 9)},
             pads({1, 1, 1, 1}, integer));
  Attributes depthwise = pads({1, 1, 1, 1}, integer);
  depthwise["groups"] = int64_t{32};
  const std::string b = m.node("quantized_conv2d",
                               {a, m.weight(Shape{32, 1, 3, 3}), m.floats({32}, 5e-3f), m.floats({32}, 9)}, depthwise);
  Attributes residual = integer;
  residual["residual_multiplier"] = 0.5;
  const std::string c = m.node(
      "quantized_conv2d", {b, m.weight(Shape{32, 32, 1, 1}), m.floats({32}, 1e-3f), m.floats({32}, 9), a}, residual);
  const std::string f = m.node("dequantize", {c}, {{"scale", 0.02}, {"zero_point", int64_t{128}}});
  const std::string g = m.node("unary", {f}, {{"kind", std::string("silu")}});
  const std::string pooled = m.node("adaptive_avg_pool2d", {g}, {{"output_size", std::vector<int64_t>{1, 1}}});
  const std::string gated = m.node("mul", {g, m.node("unary", {pooled}, {{"kind", std::string("sigmoid")}})});
  const std::string flat = m.node("reshape", {pooled}, {{"shape", std::vector<Dim>{batch, Dim::constant(32)}}});
  const auto dynamic = m.nodes("dynamic_quantize", {flat}, 3, {{"granularity", std::string("row")}});
  const std::string y = m.node(
      "quantized_linear",
      {dynamic[0], m.weight(Shape{20, 32}), m.floats({20}, 1e-2f), m.floats({20}), "", "", dynamic[1], dynamic[2]},
      {{"output", std::string("f32")}});
  const std::string p = m.node("softmax", {y}, {{"axis", int64_t{-1}}});
  return m.session({p, gated, y}, isa, threads);
}

Array batch_of(int64_t n, uint64_t seed) {
  Random random(seed);
  return random_floats({n, 6, 12, 10}, random, 3.0f);
}

TEST(results_do_not_depend_on_isa_or_threads) {
  for (int64_t batch : {5, 40, 250}) {  // alone; split between threads; more than one padded copy holds
    const Array x = batch_of(batch, 1);
    const std::vector<Array> expected = run(*mixed_net(Isa::scalar, 1), {x});
    for (Isa isa : available_isas())
      for (int threads : {1, 2, 5}) CHECK(run(*mixed_net(isa, threads), {x}) == expected);
  }
}

TEST(results_do_not_depend_on_batch_or_position) {
  const auto session = mixed_net(default_isa(), 2);
  Array all = batch_of(7, 2);
  const std::vector<Array> together = run(*session, {all});
  const size_t sample = all.bytes.size() / 7;
  for (size_t i = 0; i < 7; ++i) {
    Array one(DType::f32, {1, 6, 12, 10});
    std::memcpy(one.bytes.data(), all.bytes.data() + i * sample, sample);
    const std::vector<Array> alone = run(*session, {one});
    for (size_t output = 0; output < alone.size(); ++output) {
      const size_t bytes = alone[output].bytes.size();
      CHECK(std::memcmp(alone[output].bytes.data(), together[output].bytes.data() + i * bytes, bytes) == 0);
    }
  }
}

TEST(results_do_not_depend_on_the_callers_float_environment) {
  const auto session = mixed_net(default_isa(), 2);
  const Array x = batch_of(2, 3);
  const std::vector<Array> expected = run(*session, {x});
  std::fesetround(FE_UPWARD);
  const std::vector<Array> upward = run(*session, {x});
  CHECK(std::fegetround() == FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  CHECK(upward == expected);
}

TEST(sixteen_threads_share_a_session) {
  const auto session = mixed_net(default_isa(), 2);
  std::vector<Array> inputs;
  std::vector<std::vector<Array>> expected;
  for (int64_t i = 0; i < 4; ++i) {
    inputs.push_back(batch_of(i + 1, static_cast<uint64_t>(i)));
    expected.push_back(run(*session, {inputs.back()}));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (size_t i = 0; i < 16; ++i)
    callers.emplace_back([&, i] {
      for (size_t j = 0; j < 20; ++j)
        if (run(*session, {inputs[(i + j) % 4]}) != expected[(i + j) % 4]) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong.load() == 0);
  CHECK(session->contexts().memory().contexts <= 16);
}

TEST(a_forked_child_runs_the_session) {
  const auto session = mixed_net(default_isa(), 2);
  const Array x = batch_of(3, 5);
  const std::vector<Array> expected = run(*session, {x});
  // The busy thread allocates nothing: a fork in the midst of the sanitizer's allocator leaves its lock taken for good.
  Array input = x;
  std::vector<Array> outputs = expected;
  std::atomic<bool> stop{false};
  std::thread busy([&, in = input.view(), out = std::array{outputs[0].view(), outputs[1].view(), outputs[2].view()}] {
    while (!stop.load()) session->run({&in, 1}, out);
  });
  for (int i = 0; i < 5; ++i) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) _exit(run(*session, {x}) == expected ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  stop = true;
  busy.join();
  CHECK(outputs == expected);
  CHECK(run(*session, {x}) == expected);
}

TEST(a_warm_run_allocates_nothing) {
  for (int threads : {1, 2}) {
    const auto session = mixed_net(default_isa(), threads);
    std::vector<Array> arrays, outputs;
    for (int64_t n : {1, 4}) arrays.push_back(batch_of(n, 6));
    std::vector<std::vector<Array>> results;
    for (const Array& x : arrays) results.push_back(run(*session, {x}));
    long counted = 0;
    for (int repeat = 0; repeat < 3; ++repeat)
      for (size_t i = 0; i < arrays.size(); ++i) {
        const Tensor in = arrays[i].view();
        const Tensor out[] = {results[i][0].view(), results[i][1].view(), results[i][2].view()};
        const long before = allocations();
        session->run({&in, 1}, out);
        counted += allocations() - before;
      }
    CHECK(counted == 0);
  }
}

TEST(plans_and_contexts_are_bounded) {
  const auto session = mixed_net(default_isa(), 1);
  for (int64_t n = 1; n <= 30; ++n) run(*session, {batch_of(n, 1)});
  CHECK(session->contexts().memory().plans == graph::Contexts::kMaxPlans);
  CHECK(session->contexts().memory().contexts == 1);
  CHECK(run(*session, {batch_of(3, 1)}) == run(*mixed_net(default_isa(), 1), {batch_of(3, 1)}));
}

TEST(an_empty_batch_gives_empty_outputs) {
  const auto session = mixed_net(default_isa(), 2);
  const std::vector<Array> outputs = run(*session, {batch_of(0, 1)});
  CHECK(outputs[0].type.shape == (Shape{0, 20}));
  CHECK(outputs[1].type.shape == (Shape{0, 32, 12, 10}));
}

TEST(inputs_that_do_not_fit_are_refused) {
  const auto session = mixed_net(default_isa(), 1);
  Random random(1);
  const auto refuses = [&](const char* part, const std::vector<Array>& inputs) {
    return throws(ErrorKind::input, part, [&] { run(*session, inputs); });
  };
  CHECK(refuses("expected 1 inputs", {}));
  CHECK(refuses("[batch, 6, 12, 10]", {random_floats({1, 6, 12}, random)}));
  CHECK(refuses("axis 1 must be 6", {random_floats({1, 5, 12, 10}, random)}));
  CHECK(refuses("expected f32", {random_codes(DType::u8, {1, 6, 12, 10}, random)}));
  CHECK(refuses("batch must be from 0 to 1000", {Array(DType::f32, {1001, 6, 12, 10})}));

  Array x = batch_of(1, 1), y(DType::f32, {1, 20}), g(DType::f32, {1, 32, 12, 10}), small(DType::f32, {1, 19});
  const Tensor in = x.view();
  const auto into = [&](const char* part, std::vector<Tensor> outputs) {
    return throws(ErrorKind::input, part, [&] { session->run({&in, 1}, outputs); });
  };
  CHECK(into("expected 3 outputs", {y.view()}));
  CHECK(into("expected f32 [1, 20]", {small.view(), g.view(), y.view()}));
  CHECK(into("shares memory", {y.view(), g.view(), y.view()}));
}

TEST(outputs_may_be_inputs_constants_views_and_repeated) {
  Maker m(4);
  const Array constant = random_floats({2, 3}, m.random), x = random_floats({3, 2}, m.random);
  const std::string in = m.input("f32", dims({3, 2})), c = m.constant(constant);
  const std::string view = m.node("reshape", {in}, {{"shape", std::vector<int64_t>{6}}});
  const std::string clipped = m.node("clip", {in}, {{"min", 0.0}});
  const std::string clipped_view = m.node("reshape", {clipped}, {{"shape", std::vector<int64_t>{2, 3}}});
  const std::string sum = m.node("add", {clipped_view, c});
  const auto session = m.session({in, c, view, clipped, clipped, clipped_view, sum}, default_isa());
  const std::vector<Array> y = run(*session, {x});
  CHECK(y[0] == x);
  CHECK(y[1] == constant);
  CHECK(y[2].bytes == x.bytes);
  CHECK(y[3] == y[4]);
  CHECK(y[5].bytes == y[3].bytes);
  for (size_t i = 0; i < 6; ++i) {
    CHECK(y[3].as<float>()[i] == std::max(x.as<float>()[i], 0.0f));
    CHECK(y[6].as<float>()[i] == y[3].as<float>()[i] + constant.as<float>()[i]);
  }
}

// A net that takes seconds for a large batch, on any kernel, and next to nothing for a small one.
std::unique_ptr<Session> long_net(int threads, const graph::Limits& limits) {
  Maker m;
  const Dim batch = symbol(m.builder.symbol("batch", 1, 1 << 20));
  std::string x = m.input("f32", {batch, Dim::constant(256)});
  for (int i = 0; i < 100; ++i) {
    x = m.node("linear", {x, m.floats({256, 256}, 0.1f)});
    x = m.node("softmax", {x}, {{"axis", int64_t{1}}});
  }
  m.builder.output(x);
  return std::make_unique<Session>(m.builder.finish(), default_isa(), threads, limits);
}

std::vector<std::byte> run_long(const Session& session, int64_t batch, Interrupt interrupt = {}) {
  Array x(DType::f32, {batch, 256}), y(DType::f32, {batch, 256});
  for (int64_t i = 0; i < x.type.shape.elements(); ++i) x.as<float>()[i] = static_cast<float>(i % 7);
  const Tensor in = x.view(), out = y.view();
  Session::Call(session, {&in, 1}, interrupt).run({&out, 1});
  return y.bytes;
}

// A short call, again where the machine was busy for as long as the deadline.
std::vector<std::byte> run_in_time(const Session& session, int64_t batch) {
  for (int attempt = 1;; ++attempt) {
    try {
      return run_long(session, batch);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::limit || attempt == 50) throw;
    }
  }
}

TEST(a_call_ends_at_its_deadline_and_the_next_is_right) {
  for (int threads : {1, 3}) {
    const auto expected = run_long(*long_net(threads, {}), 3);
    const auto session = long_net(threads, {.memory = {}, .operations = {}, .seconds = 0.02, .weights = {}});
    for (int i = 0; i < 3; ++i) {
      CHECK(throws(ErrorKind::limit, "longer than this session's limit, 0.02 seconds",
                   [&] { run_long(*session, 20000); }));
      CHECK(run_in_time(*session, 3) == expected);
    }
  }
}

TEST(who_called_may_end_a_call) {
  for (int threads : {1, 3}) {
    const auto session = long_net(threads, {.memory = {}, .operations = {}, .seconds = {}, .weights = {}});
    const auto expected = run_long(*session, 3);
    int asked = 0;
    const auto ask = [](void* count) { return ++*static_cast<int*>(count) == 2; };
    CHECK(throws(ErrorKind::interrupt, "", [&] { run_long(*session, 20000, {ask, &asked}); }));
    CHECK(asked == 2);
    CHECK(run_long(*session, 3) == expected);
  }
}

TEST(operations_are_limited_when_a_call_is_planned) {
  const auto session = long_net(1, {.memory = {}, .operations = 1e8, .seconds = {}, .weights = {}});
  run_long(*session, 3);
  CHECK(throws(ErrorKind::limit, "operations, most of them", [&] { run_long(*session, 20000); }));
}

TEST(profile_has_a_row_for_each_step) {
  const auto session = mixed_net(default_isa(), 1);
  Array x = batch_of(2, 1);
  const Tensor in = x.view();
  Session::Call call(*session, {&in, 1});
  std::vector<Array> outputs;
  std::vector<Tensor> out;
  for (const TensorType& type : call.outputs()) outputs.emplace_back(type.dtype, type.shape);
  for (Array& output : outputs) out.push_back(output.view());
  std::vector<double> seconds;
  call.profile(out, 3, seconds);
  CHECK(seconds.size() == call.plan().steps.size());
  double operations = 0;
  for (size_t i = 0; i < seconds.size(); ++i) operations += call.work(i).operations;
  CHECK(operations > 2.0 * 2 * 120 * 32 * (54 + 9 + 32));
}

}  // namespace
}  // namespace lowbit::test
