// Softmax and its logarithm, along the channels of each position or along w with 16 channels side by side.
//
//   softmax       exp(z - max) / sum of exp(z - max)
//   log softmax   z - max - log(sum of exp(z - max))            with z = before(x)
//
// The exponential is 2^((z - max) log2(e)): its rounding is of the size of the rounding of the difference, and its
// chain of dependent operations is half as long as that of `exp`, which is what binds here.
// A row that is -inf throughout, or has a NaN or +inf, is NaN, as torch has it: z - max is NaN then.
#pragma once

#include <type_traits>

#include "epilogue.hpp"
#include "fold.hpp"
#include "math.hpp"
#include "runtime.hpp"

namespace graphopt {

// x > y ? x : y, so y where x is NaN: what is exponentiated brings the NaN back.
struct Larger {
  GRAPHOPT_INLINE Vec operator()(Vec x, Vec y) const {
    return lift([](Part a, Part b) { return larger(a, b); }, x, y);
  }
};

// S has IMAGES, HEIGHT, WIDTH, CHANNELS; Strides X, Y; IS_LOG, HAS_BEFORE; IS_PADDED, where y may be stored in whole
// vectors; ROWS (1 to 16), the neighbours along w of a block where channels are summed.
template <class S, class Before, class After> struct Softmax {
  static constexpr int TAIL = S::CHANNELS % LANES;
  static constexpr int VECTORS = S::CHANNELS / LANES;  // without the tail
  static constexpr float NOTHING = -INFINITY;          // in lanes that are not there

  static GRAPHOPT_INLINE long offset(Strides strides, int n, int h, int w) { return n * strides.n + h * strides.h + w * strides.w; }

  template <bool IS_TAIL> static GRAPHOPT_INLINE Vec get(const float* p) { return IS_TAIL ? load_first(p, TAIL, NOTHING) : load(p); }
  template <bool IS_TAIL> static GRAPHOPT_INLINE void put(float* y, Vec v) {
    if (IS_TAIL && !S::IS_PADDED) store_first(y, v, TAIL);
    else store(y, v);
  }
  static GRAPHOPT_INLINE Vec exponential(Vec difference) { return exp2_negative(difference * splat(LOG2_E)); }

  // f(number of the vector, is it the tail) for all vectors of a position.
  template <class F> static GRAPHOPT_INLINE void each(F f) {
    for (int j = 0; j < VECTORS; ++j) f(j, std::false_type{});
    if constexpr (TAIL > 0) f(VECTORS, std::true_type{});
  }

  // ---- along channels: `rows` positions from w on ----

  static GRAPHOPT_INLINE Vec most(const float* z, long block) {
    const Larger larger;
    Vec found[4] = {splat(NOTHING), splat(NOTHING), splat(NOTHING), splat(NOTHING)};
    int c = 0;
    for (; c + 4 <= VECTORS; c += 4)
      GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) found[i] = larger(load(z + (c + i) * block), found[i]);
    GRAPHOPT_UNROLL for (int i = 0; i < VECTORS % 4; ++i) found[i] = larger(load(z + (c + i) * block), found[i]);
    if (TAIL) found[3] = larger(load_first(z + VECTORS * block, TAIL, NOTHING), found[3]);
    return larger(larger(found[0], found[1]), larger(found[2], found[3]));
  }

