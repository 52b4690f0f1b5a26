// The body, written once over Lanes: a small matrix product, whose right side lies in blocks, and the softmax between.
#pragma once

#include <string.h>

#include "kernels/attention/generic.h"
#include "kernels/cached_attention/cached_attention.h"
#include "kernels/eltwise/generic.h"

namespace lowbit::kernels::cached_attention {
namespace {

constexpr int64_t kBlock = CachedAttentionArgs::kBlock;
static_assert(kBlock == kLanes);

LOWBIT_INLINE Lanes load_as_floats(const float* p) { return load(p); }
LOWBIT_INLINE Lanes load_as_floats(const uint16_t* p) { return load_halves(p); }
LOWBIT_INLINE Lanes load_as_floats(const int8_t* p) { return load_signed(p); }
LOWBIT_INLINE Lanes load_as_floats(const float* p, int64_t n) { return load(p, n); }
template <class T>
LOWBIT_INLINE Lanes load_as_floats(const T* p, int64_t n) {
  T numbers[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) numbers[i] = p[i];
  return load_as_floats(numbers);
}

// Calls f with one of what a cache's numbers are.
template <class F>
void with_numbers(const CachedAttentionArgs& args, F f) {
  if (args.numbers == CachedAttentionArgs::codes) return f(int8_t{});
  if (args.numbers == CachedAttentionArgs::halves) return f(uint16_t{});
  f(float{});
}

template <class T>
constexpr bool kCoded = sizeof(T) == CachedAttentionArgs::codes;

// Numbers of a block with `size` numbers a position.
template <class T>
constexpr int64_t block_of(int64_t size) {
  return (size + (kCoded<T> ? CachedAttentionArgs::kScale : 0)) * kBlock;
}
inline Lanes scales_of(const int8_t* block, int64_t size) {
  float scales[kBlock];
  memcpy(scales, block + size * kBlock, sizeof scales);
  return load(scales);
}

// c[r, n * 16 + lane] = sum_k a[r, k] * b[n, k, lane], k ascending. Of codes, `gap` are left out behind each 16 k.
template <class T>
struct Product {
  const float* a;
  int64_t a_row, depth;
  const T* b;
  int64_t b_block, b_step, gap;  // to the next 16 columns, to the next k
  int64_t ahead;                 // to what is worth asking for already
  float* c;
  int64_t c_row, columns;
};

template <class T, int kRows, int kColumns, bool kWhole>
LOWBIT_INLINE void tile(const Product<T>& product, int64_t row, int64_t block) {
  Lanes sums[kRows][kColumns];
  LOWBIT_UNROLL for (int r = 0; r < kRows; ++r) LOWBIT_UNROLL for (int n = 0; n < kColumns; ++n) sums[r][n] =
      splat(0.0f);
  const float* a = product.a + row * product.a_row;
  const T* b = product.b + block * product.b_block;
  const int64_t last = product.columns - block * kLanes;
  const int64_t together = kCoded<T> ? kBlock : product.depth;
  for (int64_t from = 0; from < product.depth; from += together, b += product.gap) {
    const int64_t to = product.depth - from < together ? product.depth : from + together;
    for (int64_t k = from; k < to; ++k, b += product.b_step) {
      LOWBIT_UNROLL for (int n = 0; n < kColumns; ++n) __builtin_prefetch(b + n * product.b_block + product.ahead);
      Lanes x[kColumns];
      LOWBIT_UNROLL for (int n = 0; n < kColumns; ++n) x[n] =
          kWhole ? load_as_floats(b + n * product.b_block) : load_as_floats(b + n * product.b_block, last);
      LOWBIT_UNROLL for (int r = 0; r < kRows; ++r) {
        const Lanes factor = splat(a[r * product.a_row + k]);
        LOWBIT_UNROLL for (int n = 0; n < kColumns; ++n) sums[r][n] = fma(factor, x[n], sums[r][n]);
      }
    }
  }
  float* c = product.c + row * product.c_row + block * kLanes;
  LOWBIT_UNROLL for (int r = 0; r < kRows; ++r) LOWBIT_UNROLL for (int n = 0; n < kColumns; ++n) {
    if constexpr (kWhole)
      store(c + r * product.c_row + n * kLanes, sums[r][n]);
    else
      store(c + r * product.c_row + n * kLanes, sums[r][n], last);
  }
}

// Vectors of sums that fit the registers, beside what they are made of.
constexpr int kTileRows = kLaneRegisters >= 32 ? 4 : 6, kTileColumns = kLaneRegisters >= 32 ? 4 : 1;

template <class T, int kRows>
void columns_of(const Product<T>& product, int64_t row) {
  const int64_t whole = product.columns / kLanes;
  int64_t block = 0;
  for (; block + kTileColumns <= whole; block += kTileColumns) tile<T, kRows, kTileColumns, true>(product, row, block);
  for (; block < whole; ++block) tile<T, kRows, 1, true>(product, row, block);
  if (product.columns % kLanes != 0) tile<T, kRows, 1, false>(product, row, block);
}

template <class T, int kRows = kTileRows>
void last_rows(const Product<T>& product, int64_t row, int64_t rows) {
  if (rows == kRows) return columns_of<T, kRows>(product, row);
  if constexpr (kRows > 1) last_rows<T, kRows - 1>(product, row, rows);
}

template <class T>
void multiply(const Product<T>& product, int64_t rows) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) columns_of<T, kTileRows>(product, row);
  if (row < rows) last_rows<T>(product, row, rows - row);
}

