// Depthwise convolution of one row: every channel has a filter of its own. Vectors run along channels.
//
// A tile is a stretch of columns; its sums stay in registers while the rows of the window pass by, and an input is
// loaded once for all taps of a row. Taps outside of the image are left out, those above and below at run time,
// those left and right at compile time: the input needs no halo.
//
//   S                             see window.hpp
//   S::TILE                       columns of a tile, for 32 registers
//   S::BUFFERED                   the epilogue is long: it runs as a loop over finished sums in memory
#pragma once

#include "window.hpp"

namespace graphopt {

// Columns of a tile on this machine: sums, the taps of one row and a few inputs have to fit in registers.
constexpr int depthwise_tile(int wanted) {
  const int most = REGISTERS >= 32 ? wanted : REGISTERS / 2;
  return wanted < most ? wanted : most;
}

// Adds taps of the rows [first, last) of the window to `sums`. `row(k)` points to column 0 of row k of the window,
// of which neighbours are STEP floats apart; `w` is [row][column][16].
//
// Few columns make few sums, whose additions would wait for each other: then CHAINS partial sums are kept of each.
template <class S, int COUNT, int PLACE, int STEP, int LOADED, int CHAINS, class Row>
GRAPHOPT_INLINE void depthwise_add(Row row, int column, int k, const float* w, Vec (&sums)[CHAINS][COUNT]) {
  constexpr Window columns = columns_of<S>;
  constexpr int TAPS = columns.kernel < 7 ? columns.kernel : 7;  // of a row that are in registers at a time
  const float* const x = row(k) + (PLACE == INSIDE ? columns.start(column) * STEP : 0);
  const float* const taps = w + k * (columns.kernel * LANES);
  GRAPHOPT_UNROLL for (int begin = 0; begin < columns.kernel; begin += TAPS) {
    Vec tap[TAPS];
    GRAPHOPT_UNROLL for (int i = 0; i < TAPS; ++i)
      if (begin + i < columns.kernel) tap[i] = load(taps + (begin + i) * LANES);
    GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) {
      GRAPHOPT_UNROLL for (int i = 0; i < TAPS; ++i) {
        const int at = (PLACE == INSIDE ? t * columns.stride : columns.start(PLACE + t)) + (begin + i) * columns.dilation;
        if (begin + i < columns.kernel && (PLACE == INSIDE || (at >= 0 && at < columns.in)))
          sums[i % CHAINS][t] = fma(load_group<LOADED>(x + at * STEP), tap[i], sums[i % CHAINS][t]);
      }
    }
    // else inputs would be kept for the next taps, and spill
    if (columns.kernel > TAPS) __asm__ volatile("" ::: "memory");
  }
}

template <class S, bool WHOLE, int STEP, int Y_STEP, int LOADED, int STORED, class Row, class Epilogue>
GRAPHOPT_INLINE Vec depthwise_columns(Row row, int first, int last, const float* w, const float* bias, float* y, int n, int channel, int h, const Epilogue& epilogue) {
  Vec total = zero();
  column_tiles<S, depthwise_tile(S::TILE)>([&](auto count, auto place, int column) __attribute__((always_inline)) {
    constexpr int COUNT = decltype(count)::value, PLACE = decltype(place)::value;
    constexpr int CHAINS = COUNT <= 8 && REGISTERS >= 32 && S::KERNEL_W >= 3 ? 2 : 1;
    Vec sums[CHAINS][COUNT];
    const Vec start = load(bias);
    GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) sums[0][t] = start;
    if constexpr (CHAINS == 2) {
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) sums[1][t] = zero();
    }
    if constexpr (WHOLE) {
      GRAPHOPT_UNROLL for (int k = 0; k < S::KERNEL_H; ++k) depthwise_add<S, COUNT, PLACE, STEP, LOADED>(row, column, k, w, sums);
    } else {
      for (int k = first; k < last; ++k) depthwise_add<S, COUNT, PLACE, STEP, LOADED>(row, column, k, w, sums);
    }
    if constexpr (CHAINS == 2) {
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) sums[0][t] += sums[1][t];
    }
    const auto finish = [&](Vec sum, int t) __attribute__((always_inline)) {
      const Vec value = epilogue(sum, n, channel, h, column + t);
      store_group<STORED>(y + (column + t) * Y_STEP, value);
      total += value;
    };
    if constexpr (S::BUFFERED) {
      alignas(64) float buffer[COUNT * LANES];
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) store(buffer + t * LANES, sums[0][t]);
      for (int t = 0; t < COUNT; ++t) finish(load(buffer + t * LANES), t);
    } else {
      GRAPHOPT_UNROLL for (int t = 0; t < COUNT; ++t) finish(sums[0][t], t);
    }
  });
  return total;
}

// True for windows whose taps are all written out: those of few rows.
template <class S> constexpr bool is_small_window = S::KERNEL_H * S::KERNEL_W <= 9;

// Row h of 16 channels of the result, whose columns are Y_STEP floats apart; returns the sum of what it stored.
// LOADED (STORED) counts the lanes of the input (result) where fewer than 16 exist, else it is 0. If EXTENDED, there
// are zeros for rows outside of the image where the window is small.
template <class S, bool EXTENDED, int STEP, int Y_STEP, int LOADED, int STORED, class Row, class Epilogue>
GRAPHOPT_INLINE Vec depthwise_row(Row row, const float* w, const float* bias, float* y, int n, int channel, int h, const Epilogue& epilogue) {
  constexpr Window rows = rows_of<S>;
  const int first = rows.first(h), last = rows.last(h);
  if constexpr (is_small_window<S>)
    if (EXTENDED || (first == 0 && last == S::KERNEL_H))
      return depthwise_columns<S, true, STEP, Y_STEP, LOADED, STORED>(row, 0, S::KERNEL_H, w, bias, y, n, channel, h, epilogue);
  return depthwise_columns<S, false, STEP, Y_STEP, LOADED, STORED>(row, first, last, w, bias, y, n, channel, h, epilogue);
}

}  // namespace graphopt
