// Product of a few pixels and weights: y[pixel, o] = bias[o] + sum over c of x[pixel, c] * w[o, c], for one to eight pixels.
//
// Every weight is used once and comes from memory: the time is that of reading them. A worker reads its share of w from
// front to back; x stays in the caches.
//
//   S::IMAGES, OUT_HEIGHT, OUT_WIDTH   pixels;  S::IN_CHANNELS, OUT_CHANNELS
//   S::X, S::Y                    Strides, 16 channels side by side; X_ROW, X_COLUMN: floats of x from pixel to pixel of y
//   S::Y_PADDED                   all 16 channels of the last group of y exist
//   S::VECTORS                    output vectors that are summed together
//   S::LONG_EPILOGUE              the epilogue is too long to be repeated for every sum of a tile
//
// w is [set of VECTORS output vectors][c][VECTORS][16].
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"

namespace graphopt {

template <class S> struct LinearVectorShape {
  static constexpr int PIXELS = S::IMAGES * S::OUT_HEIGHT * S::OUT_WIDTH;
  static constexpr int OUT_VECTORS = ceil_div(S::OUT_CHANNELS, LANES);
  static constexpr int SETS = ceil_div(OUT_VECTORS, S::VECTORS);
  static constexpr int LAST_VECTORS = OUT_VECTORS - (SETS - 1) * S::VECTORS;
  // Pixels are images, rows or columns: the others are 1.
  static constexpr long X_PIXEL = S::IMAGES > 1 ? S::X.n : S::OUT_HEIGHT > 1 ? S::X_ROW : S::X_COLUMN;
  static_assert(PIXELS == S::IMAGES || PIXELS == S::OUT_HEIGHT || PIXELS == S::OUT_WIDTH, "one stride tells all pixels apart");
  static constexpr int fit(int vectors) { return vectors * PIXELS <= REGISTERS - 2 ? vectors : 1; }
};

// Floats between the weights that are used and those that are asked for.
constexpr long LINEAR_VECTOR_AHEAD = 1024;

template <class S, int WIDTH, class Epilogue>
__attribute__((noinline)) void linear_vector_set(const float* x, const float* w, const float* bias, float* y, int channel, const Epilogue& epilogue) {
  using L = LinearVectorShape<S>;
  constexpr int VECTORS = L::fit(WIDTH), TILE = fit_pixels(L::PIXELS), STEP = WIDTH * LANES, TAIL = S::IN_CHANNELS % LANES;
  constexpr int RUN = sum_run(S::IN_CHANNELS);
  alignas(64) float unfinished[VECTORS * TILE * LANES];
  for (int v = 0; v < WIDTH; v += VECTORS)
    for (int first = 0; first < L::PIXELS; first += TILE) {
      const int pixel = first + TILE > L::PIXELS ? L::PIXELS - TILE : first;
      Sums<VECTORS, 1, TILE> sums;
      const float *numbers = x + pixel * L::X_PIXEL, *weights = w + v * LANES;
      for (int run = 0; run < S::IN_CHANNELS; run += RUN) {
        const int stop = run + RUN < S::IN_CHANNELS ? run + RUN : S::IN_CHANNELS;
        if (run == 0) sums.start(bias + v * LANES);
        else sums.clear();
        for (int c = run; c + LANES <= stop; c += LANES, numbers += S::X.block, weights += LANES * STEP)
          sums.template add<1, 0, L::X_PIXEL, STEP, LINEAR_VECTOR_AHEAD>(numbers, weights, LANES);
        if constexpr (TAIL != 0)
          if (stop == S::IN_CHANNELS) sums.template add<1, 0, L::X_PIXEL, STEP>(numbers, weights, TAIL);
        if (run != 0) sums.add_saved(unfinished);
        if (stop < S::IN_CHANNELS) sums.save(unfinished);
      }
      for_each_sum<S::LONG_EPILOGUE>(sums, [&](int i, int p, Vec sum) {
        if (L::PIXELS % TILE != 0 && pixel + p < first) return;
        const int at = pixel + p, c = channel + (v + i) * LANES;
        const int image = S::IMAGES > 1 ? at : 0, row = S::OUT_HEIGHT > 1 ? at : 0, column = S::OUT_WIDTH > 1 ? at : 0;
        float* to = y + image * S::Y.n + c / LANES * S::Y.block + row * S::Y.h + column * S::Y.w;
        store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to, epilogue(sum, image, c, row, column), c);
      });
    }
}

template <class S, class Epilogue>
void linear_vector(const Worker& worker, const float* x, const float* w, const float* bias, float* y, Epilogue epilogue) {
  using L = LinearVectorShape<S>;
  const Range sets = worker.split(L::SETS);
  for (long set = sets.begin; set < sets.end; ++set) {
    const int channel = static_cast<int>(set) * S::VECTORS * LANES;
    const float* set_w = w + static_cast<long>(S::IN_CHANNELS) * channel;
    if (L::LAST_VECTORS != S::VECTORS && set == L::SETS - 1) linear_vector_set<S, L::LAST_VECTORS>(x, set_w, bias + channel, y, channel, epilogue);
    else linear_vector_set<S, S::VECTORS>(x, set_w, bias + channel, y, channel, epilogue);
  }
}

}  // namespace graphopt
