// Pieces of attention that need no shapes at compile time: packing, softmax and masks of 16 queries at a time.
//
// Scores are in units of log2: queries are scaled by log2(e), so that the exponential is a power of two.
#pragma once

#include <limits>

#include "math.hpp"
#include "runtime.hpp"
#include "transpose.hpp"

namespace graphopt {

// Offset of batch item `index`, the last axis of the batch running fastest.
template <int RANK> GRAPHOPT_INLINE long batch_offset(const long (&sizes)[RANK], const long (&strides)[RANK], long index) {
  long offset = 0;
  for (int axis = RANK - 1; axis >= 0; --axis) {
    offset += index % sizes[axis] * strides[axis];
    index /= sizes[axis];
  }
  return offset;
}

namespace attention_parts {

constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
constexpr float LANE_NUMBERS[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

constexpr int vectors_of(int count) { return (count + LANES - 1) / LANES; }

GRAPHOPT_INLINE Vec larger_of(Vec x, Vec y) {
  return lift([](Part a, Part b) { return larger(a, b); }, x, y);
}
// 0 for -inf, which no score of a row exceeded.
GRAPHOPT_INLINE Vec finite_maximum(Vec x) {
  return lift([](Part a) { return a == number(MINUS_INFINITY) ? Part{} : a; }, x);
}
// 1 / x, but 0 for 0.
GRAPHOPT_INLINE Vec reciprocal_or_zero(Vec x) {
  return lift([](Part a) { return a == Part{} ? Part{} : 1.0f / a; }, x);
}

// ---- packing -------------------------------------------------------------------------------------------------

// `rows` x `columns` of any strides to rows of whole vectors, padded with zeros.
template <long STEP> __attribute__((noinline)) void pack_rows(const float* x, long row, int rows, int columns, float* packed) {
  const int width = vectors_of(columns) * LANES;
  for (int i = 0; i < rows; ++i, x += row, packed += width) {
    if constexpr (STEP == 1) {
      int c = 0;
      for (; c + LANES <= columns; c += LANES) store(packed + c, load(x + c));
      if (c < columns) store(packed + c, load_first(x + c, columns - c));
    } else {
      for (int c = 0; c < width; ++c) packed[c] = c < columns ? x[c * STEP] : 0.0f;
    }
  }
}

// `rows` (at most 16) queries times scale as packed[feature][width], lanes without a query 0.
template <long STEP>
__attribute__((noinline)) void pack_queries(const float* q, long row, int rows, int features, float scale, float* packed, long width) {
  for (int c = 0; c < features; c += LANES) {
    const int count = features - c < LANES ? features - c : LANES;
    Vec block[LANES];
    if constexpr (STEP == 1) {
      GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) block[i] = i < rows ? load_first(q + i * row + c, count) : zero();
      transpose16(block);
    } else {
      float lanes[LANES][LANES] = {};
      for (int j = 0; j < count; ++j)
        for (int i = 0; i < rows; ++i) lanes[j][i] = q[i * row + (c + j) * STEP];
      GRAPHOPT_UNROLL for (int j = 0; j < LANES; ++j) block[j] = load(lanes[j]);
    }
    GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i)
        if (i < count) store(packed + (c + i) * width, block[i] * splat(scale));
  }
}

// ---- softmax -------------------------------------------------------------------------------------------------

// Scores of 16 queries and `count` keys, `width` floats apart, become exponentials. `maximum` and `sum` are those of
// the keys so far; `scale` is by what earlier exponentials have to shrink. After the last key `sum` becomes its
// reciprocal, 0 where all scores of a query were -inf.
inline __attribute__((noinline)) void exponentiate(float* scores, long width, int count, bool is_first, bool is_last, float* maximum, float* sum,
                                                   float* scale) {
  const Vec before = is_first ? splat(MINUS_INFINITY) : load(maximum);
  Vec most[4] = {before, before, before, before};  // (a NaN may get lost here: it makes its row NaN by its exponential)
  int key = 0;
  for (; key + 4 <= count; key += 4)
    GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) most[i] = larger_of(load(scores + (key + i) * width), most[i]);
  for (; key < count; ++key) most[0] = larger_of(load(scores + key * width), most[0]);
  const Vec now = larger_of(larger_of(most[0], most[1]), larger_of(most[2], most[3])), base = finite_maximum(now);
  store(maximum, now);
  const Vec shrink = is_first ? zero() : exp2_negative(before - base);
  store(scale, shrink);
  Vec sums[2] = {is_first ? zero() : load(sum) * shrink, zero()};
  float* p = scores;
  for (key = 0; key + 2 <= count; key += 2)
    GRAPHOPT_UNROLL for (int i = 0; i < 2; ++i, p += width) {
      const Vec e = exp2_negative(load(p) - base);
      store(p, e);
      sums[i] += e;
    }
  if (key < count) {
    const Vec e = exp2_negative(load(p) - base);
    store(p, e);
    sums[0] += e;
  }
  const Vec total = sums[0] + sums[1];
  store(sum, is_last ? reciprocal_or_zero(total) : total);
}