// Scores of one row become probabilities. x [n]: what lies before `from` is not seen; product(s, j) is what scores s
// from j on are before they are scaled.
template <class F>
void softmax(float* x, int64_t from, int64_t n, float scale, float cap, F product) {
  const Lanes factor = splat(scale);
  float top;
  if (cap == 0.0f) {
    top =
        attention::map_and_find_highest(x, n, [&](const Lanes& s, int64_t j, auto) { return product(s, j) * factor; });
  } else {
    const Lanes limit = splat(cap);
    top = attention::map_and_find_highest(
        x, n, [&](const Lanes& s, int64_t j, auto) { return limit * tanh(product(s, j) * factor / limit); });
  }
  if (from > 0) {
    for (int64_t j = 0; j < from; ++j) x[j] = -__builtin_inff();
    top = highest_of(x, n);
  }
  exp_and_divide(x, x, n, top);
}

// The features of one head at a step, turned if they are to be.
inline void turn(const CachedAttentionArgs& args, int64_t b, int64_t step, const float* x, float* y) {
  const int64_t half = args.turned / 2;
  const float *cosines = args.cosines + args.turn_of(b, step), *sines = args.sines + args.turn_of(b, step);
  for_lanes(half, [&](int64_t d, auto count) {
    const Lanes first = load(x + d, count), second = load(x + half + d, count);
    store(y + d, first * load(cosines + d, count) + -second * load(sines + d, count), count);
    store(y + half + d, second * load(cosines + half + d, count) + first * load(sines + half + d, count), count);
  });
  if (args.depth > 2 * half)
    memcpy(y + 2 * half, x + 2 * half, static_cast<size_t>(args.depth - 2 * half) * sizeof(float));
}

