// Random nets of joins and slices: whoever writes into a joined value, or reads a part of one, gives the bits of the
// scalar kernels, and the sanitizers see no access beyond it.
#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

struct Image {
  std::string name;
  int64_t channels;
};

class RandomNet {
 public:
  explicit RandomNet(uint64_t seed) : m_(seed) {
    const int64_t channels = m_.random.whole(1, 70);
    x_ = {m_.random.whole(1, 3), channels, m_.random.whole(1, 6), m_.random.whole(1, 6)};
    const std::string x = m_.input("f32", dims(x_));
    images_.push_back({m_.node("quantize", {x}, {{"scale", 0.02}, {"zero_point", int64_t{100}}}), channels});
    for (int64_t i = m_.random.whole(4, 12); i > 0; --i) grow();
  }

  Array input() const {
    Random random(5);
    return random_floats(x_, random, 3.0f);
  }

  std::unique_ptr<Session> session(Isa isa, int threads) {
    return m_.session({images_.back().name, images_[images_.size() / 2].name}, isa, threads);
  }

 private:
  Image any() { return images_[static_cast<size_t>(m_.random.whole(0, static_cast<int64_t>(images_.size()) - 1))]; }

  void grow() {
    const Image x = any();
    switch (m_.random.whole(0, 6)) {
      case 0:
      case 1:
        return join();
      case 2: {
        const int64_t start = m_.random.whole(0, x.channels - 1), stop = m_.random.whole(start + 1, x.channels);
        const Attributes slice = {{"axis", int64_t{1}}, {"start", start}, {"stop", stop}};
        return images_.push_back({m_.node("slice", {x.name}, slice), stop - start});
      }
      case 3:
        return images_.push_back({convolution(x, x.channels, 3, x.channels, {}), x.channels});
      case 4: {
        const Attributes window = {{"kernel", std::vector<int64_t>{3, 3}},
                                   {"stride", std::vector<int64_t>{1, 1}},
                                   {"padding", std::vector<int64_t>{1, 1, 1, 1}}};
        return images_.push_back({m_.node("max_pool2d", {x.name}, window), x.channels});
      }
      default: {
        const Image residual = any();
        const bool adds = m_.random.whole(0, 1) == 1;
        const int64_t filters = adds ? residual.channels : m_.random.whole(1, 70);
        const int64_t size = m_.random.whole(0, 1) * 2 + 1;
        return images_.push_back({convolution(x, filters, size, 1, adds ? residual.name : ""), filters});
      }
    }
  }

  void join() {
    std::vector<std::string> names;
    int64_t channels = 0;
    for (int64_t i = m_.random.whole(1, 4); i > 0; --i) {
      const Image part = any();
      names.push_back(part.name);
      channels += part.channels;
    }
    if (channels < 1000) images_.push_back({m_.node("concat", names, {{"axis", int64_t{1}}}), channels});
  }

  std::string convolution(const Image& x, int64_t filters, int64_t size, int64_t groups, const std::string& residual) {
    Attributes attributes = {{"zero_point_x", int64_t{100}},
                             {"output", std::string("u8")},
                             {"zero_point_y", int64_t{100}},
                             {"groups", groups},
                             {"padding", std::vector<int64_t>(4, size / 2)}};
    std::vector<std::string> inputs = {x.name, m_.weight(Shape{filters, x.channels / groups, size, size}),
                                       m_.floats({filters}, 1e-3f), m_.floats({filters}, 20)};
    if (!residual.empty()) {
      inputs.push_back(residual);
      attributes["residual_multiplier"] = 0.5;
    }
    return m_.node("quantized_conv2d", inputs, attributes);
  }

  Maker m_;
  Shape x_;
  std::vector<Image> images_;
};

TEST(joins_and_parts_change_no_bit) {
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    const Array x = RandomNet(seed).input();
    const std::vector<Array> expected = run(*RandomNet(seed).session(Isa::scalar, 1), {x});
    for (Isa isa : available_isas())
      for (int threads : {1, 3})
        if (!(run(*RandomNet(seed).session(isa, threads), {x}) == expected)) {
          std::printf("seed %d differs\n", static_cast<int>(seed));
          CHECK(false);
        }
  }
}

}  // namespace
}  // namespace lowbit::test
