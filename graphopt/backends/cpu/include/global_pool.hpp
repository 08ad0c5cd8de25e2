// The mean, sum or maximum of all pixels, per channel: y[n, c].
//
//   S::IMAGES, CHANNELS, HEIGHT, WIDTH
//   S::MAXIMUM                    the largest, NaN where one is NaN; else the sum over DIVISOR
//   S::X, Y                       Strides; of Y, n and block count
//   S::X_PADDED, Y_PADDED         all 16 channels of the last group exist
//   S::VECTORS                    groups of 16 channels at a time: several where they lie side by side in memory
//
// Pixels are summed up in 8 / VECTORS partial sums in turn, row after row; an image without halo counts as one row.
#pragma once

#include "runtime.hpp"
#include "window_pool.hpp"

namespace graphopt {

template <class S> struct GlobalShape {
  static constexpr bool IS_FLAT = S::HEIGHT == 1 || S::X.h == S::WIDTH * S::X.w;
  static constexpr int ROWS = IS_FLAT ? 1 : S::HEIGHT, COLUMNS = IS_FLAT ? S::HEIGHT * S::WIDTH : S::WIDTH;
  static constexpr int GROUPS = (S::CHANNELS + LANES - 1) / LANES;
  static constexpr int SETS = (GROUPS + S::VECTORS - 1) / S::VECTORS;
  static constexpr int LOADED = S::X_PADDED ? 0 : S::CHANNELS % LANES;
  static constexpr int STORED = S::Y_PADDED ? 0 : S::CHANNELS % LANES;
};

// WIDTH groups of channels, of which the last has LOADED (STORED) lanes if that is not 0.
template <class S, int WIDTH, int LOADED, int STORED, class Epilogue>
GRAPHOPT_INLINE void global_set(const float* x, float* y, int n, int channel, const Epilogue& epilogue) {
  using G = GlobalShape<S>;
  constexpr int CHAINS = REGISTERS >= 32 ? 8 / WIDTH : 1;
  Vec sums[CHAINS][WIDTH];
  GRAPHOPT_UNROLL for (int i = 0; i < CHAINS; ++i) {
    GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) sums[i][v] = pool_start<S::MAXIMUM>();
  }
  const auto add = [&](int i, const float* p) __attribute__((always_inline)) {
    GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) {
      const float* const lanes = p + v * S::X.block;
      sums[i][v] = pool_add<S::MAXIMUM>(sums[i][v], v == WIDTH - 1 ? load_group<LOADED>(lanes) : load(lanes));
    }
  };
  for (int row = 0; row < G::ROWS; ++row) {
    const float* p = x + row * S::X.h;
    for (int column = 0; column < G::COLUMNS / CHAINS; ++column, p += CHAINS * S::X.w) {
      GRAPHOPT_UNROLL for (int i = 0; i < CHAINS; ++i) add(i, p + i * S::X.w);
    }
    GRAPHOPT_UNROLL for (int i = 0; i < G::COLUMNS % CHAINS; ++i) add(i, p + i * S::X.w);
  }
  GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) {
    GRAPHOPT_UNROLL for (int half = CHAINS / 2; half > 0; half /= 2) {
      GRAPHOPT_UNROLL for (int i = 0; i < half; ++i) sums[i][v] = pool_add<S::MAXIMUM>(sums[i][v], sums[i + half][v]);
    }
    Vec found = sums[0][v];
    if constexpr (!S::MAXIMUM) found = pool_mean(found, S::DIVISOR);
    found = epilogue(found, n, channel + v * LANES, 0, 0);
    if (v == WIDTH - 1) store_group<STORED>(y + v * S::Y.block, found);
    else store(y + v * S::Y.block, found);
  }
}

template <class S, class Epilogue> void global_pool(const Worker& worker, const float* x, float* y, Epilogue epilogue) {
  using G = GlobalShape<S>;
  constexpr int LAST = G::GROUPS - (G::SETS - 1) * S::VECTORS;
  const Range range = worker.split(1L * S::IMAGES * G::SETS);
  for (long i = range.begin; i < range.end; ++i) {
    const int set = static_cast<int>(i % G::SETS), n = static_cast<int>(i / G::SETS), group = set * S::VECTORS;
    const float* const from = x + n * S::X.n + group * S::X.block;
    float* const to = y + n * S::Y.n + group * S::Y.block;
    if ((LAST != S::VECTORS || G::LOADED + G::STORED > 0) && set == G::SETS - 1)
      global_set<S, LAST, G::LOADED, G::STORED>(from, to, n, group * LANES, epilogue);
    else
      global_set<S, S::VECTORS, 0, 0>(from, to, n, group * LANES, epilogue);
  }
}

}  // namespace graphopt
