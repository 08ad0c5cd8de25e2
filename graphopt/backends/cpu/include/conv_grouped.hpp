// Convolution with groups of few channels, which lie in one vector: WIDTH = 2, 4 or 8 inputs and outputs of a group.
//
// y[l] = bias[l] + sum over taps and r of w[tap, r, l] * x[l ^ r],  r = 0 to WIDTH - 1
//
// `l ^ r` runs over the lanes of l's own group, and one shuffle of x makes it for all 16 lanes. A shuffled pixel is
// used by all taps of its row. So WIDTH multiplies are made per tap where a dense vector would make 16.
//
//   S::IMAGES, CHANNELS, WIDTH    channels of x and of y
//   S::OUT_HEIGHT, OUT_WIDTH      pixels of y; S::KERNEL_H, KERNEL_W taps
//   S::X, S::Y                    Strides, 16 channels side by side; X_PADDED, Y_PADDED: those of the last group exist
//   S::X_ROW, X_TAP_H             floats of x from row to row of y, and from tap to tap
//   S::STRIDE_W, DILATION_W       pixels of x
//   S::COLUMNS                    pixels of a tile
//   S::LONG_EPILOGUE              the epilogue is too long to be repeated for every sum of a tile
//
// w is [vector][kh][r][kw][16]. x points to tap (0, 0) of pixel (0, 0): padding is before it, in the halo.
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"

namespace graphopt {

template <class S> struct GroupedShape {
  static constexpr int VECTORS = ceil_div(S::CHANNELS, LANES);
  static constexpr int COLUMNS = even_tile(S::OUT_WIDTH, fit_pixels(S::COLUMNS));
  static constexpr int TILES_W = ceil_div(S::OUT_WIDTH, COLUMNS);
  // pixels of x that a row of a tile sees
  static constexpr int SEEN = (COLUMNS - 1) * S::STRIDE_W + (S::KERNEL_W - 1) * S::DILATION_W + 1;
  static constexpr long ROW_WEIGHTS = S::WIDTH * S::KERNEL_W * LANES;
  static constexpr long VECTOR_WEIGHTS = S::KERNEL_H * ROW_WEIGHTS;
};

// 16 channels of a pixel; lanes that do not exist are 0.
template <class S> GRAPHOPT_INLINE Vec grouped_load(const float* x, bool tail) {
  if (!S::X_PADDED && S::CHANNELS % LANES != 0 && tail) return load_first(x, S::CHANNELS % LANES);
  return load(x);
}

// What one row of taps and one order of lanes add to a tile. `seen(i)` is pixel i in that order.
template <class S, class T, class Seen> GRAPHOPT_INLINE void grouped_add(T& sums, const float* w, Seen seen) {
  using G = GroupedShape<S>;
  Vec weights[S::KERNEL_W];
  GRAPHOPT_UNROLL for (int k = 0; k < S::KERNEL_W; ++k) weights[k] = load(w + k * LANES);
  GRAPHOPT_UNROLL for (int i = 0; i < G::SEEN; ++i) {
    const Vec pixel = seen(i);
    GRAPHOPT_UNROLL for (int k = 0; k < S::KERNEL_W; ++k) {
      const int before = i - k * S::DILATION_W, column = before / S::STRIDE_W;
      if (before >= 0 && before % S::STRIDE_W == 0 && column < G::COLUMNS) sums.at[0][column] = fma(weights[k], pixel, sums.at[0][column]);
    }
  }
}

template <class S, class T> GRAPHOPT_INLINE void grouped_add_row(T& sums, const float* x, const float* w, bool tail) {
  grouped_add<S>(sums, w, [&](int i) { return grouped_load<S>(x + i * S::X.w, tail); });
  for (int r = 1; r < S::WIDTH; ++r) {
    const IntVec order = exchanged_lanes(r);
    grouped_add<S>(sums, w + r * S::KERNEL_W * LANES, [&](int i) { return in_eights(grouped_load<S>(x + i * S::X.w, tail), order); });
  }
}

template <class S, class Epilogue>
void grouped_convolution(const Worker& worker, const float* x, const float* w, const float* bias, float* y, Epilogue epilogue) {
  using G = GroupedShape<S>;
  // rows inside, so that a vector's weights stay in the first cache level
  const Range work = worker.split(static_cast<long>(S::IMAGES) * G::VECTORS * S::OUT_HEIGHT);
  for (long unit = work.begin; unit < work.end; ++unit) {
    const int row = static_cast<int>(unit % S::OUT_HEIGHT), vector = static_cast<int>(unit / S::OUT_HEIGHT % G::VECTORS);
    const int image = static_cast<int>(unit / S::OUT_HEIGHT / G::VECTORS), channel = vector * LANES;
    const bool tail = channel + LANES > S::CHANNELS;
    const float* from = x + image * S::X.n + vector * S::X.block + row * S::X_ROW;
    float* to = y + image * S::Y.n + vector * S::Y.block + row * S::Y.h;
    for (int tile = 0; tile < G::TILES_W; ++tile) {
      const int wanted = tile * G::COLUMNS, column = wanted + G::COLUMNS > S::OUT_WIDTH ? S::OUT_WIDTH - G::COLUMNS : wanted;
      Sums<1, 1, G::COLUMNS> sums;
      sums.start(bias + channel);
      for (int h = 0; h < S::KERNEL_H; ++h)
        grouped_add_row<S>(sums, from + column * S::STRIDE_W * S::X.w + h * S::X_TAP_H, w + vector * G::VECTOR_WEIGHTS + h * G::ROW_WEIGHTS, tail);
      for_each_sum<S::LONG_EPILOGUE>(sums, [&](int, int p, Vec sum) {
        if (column + p < wanted) return;
        store_channels<S::CHANNELS, S::Y_PADDED>(to + (column + p) * S::Y.w, epilogue(sum, image, channel, row, column + p), channel);
      });
    }
  }
}

}  // namespace graphopt
