// Layer norm and RMS norm over the channels of each position [n, h, w]: y = (z - mean) / sqrt(variance + eps) * weight
// + bias with z = before(x), which may be stored as well.
//
// Mean and variance in two passes over a few rows that stay in L1, in 16 lanes and four partial sums each; the means of
// all rows of a block are folded and their square roots taken at once.
#pragma once

#include "epilogue.hpp"
#include "fold.hpp"
#include "math.hpp"
#include "runtime.hpp"

namespace graphopt {

// S has IMAGES, HEIGHT, WIDTH, CHANNELS; Strides X, Y, Z (of the stored z; those of Y where only y is stored); ROWS, the
// neighbours along w of a block (1 to 16); HAS_MEAN (false: RMS norm), HAS_WEIGHT, HAS_BIAS, HAS_BEFORE; IS_PADDED, where y
// may be stored in whole vectors, and IS_Z_PADDED.
template <class S, class Before, class After> struct LayerNorm {
  static constexpr int TAIL = S::CHANNELS % LANES;
  static constexpr int VECTORS = S::CHANNELS / LANES;  // without the tail

  static GRAPHOPT_INLINE long offset(Strides strides, int n, int h, int w) { return n * strides.n + h * strides.h + w * strides.w; }

  // The sum over channels of f(vector); f of lanes that are not there has to be 0.
  template <class F> static GRAPHOPT_INLINE Vec sum(const float* z, long block, float fill, F f) {
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    int c = 0;
    for (; c + 4 <= VECTORS; c += 4)
      GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) sums[i] += f(load(z + (c + i) * block));
    GRAPHOPT_UNROLL for (int i = 0; i < VECTORS % 4; ++i) sums[i] += f(load(z + (c + i) * block));
    if (TAIL) sums[3] += f(load_first(z + VECTORS * block, TAIL, fill));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  static GRAPHOPT_INLINE void put(float* y, Vec v, int c, bool is_padded) {
    if (TAIL == 0 || is_padded || c < VECTORS * LANES) store(y, v);
    else store_first(y, v, TAIL);
  }

  // z = before(x) of one row.
  static GRAPHOPT_INLINE void prepare(const float* x, float* z, int n, int h, int w, Before before) {
    for (int c = 0; c < VECTORS * LANES; c += LANES) store(z + c / LANES * S::Z.block, before(load(x + c / LANES * S::X.block), n, c, h, w));
    if (TAIL) put(z + VECTORS * S::Z.block, before(load_first(x + VECTORS * S::X.block, TAIL), n, VECTORS * LANES, h, w), VECTORS * LANES, S::IS_Z_PADDED);
  }

  // (z - mean) * scale of one row.
  static GRAPHOPT_INLINE void finish(const float* z, long block, float* y, float mean, float scale, const float* weight, const float* bias, int n, int h, int w, After after) {
    const Vec middle = splat(mean), factor = splat(scale);
    for (int c = 0; c < S::CHANNELS; c += LANES) {
      const float* p = z + c / LANES * block;
      Vec v = c < VECTORS * LANES ? load(p) : load_first(p, TAIL);
      v = S::HAS_MEAN ? (v - middle) * factor : v * factor;
      if (S::HAS_WEIGHT && S::HAS_BIAS) v = fma(v, load(weight + c), load(bias + c));
      else if (S::HAS_WEIGHT) v = v * load(weight + c);
      else if (S::HAS_BIAS) v = v + load(bias + c);
      put(y + c / LANES * S::Y.block, after(v, n, c, h, w), c, S::IS_PADDED);
    }
  }

  // `rows` positions from w on.
  static void block(const float* x, float* y, float* z, const float* weight, const float* bias, float eps, int n, int h, int w, int rows, Before before, After after) {
    const float* from = S::HAS_BEFORE ? z + offset(S::Z, n, h, w) : x + offset(S::X, n, h, w);
    constexpr long ROW = S::HAS_BEFORE ? S::Z.w : S::X.w, BLOCK = S::HAS_BEFORE ? S::Z.block : S::X.block;
    Vec sums[S::ROWS];
    float means[LANES], scales[LANES];
    for (int i = 0; i < S::ROWS; ++i) sums[i] = zero();
    if (S::HAS_BEFORE)
      for (int i = 0; i < rows; ++i) prepare(x + offset(S::X, n, h, w + i), z + offset(S::Z, n, h, w + i), n, h, w + i, before);
    if (S::HAS_MEAN) {
      for (int i = 0; i < rows; ++i) sums[i] = sum(from + i * ROW, BLOCK, 0.0f, [](Vec v) { return v; });
      store(means, fold_rows<S::ROWS>(sums, Sum{}) / splat(S::CHANNELS));
    }
    for (int i = 0; i < rows; ++i) {
      const float mean = S::HAS_MEAN ? means[i] : 0.0f;
      const Vec middle = splat(mean);
      sums[i] = sum(from + i * ROW, BLOCK, mean, [middle](Vec v) { return S::HAS_MEAN ? (v - middle) * (v - middle) : v * v; });
    }
    store(scales, rsqrt(fold_rows<S::ROWS>(sums, Sum{}) / splat(S::CHANNELS) + splat(eps)));
    for (int i = 0; i < rows; ++i)
      finish(from + i * ROW, BLOCK, y + offset(S::Y, n, h, w + i), S::HAS_MEAN ? means[i] : 0.0f, scales[i], weight, bias, n, h, w + i, after);
  }
};

// weight and bias are padded to whole vectors. `before` gets x, `after` what is stored.
template <class S, class Before, class After>
void layer_norm(const Worker& worker, const float* x, float* y, float* z, const float* weight, const float* bias, float eps, Before before, After after) {
  constexpr long blocks = (S::WIDTH + S::ROWS - 1) / S::ROWS;
  const Range range = worker.split(static_cast<long>(S::IMAGES) * S::HEIGHT * blocks);
  for (long index = range.begin; index < range.end; ++index) {
    const int w = static_cast<int>(index % blocks) * S::ROWS, h = static_cast<int>(index / blocks % S::HEIGHT), n = static_cast<int>(index / blocks / S::HEIGHT);
    LayerNorm<S, Before, After>::block(x, y, z, weight, bias, eps, n, h, w, S::WIDTH - w < S::ROWS ? S::WIDTH - w : S::ROWS, before, after);
  }
}

}  // namespace graphopt
