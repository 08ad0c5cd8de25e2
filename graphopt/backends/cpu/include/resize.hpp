// Interpolation of images: a result is a sum over TAPS neighbours along each axis, at positions and with weights that
// are tables made when the network was lowered.
//
// S: N, C, H, W of the result, strides, TAPS. Tables: for each row of the result, TAPS offsets of rows of x and their
// weights; columns likewise, for planes of all columns the first tap, then the second, in elements of a row.
#pragma once

#include <type_traits>

#include "elementwise.hpp"
#include "runtime.hpp"

namespace graphopt {

// One axis of the result.
template <int TAPS> struct Taps {
  const int32_t* offsets;
  const float* weights;
};

// Lanes are 16 channels of a pixel (frame.py); the last group may be short.
template <class S, class Epilogue>
void resize_channels(const Worker& worker, float* y, const float* x, Taps<S::TAPS> rows, Taps<S::TAPS> columns, Epilogue epilogue) {
  constexpr int GROUPS = (S::C + LANES - 1) / LANES, TAPS = S::TAPS, LAST = S::C % LANES == 0 ? LANES : S::C % LANES;
  const Range share = worker.split(static_cast<long>(S::N) * GROUPS * S::H);
  for (long k = share.begin; k < share.end; ++k) {
    const int h = static_cast<int>(k % S::H), group = static_cast<int>(k / S::H % GROUPS), n = static_cast<int>(k / S::H / GROUPS);
    const int count = group == GROUPS - 1 ? LAST : LANES;
    const float* from = x + n * S::X.n + group * S::X.block;
    float* to = y + n * S::Y.n + group * S::Y.block + h * S::Y.h;
    const int32_t* row = rows.offsets + h * TAPS;
    const float* weight = rows.weights + h * TAPS;
    for (int w = 0; w < S::W; ++w) {
      Vec sum = zero();
      GRAPHOPT_UNROLL
      for (int i = 0; i < TAPS; ++i) {
        Vec along = zero();
        GRAPHOPT_UNROLL
        for (int j = 0; j < TAPS; ++j) {
          const float* p = from + row[i] + columns.offsets[w * TAPS + j];
          const Vec v = S::WHOLE || count == LANES ? load(p) : load_first(p, count);
          if constexpr (TAPS == 1) along = v;
          else along = fma(splat(columns.weights[w * TAPS + j]), v, along);
        }
        if constexpr (TAPS == 1) sum = along;
        else sum = fma(splat(weight[i]), along, sum);
      }
      sum = epilogue(sum, n, group * LANES, h, w);
      if (S::WHOLE || count == LANES) store(to + w * S::Y.w, sum);
      else store_first(to + w * S::Y.w, sum, count);
    }
  }
}

// mixed = weight * row, or += where it is not the first. `mixed` has room for whole vectors.
template <class S, class T> GRAPHOPT_INLINE void mix_row(T* mixed, const T* row, T weight, bool first) {
  if constexpr (std::is_same_v<T, float> && S::X_W == 1) {
    for (int w = 0; w < S::IN_W; w += LANES) {
      const Vec v = w + LANES <= S::IN_W ? load(row + w) : load_first(row + w, S::IN_W - w);
      store(mixed + w, fma(splat(weight), v, first ? zero() : load(mixed + w)));
    }
  } else {
    for (long w = 0; w < S::IN_W; ++w) mixed[w] = weight * row[w * S::X_W] + (first ? T(0) : mixed[w]);
  }
}

// Planes of any strides and dtype, N x C x D x H x W results; an axis that is not there has one tap. What columns mix is
// a row that was mixed of rows before, in scratch.
template <class S, class T>
void resize_planes(const Worker& worker, T* y, const T* x, Taps<S::TAPS_D> depths, Taps<S::TAPS_H> rows, Taps<S::TAPS_W> columns) {
  const Range share = worker.split(static_cast<long>(S::N) * S::C * S::D * S::H);
  for (long k = share.begin; k < share.end; ++k) {
    const long h = k % S::H, d = k / S::H % S::D, c = k / S::H / S::D % S::C, n = k / S::H / S::D / S::C;
    const T* from = x + n * S::X_N + c * S::X_C;
    T* to = y + n * S::Y_N + c * S::Y_C + d * S::Y_D + h * S::Y_H;
    if constexpr (S::TAPS_W == 1) {
      const T* row = from + depths.offsets[d] + rows.offsets[h];
      for (long w = 0; w < S::W; ++w) to[w * S::Y_W] = row[columns.offsets[w] * S::X_W];
    } else {
      T* mixed = reinterpret_cast<T*>(worker.scratch);
      for (int e = 0; e < S::TAPS_D; ++e)
        for (int i = 0; i < S::TAPS_H; ++i) {
          const T* row = from + depths.offsets[d * S::TAPS_D + e] + rows.offsets[h * S::TAPS_H + i];
          const T weight = static_cast<T>(depths.weights[d * S::TAPS_D + e] * rows.weights[h * S::TAPS_H + i]);
          mix_row<S>(mixed, row, weight, e == 0 && i == 0);
        }
      long w = 0;
      if constexpr (std::is_same_v<T, float>) {
        for (; w + LANES <= S::W; w += LANES) {
          Vec sum = zero();
          GRAPHOPT_UNROLL
          for (int j = 0; j < S::TAPS_W; ++j) sum = fma(load(columns.weights + j * S::W + w), load_at(mixed, columns.offsets + j * S::W + w), sum);
          store_lanes<S::Y_W, LANES>(to + w * S::Y_W, sum);
        }
      }
      for (; w < S::W; ++w) {
        T sum = 0;
        for (int j = 0; j < S::TAPS_W; ++j) sum += static_cast<T>(columns.weights[j * S::W + w]) * mixed[columns.offsets[j * S::W + w]];
        to[w * S::Y_W] = sum;
      }
    }
  }
}

}  // namespace graphopt
