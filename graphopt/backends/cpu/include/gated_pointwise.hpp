// 1x1 convolution of pixels whose channels have a gate each: y[o] = bias[o] + sum over c of w[o, c] * gate[c] * x[c].
// The gates go into a copy of the weights, of which there are fewer than pixels.
//
//   S::IMAGES, IN_CHANNELS, OUT_CHANNELS, HEIGHT, WIDTH
//   S::X, Y, GATE                 Strides; of GATE, n and block count
//   S::Y_PADDED                   all 16 channels of the last group exist
//   S::VECTORS, PIXELS            register tile
//   S::BUFFERED                   the epilogue is long: it runs as a loop over finished sums in memory
//
// w is [set of VECTORS][c][vector][16].
#pragma once

#include "pointwise_tiles.hpp"
#include "runtime.hpp"

namespace graphopt {

template <class S> struct GatedShape {
  static constexpr bool IS_FLAT = S::HEIGHT == 1 || (S::X.h == S::WIDTH * S::X.w && S::Y.h == S::WIDTH * S::Y.w);
  static constexpr int ROWS = IS_FLAT ? 1 : S::HEIGHT, COUNT = IS_FLAT ? S::HEIGHT * S::WIDTH : S::WIDTH;
  static constexpr int GROUPS = ceil_div(S::OUT_CHANNELS, LANES), SETS = ceil_div(GROUPS, S::VECTORS);
  static constexpr int LAST = GROUPS - (SETS - 1) * S::VECTORS;
  static constexpr int LINES = lines_ahead(S::VECTORS, ROWS * COUNT / fit_pixels(S::PIXELS));
};

// Tiles [begin, end) of an image, counted through all rows, and WIDTH output vectors.
template <class S, int WIDTH, class Epilogue>
__attribute__((noinline)) void gated_set(const float* x, const float* gate, const float* w, const float* bias, float* y, float* gated, Ahead ahead, int n, int group,
                                         int begin, int end, Epilogue epilogue) {
  using G = GatedShape<S>;
  for (int c = 0; c < S::IN_CHANNELS; ++c) {
    const Vec factor = splat(gate[c / LANES * S::GATE.block + c % LANES]);
    GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) store(gated + (c * WIDTH + v) * LANES, load(w + (c * WIDTH + v) * LANES) * factor);
  }
  const int tiles = pixel_tiles<S::PIXELS>(G::COUNT);
  for (int tile = begin; tile < end;) {
    const int row = tile / tiles, first = tile % tiles, last = end - tile < tiles - first ? first + end - tile : tiles;
    pointwise_tiles<WIDTH, S::PIXELS, S::IN_CHANNELS, S::X.block, S::X.w, true, S::BUFFERED, G::LINES>(
        x + row * S::X.h, gated, bias, ahead, first, last, G::COUNT, [&](Vec sum, int v, int pixel) __attribute__((always_inline)) {
          const Vec value = epilogue(sum, n, (group + v) * LANES, row + pixel / S::WIDTH, pixel % S::WIDTH);
          float* const to = y + v * S::Y.block + row * S::Y.h + pixel * S::Y.w;
          store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to, value, (group + v) * LANES);
        });
    tile += last - first;
  }
}

template <class S, class Epilogue>
void gated_pointwise(const Worker& worker, const float* x, const float* gate, const float* w, const float* bias, float* y, Epilogue epilogue) {
  using G = GatedShape<S>;
  const int tiles = G::ROWS * pixel_tiles<S::PIXELS>(G::COUNT);
  const Range range = worker.split(1L * S::IMAGES * G::SETS * tiles);
  for (long i = range.begin; i < range.end;) {
    const int n = static_cast<int>(i / tiles / G::SETS), set = static_cast<int>(i / tiles % G::SETS), begin = static_cast<int>(i % tiles);
    const int end = range.end - i < tiles - begin ? begin + static_cast<int>(range.end - i) : tiles, group = set * S::VECTORS;
    const float *const weights = w + 1L * group * LANES * S::IN_CHANNELS, *const start = bias + group * LANES;
    const float *const from = x + n * S::X.n, *const gates = gate + n * S::GATE.n;
    float* const to = y + n * S::Y.n + group * S::Y.block;
    const Ahead ahead = i + end - begin < range.end ? set_ahead<S::VECTORS, G::GROUPS, S::IN_CHANNELS>(w, set + 1) : Ahead{};
    if (G::LAST != S::VECTORS && set == G::SETS - 1) gated_set<S, G::LAST>(from, gates, weights, start, to, worker.scratch, ahead, n, group, begin, end, epilogue);
    else gated_set<S, S::VECTORS>(from, gates, weights, start, to, worker.scratch, ahead, n, group, begin, end, epilogue);
    i += end - begin;
  }
}

}  // namespace graphopt
