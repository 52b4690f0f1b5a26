// States of callers: caches that are updated in place, on every instruction set; and graphs whose states are not sound.
#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

constexpr int64_t kHeads = 4, kKeyHeads = 2, kBlocks = 3;

struct Decoder {
  std::unique_ptr<Session> session;
  int64_t depth;

  Decoder(int64_t depth, const char* cache, Isa isa, int threads) : depth(depth) {
    Maker m(3);
    const Dim batch = symbol(m.builder.symbol("batch", 1, 9)), steps = symbol(m.builder.symbol("steps", 1, 40));
    const auto fixed = [](int64_t size) { return Dim::constant(size); };
    std::vector<std::string> names;
    for (int64_t heads : {kHeads, kKeyHeads, kKeyHeads})
      names.push_back(m.input("f32", {batch, fixed(heads), steps, fixed(depth)}));
    const std::string count = m.input("i64", {batch});
    const Dim size = fixed(depth + (std::string_view(cache) == "s8" ? 4 : 0));
    names.push_back(m.input(cache, {batch, fixed(kKeyHeads), fixed(kBlocks), size, fixed(16)}));
    names.push_back(m.input(cache, {batch, fixed(kKeyHeads), fixed(kBlocks), fixed(16), size}));
    names.push_back(m.input("i64", {batch}));
    const auto made = m.nodes("cached_attention", names, 3, {{"scale", 0.3}});
    const std::string longer = m.node("add", {names[5], count});
    m.builder.state(names[3], made[1], "", names[5], 2);
    m.builder.state(names[4], made[2], "", names[5], 2);
    m.builder.state(names[5], longer, "", "", 0);
    session = m.session({made[0], made[1], made[2], longer}, isa, threads);
  }

  // What steps `from` to `to` of these inputs [heads, steps, depth] give, row after row of a head.
  Array run(std::vector<Array>& parts, int64_t from, int64_t to, graph::State* state) {
    std::vector<Array> pieces;
    for (Array& part : parts) {
      const int64_t heads = part.type.shape[1], all = part.type.shape[2];
      Array& piece = pieces.emplace_back(DType::f32, Shape{1, heads, to - from, depth});
      for (int64_t h = 0; h < heads; ++h)
        std::copy_n(part.as<float>() + (h * all + from) * depth, (to - from) * depth,
                    piece.as<float>() + h * (to - from) * depth);
    }
    pieces.emplace_back(DType::i64, Shape{1}).as<int64_t>()[0] = to - from;
    std::vector<Tensor> in;
    for (Array& piece : pieces) in.push_back(piece.view());
    Session::Call call(*session, in, {}, state);
    CHECK(call.outputs().size() == 1);
    Array y(DType::f32, {1, kHeads, to - from, depth});
    const Tensor out = y.view();
    call.run({&out, 1});
    return y;
  }
};

TEST(caches_in_pieces_give_the_bits_of_one_call_everywhere) {
  for (int64_t depth : {1, 7, 16, 40}) {
    for (const char* cache : {"f32", "f16", "s8"}) {
      Random random(static_cast<uint64_t>(depth));
      std::vector<Array> parts;
      for (int64_t heads : {kHeads, kKeyHeads, kKeyHeads})
        parts.push_back(random_floats({1, heads, 37, depth}, random));
      const Array whole = Decoder(depth, cache, Isa::scalar, 1).run(parts, 0, 37, nullptr);
      for (Isa isa : available_isas()) {
        Decoder decoder(depth, cache, isa, 2);
        const auto state = decoder.session->state({1, -1});
        for (int64_t from = 0, to = 20; from < 37; from = to, to = std::min<int64_t>(37, to + (from < 25 ? 1 : 12))) {
          const Array piece = decoder.run(parts, from, to, state.get());
          for (int64_t h = 0; h < kHeads; ++h)
            CHECK(std::memcmp(piece.as<float>() + h * (to - from) * depth, whole.as<float>() + (h * 37 + from) * depth,
                              static_cast<size_t>((to - from) * depth) * sizeof(float)) == 0);
        }
        CHECK(state->values()[2].as<int64_t>()[0] == 37);
        state->reset();
        CHECK(decoder.run(parts, 0, 37, state.get()) == whole);
      }
    }
  }
}

TEST(a_warm_step_allocates_nothing) {
  Decoder decoder(16, "f16", Isa::scalar, 1);
  const auto state = decoder.session->state({1, -1});
  Array q(DType::f32, {1, kHeads, 1, 16}), k(DType::f32, {1, kKeyHeads, 1, 16}), count(DType::i64, {1}), y = q;
  count.as<int64_t>()[0] = 1;
  const std::vector<Tensor> in = {q.view(), k.view(), k.view(), count.view()};
  const Tensor out = y.view();
  for (int step = 0; step < 2; ++step) Session::Call(*decoder.session, in, {}, state.get()).run({&out, 1});
  const long before = allocations();
  Session::Call(*decoder.session, in, {}, state.get()).run({&out, 1});
  CHECK(allocations() == before);
}

TEST(what_does_not_fit_a_state_is_refused) {
  Decoder decoder(4, "f32", Isa::scalar, 1);
  Random random(1);
  std::vector<Array> parts;
  for (int64_t heads : {kHeads, kKeyHeads, kKeyHeads}) parts.push_back(random_floats({1, heads, 40, 4}, random));
  const auto state = decoder.session->state({1, -1});
  decoder.run(parts, 0, 40, state.get());
  CHECK(throws(ErrorKind::input, "do not fit", [&] { decoder.run(parts, 0, 9, state.get()); }));
  CHECK(state->values()[2].as<int64_t>()[0] == 40);
  CHECK(throws(ErrorKind::input, "must be given", [&] { decoder.session->state({-1, -1}); }));
  const auto two = decoder.session->state({2, -1});
  CHECK(throws(ErrorKind::input, "must be", [&] { decoder.run(parts, 0, 1, two.get()); }));
}

}  // namespace
}  // namespace lowbit::test
