// Pools: the largest or the mean of a window of pixels, per channel. Vectors run along channels.
//
//   S                             see window.hpp
//   S::IMAGES, CHANNELS
//   S::MAXIMUM                    the largest, NaN where one is NaN; else the mean
//   S::COUNTS_PADDING             padding counts as zeros of the mean
//   S::DIVISOR                    of the mean's sum, where not 0
//   S::X, Y                       Strides
//   S::X_PADDED, Y_PADDED         all 16 channels of the last group exist
//   S::TILE                       columns of a tile, for 32 registers
//   S::BAND                       rows of results that are made before the next 16 channels
//   S::BUFFERED                   the epilogue is long: it runs as a loop over finished results in memory
//
// Windows are clipped to the image, rows at run time and columns at compile time: the input needs no halo.
#pragma once

#include "runtime.hpp"
#include "window.hpp"

namespace graphopt {

template <class S> struct PoolShape {
  static constexpr int GROUPS = (S::CHANNELS + LANES - 1) / LANES;
  static constexpr int BANDS = (S::OUT_HEIGHT + S::BAND - 1) / S::BAND;
  static constexpr int LOADED = S::X_PADDED ? 0 : S::CHANNELS % LANES;
  static constexpr int STORED = S::Y_PADDED ? 0 : S::CHANNELS % LANES;
  static constexpr int TILE = REGISTERS >= 32 ? S::TILE : S::TILE < REGISTERS / 2 ? S::TILE : REGISTERS / 2;

  // What a mean counts along one axis for result o.
  static constexpr int counted(Window window, int o) {
    const int end = window.start(o) + window.kernel, last = window.in + window.padding;
    return S::COUNTS_PADDING ? (end < last ? end : last) - window.start(o) : window.last(o) - window.first(o);
  }
};

template <bool MAXIMUM> GRAPHOPT_INLINE Vec pool_start() { return MAXIMUM ? splat(-__builtin_inff()) : zero(); }
template <bool MAXIMUM> GRAPHOPT_INLINE Vec pool_add(Vec sum, Vec x) {
  if constexpr (MAXIMUM) return maximum(sum, x);
  else return sum + x;
}

// sum / count; a power of two divides without rounding, so that it may as well be a product.
GRAPHOPT_INLINE Vec pool_mean(Vec sum, int count) {
  return (count & (count - 1)) == 0 ? sum * splat(1.0f / static_cast<float>(count)) : sum / splat(static_cast<float>(count));
}

// Row h of 16 channels. x points to column 0 of the window's row 0.
template <class S, int LOADED, int STORED, class Epilogue>
GRAPHOPT_INLINE void pool_row(const float* x, float* y, int n, int channel, int h, const Epilogue& epilogue) {
  constexpr Window rows = rows_of<S>;
  using P = PoolShape<S>;
  const int first = rows.first(h), last = rows.last(h), counted_rows = P::counted(rows, h);
  column_tiles<S, P::TILE>([&](auto count, auto place, int column) __attribute__((always_inline)) {
    constexpr int COUNT = decltype(count)::value, PLACE = decltype(place)::value;
    constexpr Window columns = columns_of<S>;  // its own: gcc 12 fails on a captured one
    Vec found[COUNT];
    GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) found[t] = pool_start<S::MAXIMUM>();
    for (int k = first; k < last; ++k) {
      const float* const row = x + k * (S::DILATION_H * S::X.h) + (PLACE == INSIDE ? columns.start(column) * S::X.w : 0);
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) {
        GRAPHOPT_UNROLL for (int i = 0; i < columns.kernel; ++i) {
          const int at = (PLACE == INSIDE ? t * columns.stride : columns.start(PLACE + t)) + i * columns.dilation;
          if (PLACE == INSIDE || (at >= 0 && at < columns.in)) found[t] = pool_add<S::MAXIMUM>(found[t], load_group<LOADED>(row + at * S::X.w));
        }
      }
    }
    const auto finish = [&](Vec value, int t) __attribute__((always_inline)) {
      store_group<STORED>(y + (column + t) * S::Y.w, epilogue(value, n, channel, h, column + t));
    };
    if constexpr (!S::MAXIMUM) {
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) {
        const int counted = S::DIVISOR != 0 ? S::DIVISOR : counted_rows * (PLACE == INSIDE ? S::KERNEL_W : P::counted(columns, PLACE + t));
        found[t] = pool_mean(found[t], counted);
      }
    }
    if constexpr (S::BUFFERED) {
      alignas(64) float buffer[COUNT * LANES];
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) store(buffer + t * LANES, found[t]);
      for (int t = 0; t < COUNT; ++t) finish(load(buffer + t * LANES), t);
    } else {
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) finish(found[t], t);
    }
  });
}

