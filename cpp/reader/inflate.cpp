#include "reader/inflate.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace lowbit::reader {
namespace {

constexpr int kLongest = 15;  // bits of a code
constexpr int kEnd = 256, kMostLiterals = 286, kMostDistances = 30;
constexpr std::array<uint16_t, 29> kLengths = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                               31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr std::array<uint8_t, 29> kLengthBits = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr std::array<uint16_t, 30> kDistances = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                                 33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                                 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr std::array<uint8_t, 30> kDistanceBits = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                   6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

// The stream's bits, a byte's lowest first. Beyond its end they are zero, and `is_over` says so.
class Bits {
 public:
  explicit Bits(std::span<const uint8_t> stream) : at_(stream.data()), end_(stream.data() + stream.size()) {}

  // Makes `peek` good for 56 bits.
  void fill() {
    if (end_ - at_ >= 8) {
      uint64_t word;
      std::memcpy(&word, at_, 8);
      held_ |= word << count_;
      at_ += (63 - count_) >> 3;
      count_ |= 56;
      return;
    }
    while (count_ <= 56) {
      if (at_ < end_) {
        held_ |= uint64_t{*at_++} << count_;
      } else {
        ++beyond_;
      }
      count_ += 8;
    }
  }
  uint32_t peek(int bits) const { return held_ & ((uint64_t{1} << bits) - 1); }
  void drop(int bits) { held_ >>= bits, count_ -= bits; }
  uint32_t take(int bits) {
    fill();
    const uint32_t value = peek(bits);
    drop(bits);
    return value;
  }
  bool is_over() const { return count_ < 8 * beyond_; }
  // Whole bytes from here on, those that are held back among them.
  std::span<const uint8_t> align() {
    drop(count_ % 8);
    const int64_t whole = count_ / 8 - beyond_;
    if (whole < 0) return {};
    return {at_ - whole, end_};
  }
  void restart(std::span<const uint8_t> rest) { *this = Bits(rest); }

 private:
  const uint8_t *at_, *end_;
  uint64_t held_ = 0;
  int count_ = 0, beyond_ = 0;  // bits that are held; bytes of them that lie behind the end
};

// A canonical code as a table of all values of as many bits as its longest code has.
class Code {
 public:
  // Null, or what is wrong. strict: a code that is not complete is refused even if it is a single one.
  const char* build(std::span<const uint8_t> lengths, bool strict) {
    std::array<int, kLongest + 2> count{}, next{};
    for (const uint8_t length : lengths) ++count[length];
    count[0] = 0;
    bits_ = kLongest;
    while (bits_ > 0 && count[bits_] == 0) --bits_;
    table_.assign(size_t{1} << bits_, 0);
    int left = 1;
    for (int length = 1; length <= kLongest; ++length) {
      left = 2 * left - count[length];
      if (left < 0) return "has codes that overlap";
      next[length + 1] = (next[length] + count[length]) << 1;
    }
    if (left > 0 && bits_ > 0 && (strict || bits_ != 1)) return "has an incomplete code";
    for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
      const int length = lengths[symbol];
      if (length == 0) continue;
      uint32_t reversed = 0;
      for (int i = 0, code = next[length]++; i < length; ++i) reversed |= ((code >> i) & 1) << (length - 1 - i);
      for (size_t at = reversed; at < table_.size(); at += size_t{1} << length)
        table_[at] = static_cast<uint16_t>(symbol << 4 | length);
    }
    return nullptr;
  }
  // -1: no symbol has these bits. `bits` is filled.
  int decode(Bits& bits) const {
    const uint16_t entry = table_[bits.peek(bits_)];
    bits.drop(entry & 15);
    return (entry & 15) == 0 ? -1 : entry >> 4;
  }

 private:
  std::vector<uint16_t> table_;
  int bits_ = 0;
};

class Inflater {
 public:
  Inflater(std::span<const uint8_t> stream, std::span<uint8_t> out) : bits_(stream), out_(out) {}

  const char* run() {
    for (bool last = false; !last;) {
      last = bits_.take(1) != 0;
      const uint32_t kind = bits_.take(2);
      if (bits_.is_over()) return "ends too early";
      const char* problem = kind == 0   ? stored()
                            : kind == 1 ? fixed()
                            : kind == 2 ? dynamic()
                                        : "has a block of no known kind";
      if (problem) return problem;
    }
    if (made_ != out_.size()) return "ends too early";
    return bits_.align().empty() ? nullptr : "does not end with its last byte";
  }

