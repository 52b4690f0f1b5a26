// The reader: bytes of a file are refused with an Error, or there is a session, which runs once.
//
// An input is a file apart, so that a changed byte does not end it: the graph's document, a zero byte, the header
// without it, a zero byte, the tensors. Without a zero byte, it is a file as it is.
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "make.h"
#include "reader/load.h"

namespace lowbit::fuzz {
namespace {

using test::Random;

constexpr int64_t kMostElements = 1 << 14;
constexpr graph::Limits kLimits = {
    .memory = int64_t{1} << 27, .operations = 1e6, .seconds = std::nullopt, .weights = std::nullopt};

struct Parts {
  std::string document, header, tensors;
};

Parts apart(std::string_view input) {
  const size_t first = input.find('\0'), second = first == input.npos ? first : input.find('\0', first + 1);
  if (second == input.npos) return {std::string(input), "", ""};
  return {std::string(input.substr(0, first)), std::string(input.substr(first + 1, second - first - 1)),
          std::string(input.substr(second + 1))};
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string file_of(std::string_view input) {
  const Parts parts = apart(input);
  if (parts.header.empty()) return std::string(input);
  std::string header = R"({"__metadata__":{"lowbit":")" + escaped(parts.document) + "\"}";
  header += parts.header.size() > 2 ? "," + parts.header.substr(1) : "}";
  uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof size);
  return file + header + parts.tensors;
}

// Zeros at the smallest sizes.
void run(const reader::Model& model) {
  const graph::Program& program = model.session->program();
  std::vector<int64_t> sizes;
  for (const graph::Symbol& symbol : program.symbols) sizes.push_back(symbol.allowed_from(symbol.minimum + 1));
  std::vector<test::Array> inputs, outputs;
  std::vector<Tensor> in, out;
  for (const graph::Program::Input& input : program.inputs) {
    TensorType type{input.dtype, {}};
    for (const graph::Dim& dim : input.shape) type.shape.push_back(graph::evaluate(dim, sizes));
    if (const int64_t elements = graph::checked_elements(type); elements < 0 || elements > kMostElements) return;
    inputs.emplace_back(type.dtype, type.shape);
  }
  for (test::Array& input : inputs) in.push_back(input.view());
  graph::Session::Call call(*model.session, in);
  for (const TensorType& type : call.outputs()) {
    if (type.shape.elements() > kMostElements) return;
    outputs.emplace_back(type.dtype, type.shape);
  }
  for (test::Array& output : outputs) out.push_back(output.view());
  call.run(out);
}

// ----------------------------------------------------------------------------------------------------------- mutations

struct Span {
  size_t begin, end;
};

// The values of a JSON text, keys among them, by what brackets and quotes say alone.
std::vector<Span> values_of(std::string_view text) {
  std::vector<Span> found;
  std::vector<size_t> open;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '[' || c == '{') {
      open.push_back(at++);
    } else if (c == ']' || c == '}') {
      ++at;
      if (open.empty()) continue;
      found.push_back({open.back(), at});
      open.pop_back();
    } else if (std::strchr(", :\n", c)) {
      ++at;
    } else {
      size_t end = at + 1;
      if (c == '"') {
        while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
        end = std::min(end + 1, text.size());
      } else {
        while (end < text.size() && !std::strchr(",:]} \n", text[end])) ++end;
      }
      found.push_back({at, end});
      at = end;
    }
  }
  return found;
}

constexpr const char* kHostile[] = {"0",
                                    "1",
                                    "-1",
                                    "2",
                                    "7",
                                    "255",
                                    "65536",
                                    "2147483647",
                                    "4294967296",
                                    "4611686018427387904",
                                    "9223372036854775807",
                                    "18446744073709551616",
                                    "1e999",
                                    "0.5",
                                    "-1e308",
                                    "null",
                                    "true",
                                    "[]",
                                    "{}",
                                    "[[]]",
                                    "\"\"",
                                    "\"batch\"",
                                    "\"batch + 1\"",
                                    "\"batch // 0\"",
                                    "\"max(batch, 512)\"",
                                    "\"2147483647*batch\"",
                                    "\"scale(batch, 0.5)\"",
                                    "\"f32\"",
                                    "\"u8\"",
                                    "\"s8\"",
                                    "\"\\ud800\"",
                                    "\"\\u0000\""};

// A value becomes another one of the text, or a hostile one; is left out; or comes twice.
std::string mutated(const std::string& text, Random& random) {
  const std::vector<Span> values = values_of(text);
  if (values.empty()) return text;
  const auto any = [&] { return values[static_cast<size_t>(random.whole(0, std::ssize(values) - 1))]; };
  auto [begin, end] = any();
  const Span other = any();
  std::string with = text.substr(other.begin, other.end - other.begin);
  const int64_t kind = random.whole(0, 5);
  if (kind == 1) with = kHostile[random.whole(0, std::ssize(kHostile) - 1)];
  if (kind == 2) with = text.substr(begin, end - begin) + "," + text.substr(begin, end - begin);
  if (kind == 3) {
    with.clear();
    if (end < text.size() && text[end] == ',') ++end;
  }
  if (kind == 4)
    with = std::to_string(std::strtoull(text.substr(begin, 20).c_str(), nullptr, 10) +
                          static_cast<uint64_t>(random.whole(-2, 2)));
  if (kind == 5 && begin < end) {
    with = text.substr(begin, end - begin);
    with[static_cast<size_t>(random.whole(0, std::ssize(with) - 1))] ^= static_cast<char>(1 << random.whole(0, 6));
  }
  return text.substr(0, begin) + with + text.substr(end);
}

}  // namespace
}  // namespace lowbit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lowbit;
  const std::string file = fuzz::file_of({reinterpret_cast<const char*>(data), size});
  try {
    const auto source = reader::memory_source(file.data(), file.size());
    fuzz::run(reader::load(*source, "a file", {1, "", fuzz::kLimits}));
  } catch (const Error&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most) __attribute__((weak));

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned int seed) {
  using namespace lowbit::fuzz;
  Random random(seed);
  Parts parts = apart({reinterpret_cast<const char*>(data), size});
  const int64_t kind = random.whole(0, 9);
  if (parts.header.empty() || (kind == 0 && LLVMFuzzerMutate))
    return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, most) : size;
  if (kind <= 1 && !parts.tensors.empty())
    parts.tensors[static_cast<size_t>(random.whole(0, std::ssize(parts.tensors) - 1))] ^=
        static_cast<char>(1 << random.whole(0, 7));
  else
    for (int64_t changes = random.whole(1, 3); changes > 0; --changes)
      (kind == 2 ? parts.header : parts.document) = mutated(kind == 2 ? parts.header : parts.document, random);
  std::string made = parts.document;
  made.append(1, '\0').append(parts.header).append(1, '\0').append(parts.tensors);
  if (made.size() > most) return size;
  std::copy(made.begin(), made.end(), data);
  return made.size();
}