template <class S, class Epilogue> void window_pool(const Worker& worker, const float* x, float* y, Epilogue epilogue) {
  using P = PoolShape<S>;
  const Range range = worker.split(1L * S::IMAGES * P::BANDS * P::GROUPS * S::BAND);
  for (long i = range.begin; i < range.end; ++i) {
    const int group = static_cast<int>(i / S::BAND % P::GROUPS), n = static_cast<int>(i / S::BAND / P::GROUPS / P::BANDS);
    const int h = static_cast<int>(i / S::BAND / P::GROUPS % P::BANDS * S::BAND + i % S::BAND);
    if (h >= S::OUT_HEIGHT) continue;
    const float* const from = x + n * S::X.n + group * S::X.block + rows_of<S>.start(h) * S::X.h;
    float* const to = y + n * S::Y.n + group * S::Y.block + h * S::Y.h;
    if (P::LOADED + P::STORED > 0 && group == P::GROUPS - 1) pool_row<S, P::LOADED, P::STORED>(from, to, n, group * LANES, h, epilogue);
    else pool_row<S, 0, 0>(from, to, n, group * LANES, h, epilogue);
  }
}

// Windows that cut the image into OUT_HEIGHT x OUT_WIDTH pieces: result o has elements o * in / out, rounded down, to
// (o + 1) * in / out, rounded up.
template <class S, class Epilogue> void adaptive_pool(const Worker& worker, const float* x, float* y, Epilogue epilogue) {
  using P = PoolShape<S>;
  const Range range = worker.split(1L * S::IMAGES * P::GROUPS * S::OUT_HEIGHT * S::OUT_WIDTH);
  for (long i = range.begin; i < range.end; ++i) {
    const int w = static_cast<int>(i % S::OUT_WIDTH), h = static_cast<int>(i / S::OUT_WIDTH % S::OUT_HEIGHT);
    const int group = static_cast<int>(i / S::OUT_WIDTH / S::OUT_HEIGHT % P::GROUPS);
    const int n = static_cast<int>(i / S::OUT_WIDTH / S::OUT_HEIGHT / P::GROUPS);
    const int top = h * S::IN_HEIGHT / S::OUT_HEIGHT, bottom = ((h + 1) * S::IN_HEIGHT + S::OUT_HEIGHT - 1) / S::OUT_HEIGHT;
    const int left = w * S::IN_WIDTH / S::OUT_WIDTH, right = ((w + 1) * S::IN_WIDTH + S::OUT_WIDTH - 1) / S::OUT_WIDTH;
    const float* const image = x + n * S::X.n + group * S::X.block;
    float* const to = y + n * S::Y.n + group * S::Y.block + h * S::Y.h + w * S::Y.w;
    const auto piece = [&](auto loaded, auto stored) __attribute__((always_inline)) {
      Vec found = pool_start<S::MAXIMUM>();
      for (int r = top; r < bottom; ++r)
        for (int c = left; c < right; ++c) found = pool_add<S::MAXIMUM>(found, load_group<decltype(loaded)::value>(image + r * S::X.h + c * S::X.w));
      if constexpr (!S::MAXIMUM) found = pool_mean(found, (bottom - top) * (right - left));
      store_group<decltype(stored)::value>(to, epilogue(found, n, group * LANES, h, w));
    };
    using None = std::integral_constant<int, 0>;
    if (P::LOADED + P::STORED > 0 && group == P::GROUPS - 1) piece(std::integral_constant<int, P::LOADED>{}, std::integral_constant<int, P::STORED>{});
    else piece(None{}, None{});
  }
}

}  // namespace graphopt
