// Interpolation of images: a result is a sum over TAPS neighbours along each axis, at positions and with weights that
// are tables made when the network was lowered.
//
// S: N, C, H, W of the result; X and Y strides; TAPS. Tables: for each row, TAPS rows of x in elements from the
// first row, then TAPS weights; columns likewise.
#pragma once

#include "epilogue.hpp"
#include "runtime.hpp"

namespace graphopt {

// One axis of the result.
template <int TAPS> struct Taps {
  const int32_t* offsets;  // [size][TAPS]
  const float* weights;    // [size][TAPS]
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

// Planes of any strides: S has PLANES x DEPTH x H x W results, strides X_PLANE, X_* are in the tables; Y_PLANE, Y_D, Y_H, Y_W.
// An axis that is not resized has one tap.
template <class S, class T>
void resize_planes(const Worker& worker, T* y, const T* x, Taps<S::TAPS_D> depths, Taps<S::TAPS> rows, Taps<S::TAPS> columns) {
  const Range share = worker.split(static_cast<long>(S::N) * S::C * S::D * S::H);
  for (long k = share.begin; k < share.end; ++k) {
    const long h = k % S::H, d = k / S::H % S::D, c = k / S::H / S::D % S::C, n = k / S::H / S::D / S::C;
    const T* from = x + n * S::X_N + c * S::X_C;
    T* to = y + n * S::Y_N + c * S::Y_C + d * S::Y_D + h * S::Y_H;
    for (long w = 0; w < S::W; ++w) {
      if constexpr (S::TAPS == 1 && S::TAPS_D == 1) {
        to[w * S::Y_W] = from[depths.offsets[d] + rows.offsets[h] + columns.offsets[w]];
      } else {
        T sum = 0;
        for (int e = 0; e < S::TAPS_D; ++e) {
          T plane = 0;
          for (int i = 0; i < S::TAPS; ++i) {
            const T* row = from + depths.offsets[d * S::TAPS_D + e] + rows.offsets[h * S::TAPS + i];
            T along = 0;
            for (int j = 0; j < S::TAPS; ++j) along += columns.weights[w * S::TAPS + j] * row[columns.offsets[w * S::TAPS + j]];
            plane += rows.weights[h * S::TAPS + i] * along;
          }
          sum += depths.weights[d * S::TAPS_D + e] * plane;
        }
        to[w * S::Y_W] = sum;
      }
    }
  }
}

}  // namespace graphopt