// ---- masks ---------------------------------------------------------------------------------------------------

// The kind of a mask that is packed beforehand.
struct PackedScores {};

// Floats are added to scores; a truth value keeps a score, else it becomes -inf.
GRAPHOPT_INLINE float mask_value(float x) { return x; }
GRAPHOPT_INLINE float mask_value(bool x) { return x ? 0.0f : MINUS_INFINITY; }
GRAPHOPT_INLINE Vec mask_lanes(const float* p, int count) { return load_first(p, count); }
GRAPHOPT_INLINE Vec mask_lanes(const bool* p, int count) {
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = i < count && !p[i] ? MINUS_INFINITY : 0.0f;
  return load(lanes);
}

GRAPHOPT_INLINE void add_mask(float* score, Vec mask, float unit = LOG2_E) { store(score, fma(mask, splat(unit), load(score))); }

// Adds the mask of `queries` (at most 16) and `keys` to their scores, `width` floats apart. Element (query, key) of the
// mask is at p + query * row + key * step.
template <class T> __attribute__((noinline)) void add_masks(const T* p, long row, long step, int queries, int keys, float* scores, long width) {
  if (row == 0) {
    for (int key = 0; key < keys; ++key) add_mask(scores + key * width, splat(mask_value(p[key * step])));
  } else if (row == 1) {
    for (int key = 0; key < keys; ++key) add_mask(scores + key * width, mask_lanes(p + key * step, queries));
  } else {
    for (; keys > 0; keys -= LANES, p += LANES * step, scores += LANES * width) {
      const int count = keys < LANES ? keys : LANES;
      Vec block[LANES];
      if (step == 1) {
        GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) block[i] = i < queries ? mask_lanes(p + i * row, count) : zero();
        transpose16(block);
      } else {
        float lanes[LANES][LANES] = {};
        for (int j = 0; j < count; ++j)
          for (int i = 0; i < queries; ++i) lanes[j][i] = mask_value(p[i * row + j * step]);
        GRAPHOPT_UNROLL for (int j = 0; j < LANES; ++j) block[j] = load(lanes[j]);
      }
      GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i)
          if (i < count) add_mask(scores + i * width, block[i]);
    }
  }
}

// The same for the scores of one query, which lie side by side; the mask is multiplied by `unit`.
template <class T> __attribute__((noinline)) void add_mask_row(const T* p, long step, int keys, float unit, float* scores) {
  for (int key = 0; key < keys; key += LANES, p += LANES * step) {
    const int count = keys - key < LANES ? keys - key : LANES;
    if (step == 1) {
      add_mask(scores + key, mask_lanes(p, count), unit);
    } else {
      float lanes[LANES] = {};
      for (int i = 0; i < count; ++i) lanes[i] = mask_value(p[i * step]);
      add_mask(scores + key, load(lanes), unit);
    }
  }
}

// ---- memory ahead --------------------------------------------------------------------------------------------

// Rows that will be packed next, requested from memory a few at a time while something else is computed.
class Ahead {
 public:
  void add(const float* rows, long row, int count) { streams_[streams_count_++] = {rows, row, count}; }
  void clear() { streams_count_ = current_ = 0; }

  // The next `rows` rows of BYTES each.
  template <int BYTES> GRAPHOPT_INLINE void step(int rows) {
    for (; rows > 0 && current_ < streams_count_; --rows) {
      Stream& from = streams_[current_];
      for (int byte = 0; byte < BYTES; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(from.rows) + byte, 0, 2);
      from.rows += from.row;
      if (--from.count == 0) ++current_;
    }
  }

 private:
  struct Stream {
    const float* rows;
    long row;
    int count;
  };
  Stream streams_[3];
  int streams_count_ = 0, current_ = 0;
};

}  // namespace attention_parts
}  // namespace graphopt