 private:
  const char* stored() {
    const std::span<const uint8_t> rest = bits_.align();
    if (rest.size() < 4) return "ends too early";
    const size_t length = rest[0] | rest[1] << 8, other = rest[2] | rest[3] << 8;
    if (length != (~other & 0xffff)) return "has a stored block whose lengths do not agree";
    if (rest.size() - 4 < length) return "ends too early";
    if (length > out_.size() - made_) return "gives too many bytes";
    std::copy_n(rest.data() + 4, length, out_.data() + made_);
    made_ += length;
    bits_.restart(rest.subspan(4 + length));
    return nullptr;
  }

  const char* fixed() {
    std::array<uint8_t, 288> lengths;
    for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::array<uint8_t, 32> distances;
    distances.fill(5);
    literals_.build(lengths, true);
    distances_.build(distances, true);
    return symbols();
  }

  const char* dynamic() {
    constexpr std::array<uint8_t, 19> order = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const int literals = bits_.take(5) + 257, distances = bits_.take(5) + 1, codes = bits_.take(4) + 4;
    if (literals > kMostLiterals || distances > kMostDistances) return "has too many codes";
    std::array<uint8_t, 19> code_lengths{};
    for (int i = 0; i < codes; ++i) code_lengths[order[i]] = bits_.take(3);
    if (const char* problem = literals_.build(code_lengths, true)) return problem;
    std::array<uint8_t, kMostLiterals + kMostDistances> lengths{};
    for (int at = 0; at < literals + distances;) {
      bits_.fill();
      const int symbol = literals_.decode(bits_);
      if (symbol < 0 || bits_.is_over()) return "has lengths of codes that are damaged";
      if (symbol < 16) {
        lengths[at++] = symbol;
        continue;
      }
      if (symbol == 16 && at == 0) return "has lengths of codes that are damaged";
      const uint8_t value = symbol == 16 ? lengths[at - 1] : 0;
      const int times = symbol == 16 ? 3 + bits_.take(2) : symbol == 17 ? 3 + bits_.take(3) : 11 + bits_.take(7);
      if (times > literals + distances - at) return "has lengths of codes that are damaged";
      std::fill_n(lengths.begin() + at, times, value);
      at += times;
    }
    if (lengths[kEnd] == 0) return "has a block without an end";
    const std::span<const uint8_t> all = lengths;
    if (const char* problem = literals_.build(all.first(literals), false)) return problem;
    if (const char* problem = distances_.build(all.subspan(literals, distances), false)) return problem;
    return symbols();
  }

  const char* symbols() {
    for (;;) {
      bits_.fill();  // enough for a length and a distance with their bits: 15 + 5 + 15 + 13
      int symbol = literals_.decode(bits_);
      if (symbol < 0) return "has bits that are no code";
      if (bits_.is_over()) return "ends too early";
      if (symbol < kEnd) {
        if (made_ == out_.size()) return "gives too many bytes";
        out_[made_++] = symbol;
        continue;
      }
      if (symbol == kEnd) return nullptr;
      symbol -= kEnd + 1;
      if (symbol >= static_cast<int>(kLengths.size())) return "has bits that are no code";
      const size_t length = kLengths[symbol] + bits_.peek(kLengthBits[symbol]);
      bits_.drop(kLengthBits[symbol]);
      const int code = distances_.decode(bits_);
      if (code < 0 || code >= static_cast<int>(kDistances.size())) return "has bits that are no code";
      const size_t distance = kDistances[code] + bits_.peek(kDistanceBits[code]);
      bits_.drop(kDistanceBits[code]);
      if (bits_.is_over()) return "ends too early";
      if (distance > made_) return "repeats what is not there";
      if (length > out_.size() - made_) return "gives too many bytes";
      for (size_t i = 0; i < length; ++i, ++made_) out_[made_] = out_[made_ - distance];
    }
  }

  Bits bits_;
  std::span<uint8_t> out_;
  size_t made_ = 0;
  Code literals_, distances_;
};

}  // namespace

const char* inflate(std::span<const uint8_t> stream, std::span<uint8_t> out) { return Inflater(stream, out).run(); }

}  // namespace lowbit::reader
