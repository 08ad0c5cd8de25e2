// 1x1 convolution of pixels that follow each other, for kernels that do it to data in their caches.
#pragma once

#include "microkernel.hpp"

namespace graphopt {

// Tiles of at most `wanted` pixels that cover `count`; the last one may begin inside the one before.
template <int PIXELS> GRAPHOPT_INLINE int pixel_tiles(int count) { return (count + fit_pixels(PIXELS) - 1) / fit_pixels(PIXELS); }

// WIDTH x 16 output channels of the pixel tiles [begin, end) of `count` pixels, which are no fewer than a tile has.
// Groups of 16 of the DEPTH input channels are GROUP floats apart, pixels COLUMN; w is [DEPTH][WIDTH][16].
// `finish(sum, v, pixel)` takes what was summed up for output vector v of a pixel, each once; from a loop over memory
// where it is LONG.
template <int WIDTH, int PIXELS, int DEPTH, long GROUP, long COLUMN, bool LONG, class Finish>
GRAPHOPT_INLINE void pointwise_tiles(const float* x, const float* w, const float* bias, int begin, int end, int count, Finish finish) {
  constexpr int VECTORS = fit_vectors(WIDTH), TILE = fit_pixels(PIXELS), STEP = WIDTH * LANES;
  for (int tile = begin; tile < end; ++tile) {
    const int wanted = tile * TILE, pixel = wanted + TILE > count ? count - TILE : wanted;
    for (int first = 0; first < WIDTH; first += VECTORS) {
      Sums<VECTORS, 1, TILE> sums;
      sums.start(bias + first * LANES);
      const float *from = x + pixel * COLUMN, *weights = w + first * LANES;
      for (int c = 0; c < DEPTH; c += LANES, from += GROUP, weights += LANES * STEP)
        sums.template add<1, 0, COLUMN, STEP>(from, weights, DEPTH - c < LANES ? DEPTH - c : LANES);
      for_each_sum<LONG>(sums, [&](int v, int p, Vec sum) __attribute__((always_inline)) {
        if (p >= wanted - pixel) finish(sum, first + v, pixel + p);
      });
    }
  }
}

}  // namespace graphopt