  static void block(const float* x, float* y, int n, int h, int w, int rows, Before before, After after) {
    const float* from = S::HAS_BEFORE ? y + offset(S::Y, n, h, w) : x + offset(S::X, n, h, w);
    float* to = y + offset(S::Y, n, h, w);
    constexpr long ROW = S::HAS_BEFORE ? S::Y.w : S::X.w, BLOCK = S::HAS_BEFORE ? S::Y.block : S::X.block;
    if (S::HAS_BEFORE)
      for (int i = 0; i < rows; ++i) {
        const float* p = x + offset(S::X, n, h, w + i);
        each([&](int j, auto is_tail) __attribute__((always_inline)) {
          put<is_tail()>(to + i * S::Y.w + j * S::Y.block, before(get<is_tail()>(p + j * S::X.block), n, j * LANES, h, w + i));
        });
      }
    Vec found[S::ROWS];
    float maxima[LANES], totals[LANES];
    for (int i = 0; i < S::ROWS; ++i) found[i] = zero();
    for (int i = 0; i < rows; ++i) found[i] = most(from + i * ROW, BLOCK);
    store(maxima, fold_rows<S::ROWS>(found, Larger{}));
    for (int i = 0; i < rows; ++i) {
      const Vec maximum = splat(maxima[i]);
      const float* p = from + i * ROW;
      Vec sum = zero();
      each([&](int j, auto is_tail) __attribute__((always_inline)) {
        const Vec e = exponential(get<is_tail()>(p + j * BLOCK) - maximum);
        if (!S::IS_LOG) put<is_tail()>(to + i * S::Y.w + j * S::Y.block, e);
        sum += e;
      });
      found[i] = sum;
    }
    const Vec sums = fold_rows<S::ROWS>(found, Sum{});
    store(totals, S::IS_LOG ? log(sums) : reciprocal(sums));
    for (int i = 0; i < rows; ++i) {
      const Vec maximum = splat(maxima[i]), total = splat(totals[i]);
      const float* z = from + i * ROW;
      float* p = to + i * S::Y.w;
      each([&](int j, auto is_tail) __attribute__((always_inline)) {
        const Vec v = S::IS_LOG ? (get<is_tail()>(z + j * BLOCK) - maximum) - total : get<is_tail()>(p + j * S::Y.block) * total;
        put<is_tail()>(p + j * S::Y.block, after(v, n, j * LANES, h, w + i));
      });
    }
  }

  // ---- along w: 16 channels from c on ----

  template <bool IS_TAIL> static void column(const float* x, float* y, int n, int h, int c, Before before, After after) {
    const float* from = x + offset(S::X, n, h, 0) + c / LANES * S::X.block;
    float* to = y + offset(S::Y, n, h, 0) + c / LANES * S::Y.block;
    const float* z = S::HAS_BEFORE ? to : from;
    constexpr long STEP = S::HAS_BEFORE ? S::Y.w : S::X.w;
    const Larger larger;
    Vec maximum = splat(NOTHING), sum = zero();
    for (int w = 0; w < S::WIDTH; ++w) {
      Vec v = get<IS_TAIL>(from + w * S::X.w);
      if (S::HAS_BEFORE) {
        v = before(v, n, c, h, w);
        put<IS_TAIL>(to + w * S::Y.w, v);
      }
      maximum = larger(v, maximum);
    }
    for (int w = 0; w < S::WIDTH; ++w) {
      const Vec e = exponential(get<IS_TAIL>(z + w * STEP) - maximum);
      if (!S::IS_LOG) put<IS_TAIL>(to + w * S::Y.w, e);
      sum += e;
    }
    const Vec total = S::IS_LOG ? log(sum) : reciprocal(sum);
    for (int w = 0; w < S::WIDTH; ++w) {
      const Vec v = S::IS_LOG ? (get<IS_TAIL>(z + w * STEP) - maximum) - total : get<IS_TAIL>(to + w * S::Y.w) * total;
      put<IS_TAIL>(to + w * S::Y.w, after(v, n, c, h, w));
    }
  }
};

template <class S, class Before, class After>
void softmax_along_channels(const Worker& worker, const float* x, float* y, Before before, After after) {
  constexpr long blocks = (S::WIDTH + S::ROWS - 1) / S::ROWS;
  const Range range = worker.split(static_cast<long>(S::IMAGES) * S::HEIGHT * blocks);
  for (long index = range.begin; index < range.end; ++index) {
    const int w = static_cast<int>(index % blocks) * S::ROWS, h = static_cast<int>(index / blocks % S::HEIGHT), n = static_cast<int>(index / blocks / S::HEIGHT);
    Softmax<S, Before, After>::block(x, y, n, h, w, S::WIDTH - w < S::ROWS ? S::WIDTH - w : S::ROWS, before, after);
  }
}

template <class S, class Before, class After>
void softmax_along_width(const Worker& worker, const float* x, float* y, Before before, After after) {
  constexpr long vectors = (S::CHANNELS + LANES - 1) / LANES;
  const Range range = worker.split(static_cast<long>(S::IMAGES) * S::HEIGHT * vectors);
  for (long index = range.begin; index < range.end; ++index) {
    const int c = static_cast<int>(index % vectors) * LANES, h = static_cast<int>(index / vectors % S::HEIGHT), n = static_cast<int>(index / vectors / S::HEIGHT);
    using Parts = Softmax<S, Before, After>;
    if (c < Parts::VECTORS * LANES) Parts::template column<false>(x, y, n, h, c, before, after);
    else if constexpr (Parts::TAIL > 0) Parts::template column<true>(x, y, n, h, c, before, after);
  }
}

}  // namespace graphopt
