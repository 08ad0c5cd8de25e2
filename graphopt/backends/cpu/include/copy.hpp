// Copies from one layout to another. S describes the outer loops (loops.hpp); storage 0 is y, storage 1 is x.
#pragma once

#include "loops.hpp"
#include "transpose.hpp"

namespace graphopt {

// LENGTH elements that lie side by side in both.
template <class S, class T> void copy_runs(const Worker& worker, T* y, const T* x) {
  constexpr long BYTES = sizeof(T) * S::LENGTH;
  for_each_position<S>(worker, 2 + BYTES / 32, [=](const long* at) {
    const T* from = x + at[1];
    T* to = y + at[0];
    if constexpr (BYTES <= 128) {
      std::memcpy(to, from, BYTES);  // becomes a few moves
    } else if constexpr (sizeof(T) == 4 && BYTES <= 4096) {
      const float* source = reinterpret_cast<const float*>(from);
      float* target = reinterpret_cast<float*>(to);
      long i = 0;
      for (; i + LANES <= S::LENGTH; i += LANES) store(target + i, load(source + i));
      if constexpr (S::LENGTH % LANES != 0) store_first(target + i, load_first(source + i, S::LENGTH % LANES), S::LENGTH % LANES);
    } else {
      std::memcpy(to, from, BYTES);
    }
  });
}

// Any strides: LENGTH elements, STEPS[0] apart in y and STEPS[1] in x.
template <class S, class T> void copy_elements(const Worker& worker, T* y, const T* x) {
  for_each_position<S>(worker, 2 + S::LENGTH, [=](const long* at) {
    const T* from = x + at[1];
    T* to = y + at[0];
    for (long i = 0; i < S::LENGTH; ++i) to[i * S::STEPS[0]] = from[i * S::STEPS[1]];
  });
}

// Planes that are turned: x[r][c] is at r * X_ROW + c, y[c][r] at c * Y_ROW + r, for ROWS <= 16 and COLUMNS.
template <class S> void copy_transposed(const Worker& worker, float* y, const float* x) {
  constexpr int ROWS = S::ROWS, COLUMNS = S::COLUMNS, WHOLE = COLUMNS / LANES * LANES;
  for_each_position<S>(worker, 2 + COLUMNS * 2, [=](const long* at) {
    const float* from = x + at[1];
    float* to = y + at[0];
    Vec tile[LANES];
    GRAPHOPT_UNROLL
    for (int r = 0; r < LANES; ++r) tile[r] = zero();
    for (int c = 0; c < WHOLE; c += LANES) {
      GRAPHOPT_UNROLL
      for (int r = 0; r < ROWS; ++r) tile[r] = load(from + r * S::X_ROW + c);
      GRAPHOPT_UNROLL
      for (int r = ROWS; r < LANES; ++r) tile[r] = zero();
      transpose16(tile);
      GRAPHOPT_UNROLL
      for (int i = 0; i < LANES; ++i) {
        if constexpr (ROWS == LANES) store(to + (c + i) * S::Y_ROW, tile[i]);
        else store_first(to + (c + i) * S::Y_ROW, tile[i], ROWS);
      }
    }
    if constexpr (WHOLE < COLUMNS) {
      GRAPHOPT_UNROLL
      for (int r = 0; r < LANES; ++r) tile[r] = r < ROWS ? load_first(from + r * S::X_ROW + WHOLE, COLUMNS - WHOLE) : zero();
      transpose16(tile);
      GRAPHOPT_UNROLL
      for (int i = 0; i < COLUMNS - WHOLE; ++i) {
        if constexpr (ROWS == LANES) store(to + (WHOLE + i) * S::Y_ROW, tile[i]);
        else store_first(to + (WHOLE + i) * S::Y_ROW, tile[i], ROWS);
      }
    }
  });
}

// Runs that take turns: y[i * WAYS + k] = x[k * X_WAY + i] for LENGTH i, y side by side.
template <class S, class T> void copy_interleaved(const Worker& worker, T* y, const T* x) {
  for_each_position<S>(worker, 2 + S::LENGTH * S::WAYS / 2, [=](const long* at) {
    const T* from = x + at[1];
    T* to = y + at[0];
    long i = 0;
    if constexpr (S::WAYS == 2 && sizeof(T) == 4) {
      const float* source = reinterpret_cast<const float*>(from);
      float* target = reinterpret_cast<float*>(to);
      for (; i + LANES <= S::LENGTH; i += LANES) {
        const Vec even = load(source + i), odd = load(source + S::X_WAY + i);
        store(target + 2 * i, interleaved<0>(even, odd));
        store(target + 2 * i + LANES, interleaved<1>(even, odd));
      }
    }
    for (; i < S::LENGTH; ++i)
      for (int k = 0; k < S::WAYS; ++k) to[i * S::WAYS + k] = from[k * S::X_WAY + i];
  });
}

// LENGTH elements STEP apart become `value`.
template <class S, class T> void fill(const Worker& worker, T* y, T value) {
  for_each_position<S>(worker, 2 + S::LENGTH * static_cast<long>(sizeof(T)) / 32, [=](const long* at) {
    T* to = y + at[0];
    for (long i = 0; i < S::LENGTH; ++i) to[i * S::STEP] = value;
  });
}

}  // namespace graphopt
