// 1x1 convolution of pixels that follow each other, for kernels that do it to data in their caches.
#pragma once

#include "microkernel.hpp"

namespace graphopt {

// Tiles of at most `wanted` pixels that cover `count`; the last one may begin inside the one before.
template <int PIXELS> GRAPHOPT_INLINE int pixel_tiles(int count) { return (count + fit_pixels(PIXELS) - 1) / fit_pixels(PIXELS); }

// Weights that will be used next, to be asked for in the second cache level, some per 16 channels of a tile's sum.
struct Ahead {
  const float *at = nullptr, *end = nullptr;

  template <int LINES> GRAPHOPT_INLINE void ask() {
    if (at >= end) return;
    GRAPHOPT_UNROLL for (int line = 0; line < LINES; ++line) prefetch(at + line * LANES);
    at += LINES * LANES;
  }
};

// The weights of a set of VECTORS output vectors, of GROUPS in all; nothing if there is no such set.
template <int VECTORS, int GROUPS, int DEPTH> GRAPHOPT_INLINE Ahead set_ahead(const float* w, int set) {
  constexpr long SET = 1L * VECTORS * LANES * DEPTH, ALL = 1L * GROUPS * LANES * DEPTH;
  return {w + set * SET, w + ((set + 1) * SET < ALL ? (set + 1) * SET : ALL)};
}

// So many lines per 16 channels of a tile's sum, if as many tiles are to ask for all weights of WIDTH output vectors.
constexpr int lines_ahead(int width, int tiles) { return ceil_div(LANES * width, tiles > 0 ? tiles : 1); }

// WIDTH x 16 output channels of the pixel tiles [begin, end) of `count` pixels, which are no fewer than a tile has.
// Groups of 16 of the DEPTH input channels are GROUP floats apart, pixels COLUMN; w is [DEPTH][WIDTH][16].
// `finish(sum, v, pixel)` takes what was summed up for output vector v of a pixel, each once if ONCE; from a loop over
// memory where it is LONG.
template <int WIDTH, int PIXELS, int DEPTH, long GROUP, long COLUMN, bool ONCE, bool LONG, int LINES, class Finish>
GRAPHOPT_INLINE void pointwise_tiles(const float* x, const float* w, const float* bias, Ahead& ahead, int begin, int end, int count, Finish finish) {
  constexpr int VECTORS = fit_vectors(WIDTH), TILE = fit_pixels(PIXELS), STEP = WIDTH * LANES;
  constexpr int RUN = sum_run(DEPTH);
  alignas(64) float unfinished[RUN < DEPTH ? VECTORS * TILE * LANES : LANES];
  for (int tile = begin; tile < end; ++tile) {
    const int wanted = tile * TILE, pixel = wanted + TILE > count ? count - TILE : wanted;
    for (int first = 0; first < WIDTH; first += VECTORS) {
      Sums<VECTORS, 1, TILE> sums;
      const float *from = x + pixel * COLUMN, *weights = w + first * LANES;
      for (int run = 0; run < DEPTH; run += RUN) {
        const int stop = run + RUN < DEPTH ? run + RUN : DEPTH;
        if (run == 0) sums.start(bias + first * LANES);
        else sums.clear();
        for (int c = run; c < stop; c += LANES, from += GROUP, weights += LANES * STEP) {
          ahead.ask<LINES>();
          sums.template add<1, 0, COLUMN, STEP>(from, weights, DEPTH - c < LANES ? DEPTH - c : LANES);
        }
        if constexpr (RUN < DEPTH) {
          if (run != 0) sums.add_saved(unfinished);
          if (stop < DEPTH) sums.save(unfinished);
        }
      }
      for_each_sum<LONG>(sums, [&](int v, int p, Vec sum) __attribute__((always_inline)) {
        if (!ONCE || p >= wanted - pixel) finish(sum, first + v, pixel + p);
      });
    }
  }
}

}  // namespace graphopt
