// What libFuzzer's main does, for compilers without it: `fuzz_plan [-mutations=N] [-seed=S] FILE...` tries each file,
// or file of a directory, and N of each with some bytes changed.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "make.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned int seed)
    __attribute__((weak));

namespace {

using Input = std::vector<uint8_t>;
using lowbit::test::Random;

struct Named {
  std::string name;
  Input bytes;
};

Named read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {path.filename().string(), {std::istreambuf_iterator<char>(file), {}}};
}

// A byte becomes another, or one near it, is left out or doubled; or a piece of another input comes in.
void mutate(Input& input, const Input& other, Random& random) {
  const auto at = random.whole(0, std::ssize(input));
  const auto place = input.begin() + at;
  const int64_t kind = random.whole(0, 5);
  if (kind >= 4) {
    const auto begin = random.whole(0, std::ssize(other)),
               end = random.whole(begin, std::min(begin + 40, std::ssize(other)));
    input.insert(place, other.begin() + begin, other.begin() + end);
  } else if (place != input.end()) {
    if (kind == 0) *place = static_cast<uint8_t>(random.bits() >> 30);
    if (kind == 1) *place = static_cast<uint8_t>(*place + random.whole(-3, 3));
    if (kind == 2) input.erase(place);
    if (kind == 3) input.insert(place, *place);
  }
}

// The last line that is printed says how to repeat an input that crashed.
void run(const std::vector<Named>& inputs, int64_t mutations, int64_t seed) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::printf("%s -mutations=%lld -seed=%lld\n", inputs[i].name.c_str(), static_cast<long long>(mutations),
                static_cast<long long>(seed));
    std::fflush(stdout);
    LLVMFuzzerTestOneInput(inputs[i].bytes.data(), inputs[i].bytes.size());
    for (int64_t j = 0; j < mutations; ++j) {
      Random random(static_cast<uint64_t>(seed * 1000003 + j));
      Input input = inputs[i].bytes;
      if (LLVMFuzzerCustomMutator) {
        const size_t size = input.size(), most = 2 * size + 1000;
        input.resize(most);
        input.resize(LLVMFuzzerCustomMutator(input.data(), size, most, static_cast<unsigned int>(seed * 1000003 + j)));
        LLVMFuzzerTestOneInput(input.data(), input.size());
        continue;
      }
      for (int64_t changes = random.whole(1, 4); changes > 0; --changes)
        mutate(input, inputs[static_cast<size_t>(random.whole(0, std::ssize(inputs) - 1))].bytes, random);
      LLVMFuzzerTestOneInput(input.data(), input.size());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Named> inputs;
  int64_t mutations = 0, seed = 1;
  for (const std::string_view argument : std::vector<std::string_view>(argv + 1, argv + argc)) {
    if (argument.starts_with("-mutations=")) {
      mutations = std::atoll(argument.data() + 11);
    } else if (argument.starts_with("-seed=")) {
      seed = std::atoll(argument.data() + 6);
    } else if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::directory_iterator(argument)) inputs.push_back(read(entry.path()));
    } else {
      inputs.push_back(read(argument));
    }
  }
  std::sort(inputs.begin(), inputs.end(), [](const Named& a, const Named& b) { return a.name < b.name; });
  run(inputs, mutations, seed);
  std::printf("%lld inputs\n", static_cast<long long>(std::ssize(inputs) * (mutations + 1)));
  return inputs.empty() ? 1 : 0;
}
