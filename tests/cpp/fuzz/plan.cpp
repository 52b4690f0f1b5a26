// Plans and runs of what is sound among the statements: three sets of sizes a session, each run twice. The same bits
// come of both runs, and of the scalar kernels where every value is an output and so lies by itself.
#include <cinttypes>

#include "decode.h"

namespace lowbit::fuzz {
namespace {

using test::Array;

constexpr int64_t kMostElements = 1 << 18;  // of all inputs, or outputs, that a run is worth
constexpr graph::Limits kLimits = {
    .memory = int64_t{1} << 28, .operations = 1e7, .seconds = std::nullopt, .weights = std::nullopt};

std::unique_ptr<graph::Session> session_of(Decoder&& decoded, Isa isa) {
  return std::make_unique<graph::Session>(decoded.builder.finish(), isa, 1, kLimits);
}

// A session of what is sound: the statements that an error names are left out, a few times. Null: there is none.
std::unique_ptr<graph::Session> sound_session(const uint8_t* data, size_t size, std::set<int>& left_out) {
  constexpr int kTries = 6;
  for (int i = 0; i < kTries; ++i) {
    try {
      return session_of(Decoder(data, size, left_out), default_isa());
    } catch (const Error& error) {
      const size_t before = left_out.size();
      left_out.merge(blamed(error.what()));
      if (left_out.size() == before) break;
    }
  }
  return nullptr;
}

// The same, where nothing is computed in place, joined or left out.
std::unique_ptr<graph::Session> plain_session(const uint8_t* data, size_t size, const std::set<int>& left_out) {
  Decoder decoded(data, size, left_out);
  decoded.expose();
  try {
    return session_of(std::move(decoded), Isa::scalar);
  } catch (const Error&) {  // what was left out by itself may be no sound node
    return nullptr;
  }
}

int64_t elements(std::span<const TensorType> types) {
  int64_t sum = 0;
  for (const TensorType& type : types) sum += type.shape.elements();
  return sum;
}

// seed: its two lowest bits choose among numbers that are places, divisors, either, and out of all bounds.
Array array_of(const TensorType& type, uint8_t seed, Random& random) {
  Array array(type.dtype, type.shape);
  const Buffer buffer(array.bytes.size());
  const bool real = type.dtype == DType::f32 || type.dtype == DType::f16;
  constexpr std::array<int64_t, 4> kLow = {0, 1, -1, -1}, kHigh = {1, 3, 5, 5};
  for (int64_t i = 0; i < type.shape.elements(); ++i) {
    const bool odd = (seed & 3) == 3 && random.whole(0, 30) == 0;
    const double whole = odd ? 1e12 : static_cast<double>(random.whole(kLow[seed & 3], kHigh[seed & 3]));
    Decoder::put(buffer, type.dtype, i, real ? random.real(-4, 4) * (odd ? 1e30f : 1) : whole);
  }
  std::copy_n(buffer.as<std::byte>(), array.bytes.size(), array.bytes.begin());
  return array;
}

// Inputs for the sizes that a byte chooses, two bits a symbol. Throws Error(input) where these are no sizes.
std::vector<Array> inputs_of(const graph::Program& program, uint8_t choice, uint8_t seed) {
  std::vector<int64_t> sizes;
  for (const graph::Symbol& symbol : program.symbols)
    sizes.push_back(symbol.allowed_from(symbol.minimum + (choice >> 2 * (sizes.size() % 4) & 3)));
  std::vector<TensorType> types;
  for (const graph::Program::Input& input : program.inputs) {
    types.push_back({input.dtype, {}});
    for (const Dim& dim : input.shape) types.back().shape.push_back(graph::evaluate(dim, sizes));
    if (graph::checked_elements(types.back()) < 0) throw Error(ErrorKind::input, "too large");
  }
  std::vector<Array> inputs;
  if (elements(types) > kMostElements) throw Error(ErrorKind::input, "too large");
  Random random(seed);
  for (const TensorType& type : types) inputs.push_back(array_of(type, seed, random));
  return inputs;
}

// Throws Error(input) where it is refused, or would take long.
std::vector<Array> results(const graph::Session& session, std::vector<Array>& inputs) {
  std::vector<Tensor> in, out;
  for (Array& input : inputs) in.push_back(input.view());
  graph::Session::Call call(session, in);
  if (elements(call.outputs()) > kMostElements) throw Error(ErrorKind::input, "too large");
  std::vector<Array> outputs;
  for (const TensorType& type : call.outputs()) outputs.emplace_back(type.dtype, type.shape);
  for (Array& output : outputs) out.push_back(output.view());
  call.run(out);
  return outputs;
}

// All that is no number is alike.
bool same(const Array& a, const Array& b) {
  if (!(a.type == b.type)) return false;
  if (a.bytes == b.bytes) return true;
  if (a.type.dtype != DType::f32) return false;
  const auto *first = a.as<float>(), *second = b.as<float>();
  for (int64_t i = 0; i < a.type.shape.elements(); ++i)
    if (std::bit_cast<uint32_t>(first[i]) != std::bit_cast<uint32_t>(second[i]) &&
        !(std::isnan(first[i]) && std::isnan(second[i])))
      return false;
  return true;
}

void expect_same(std::span<const Array> a, std::span<const Array> b, const char* what) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (same(a[i], b[i])) continue;
    std::fprintf(stderr, "output %zu differs: %s\n", i, what);
    std::abort();
  }
}

void run(const graph::Session& session, const graph::Session* other, uint8_t choice, uint8_t seed) {
  std::vector<Array> inputs = inputs_of(session.program(), choice, seed);
  const std::vector<Array> first = results(session, inputs);
  expect_same(first, results(session, inputs), "a second run");
  if (other != nullptr) expect_same(first, results(*other, inputs), "scalar kernels, every value an output");
}

}  // namespace
}  // namespace lowbit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lowbit;
  std::set<int> left_out;
  const auto session = fuzz::sound_session(data, size, left_out);
  if (session == nullptr) return 0;
  const auto other = fuzz::plain_session(data, size, left_out);
  const fuzz::Decoder decoded(data, size);
  for (int i = 0; i < 3; ++i) {
    try {
      fuzz::run(*session, other.get(), decoded.choices[i], static_cast<uint8_t>(decoded.choices[3] + i));
    } catch (const Error&) {
    }
  }
  return 0;
}