template <class T>
void attend_to(const CachedAttentionUnit& unit) {
  const CachedAttentionArgs& args = unit.args;
  const int64_t sharing = args.sharing(), length = args.length[unit.b], head = unit.b * args.key_heads + unit.key_head;
  float* q = unit.scratch;
  float* y = q + unit.rows * args.depth;
  float* scores = y + unit.rows * args.value_depth;
  const auto step = [&](int64_t r) { return (unit.first + r) / sharing; };
  const auto query = [&](int64_t r) { return unit.key_head * sharing + (unit.first + r) % sharing; };
  for (int64_t r = 0; r < unit.rows; ++r)
    turn(args, unit.b, step(r), args.q.at(unit.b, query(r), step(r)), q + r * args.depth);
  const auto seen_from = [&](int64_t r) {
    const int64_t from = args.window > 0 ? length + step(r) + 1 - args.window : 0;
    return from > 0 ? from : 0;
  };
  const int64_t start = seen_from(0) / kBlock, end = length + step(unit.rows - 1) + 1;
  const int64_t positions = (end + kBlock - 1) / kBlock * kBlock - start * kBlock;
  const int64_t key_block = block_of<T>(args.depth), value_block = block_of<T>(args.value_depth);
  const T* keys = static_cast<const T*>(args.keys) + (head * args.blocks + start) * key_block;
  const T* values = static_cast<const T*>(args.values) + (head * args.blocks + start) * value_block;
  multiply<T>(
      {q, args.depth, args.depth, keys, key_block, kBlock, 0, kTileColumns * key_block, scores, unit.scores, positions},
      unit.rows);
  for (int64_t r = 0; r < unit.rows; ++r) {
    float* row = scores + r * unit.scores;
    const int64_t from = seen_from(r) - start * kBlock, count = length + step(r) + 1 - start * kBlock;
    const int64_t lead = from / kBlock * kBlock;
    softmax(row + lead, from - lead, count - lead, args.scale, args.softcap, [&](const Lanes& s, int64_t j) {
      if constexpr (kCoded<T>) return s * scales_of(keys + (lead + j) / kBlock * key_block, args.depth);
      return s;
    });
    if constexpr (kCoded<T>)
      for (int64_t j = lead; j < count; j += kBlock)
        store(row + j, load(row + j) * scales_of(values + j / kBlock * value_block, args.value_depth));
    for (int64_t j = 0; j < from; ++j) row[j] = 0.0f;
    for (int64_t j = count; j < positions; ++j) row[j] = 0.0f;
  }
  multiply<T>({scores, unit.scores, end - start * kBlock, values, kLanes, args.value_depth,
               value_block - kBlock * args.value_depth, value_block, y, args.value_depth, args.value_depth},
              unit.rows);
  for (int64_t r = 0; r < unit.rows; ++r)
    memcpy(args.y.at(unit.b, query(r), step(r)), y + r * args.value_depth,
           static_cast<size_t>(args.value_depth) * sizeof(float));
}

inline void attend(const CachedAttentionUnit& unit) {
  with_numbers(unit.args, [&](auto number) { attend_to<decltype(number)>(unit); });
}

// The numbers of one position, which may take the place of x, and its scale.
inline void put_numbers(const float* x, float* y, int64_t n, float*) {
  if (n > 0) memmove(y, x, static_cast<size_t>(n) * sizeof(float));
}
inline void put_numbers(const float* x, uint16_t* y, int64_t n, float*) {
  for_lanes(n, [&](int64_t i, auto count) {
    uint16_t halves[kLanes];
    store_halves(halves, load(x + i, count));
    memcpy(y + i, halves, static_cast<size_t>(count) * sizeof(uint16_t));
  });
}
inline void put_numbers(const float* x, int8_t* y, int64_t n, float* scale) {
  eltwise::groups_block({x}, y, n, n, scale);
}

// Of the position at this place in a block.
template <class T>
void put_scale(float scale, T* block, int64_t size, int64_t place) {
  if constexpr (kCoded<T>) memcpy(block + size * kBlock + place * CachedAttentionArgs::kScale, &scale, sizeof scale);
}

template <class T>
void put_into(const CachedAttentionArgs& args, int64_t b, int64_t key_head, float* k) {
  const int64_t head = b * args.key_heads + key_head;
  const int64_t key_block = block_of<T>(args.depth), value_block = block_of<T>(args.value_depth);
  for (int64_t step = 0; step < args.steps; ++step) {
    const int64_t position = args.length[b] + step, block = head * args.blocks + position / kBlock;
    const int64_t place = position % kBlock;
    T* keys = static_cast<T*>(args.keys) + block * key_block;
    T* values = static_cast<T*>(args.values) + block * value_block;
    float scale = 1.0f;
    put_numbers(args.v.at(b, key_head, step), values + place * args.value_depth, args.value_depth, &scale);
    put_scale(scale, values, args.value_depth, place);
    scale = 1.0f;
    turn(args, b, step, args.k.at(b, key_head, step), k);
    T* features = reinterpret_cast<T*>(k);
    put_numbers(k, features, args.depth, &scale);
    for (int64_t d = 0; d < args.depth; ++d) memcpy(keys + d * kBlock + place, features + d, sizeof(T));
    put_scale(scale, keys, args.depth, place);
  }
}

inline void put(const CachedAttentionArgs& args, int64_t b, int64_t key_head, float* scratch) {
  with_numbers(args, [&](auto number) { put_into<decltype(number)>(args, b, key_head, scratch); });
}

}  // namespace
}  // namespace lowbit::kernels::cached_attention
