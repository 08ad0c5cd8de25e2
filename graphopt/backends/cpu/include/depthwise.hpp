// Depthwise convolution: y[c, pixel] = bias[c] + sum over kh, kw of w[c, kh, kw] * x[c / MULTIPLIER, pixel at (kh, kw)].
//
//   S                             see depthwise_row.hpp
//   S::IMAGES, CHANNELS           of the result
//   S::MULTIPLIER                 result channels per input channel
//   S::X, Y                       Strides
//   S::X_PADDED, Y_PADDED         all 16 channels of the last group exist
//   S::BAND                       rows of results that are made before the next 16 channels: all where pixels of 16
//                                 channels lie together; few where channels do, as their neighbours share pages
//
// w is [c / 16][kh][kw][c % 16].
#pragma once

#include "depthwise_row.hpp"
#include "runtime.hpp"

namespace graphopt {

template <class S> struct DepthwiseShape {
  static constexpr int GROUPS = (S::CHANNELS + LANES - 1) / LANES;
  static constexpr int BANDS = (S::OUT_HEIGHT + S::BAND - 1) / S::BAND;
  static constexpr int WEIGHTS = S::KERNEL_H * S::KERNEL_W * LANES;  // of 16 channels
  static constexpr int LOADED = S::X_PADDED ? 0 : S::CHANNELS % LANES;
  static constexpr int STORED = S::Y_PADDED ? 0 : S::CHANNELS % LANES;
};

template <class S, class Epilogue>
void depthwise(const Worker& worker, const float* x, const float* w, const float* bias, float* y, Epilogue epilogue) {
  using D = DepthwiseShape<S>;
  const Range range = worker.split(1L * S::IMAGES * D::BANDS * D::GROUPS * S::BAND);
  for (long i = range.begin; i < range.end; ++i) {
    const int group = static_cast<int>(i / S::BAND % D::GROUPS), n = static_cast<int>(i / S::BAND / D::GROUPS / D::BANDS);
    const int h = static_cast<int>(i / S::BAND / D::GROUPS % D::BANDS * S::BAND + i % S::BAND);
    if (h >= S::OUT_HEIGHT) continue;
    const float* const top = x + n * S::X.n + group * S::X.block + rows_of<S>.start(h) * S::X.h;
    const auto row = [top](int k) __attribute__((always_inline)) { return top + k * S::DILATION_H * S::X.h; };
    float* const to = y + n * S::Y.n + group * S::Y.block + h * S::Y.h;
    const float *const weights = w + group * D::WEIGHTS, *const start = bias + group * LANES;
    if (D::LOADED + D::STORED > 0 && group == D::GROUPS - 1)
      depthwise_row<S, false, S::X.w, S::Y.w, D::LOADED, D::STORED>(row, weights, start, to, n, group * LANES, h, epilogue);
    else
      depthwise_row<S, false, S::X.w, S::Y.w, 0, 0>(row, weights, start, to, n, group * LANES, h, epilogue);
  }
}

// Several result channels per input channel: the inputs of 16 result channels are first gathered side by side, row
// by row into a ring that holds the last rows.
template <class S, class Epilogue>
void depthwise_multiplied(const Worker& worker, const float* x, const float* w, const float* bias, float* y, float* ring, Epilogue epilogue) {
  using D = DepthwiseShape<S>;
  constexpr Window rows = rows_of<S>;
  constexpr int ROW = S::IN_WIDTH * LANES;
  const Range range = worker.split(1L * S::IMAGES * D::GROUPS * D::BANDS);
  for (long i = range.begin; i < range.end; ++i) {
    const int begin = static_cast<int>(i % D::BANDS) * S::BAND, group = static_cast<int>(i / D::BANDS % D::GROUPS);
    const int n = static_cast<int>(i / D::BANDS / D::GROUPS), end = begin + S::BAND < S::OUT_HEIGHT ? begin + S::BAND : S::OUT_HEIGHT;
    int gathered = 0;  // rows before this one are in the ring, or not needed
    for (int h = begin; h < end; ++h) {
      const int top = rows.start(h);
      if (gathered < top) gathered = top;
      for (; gathered < top + rows.extent() && gathered < rows.in; ++gathered)
        for (int lane = 0; lane < LANES; ++lane) {
          const int channel = group * LANES + lane < S::CHANNELS ? (group * LANES + lane) / S::MULTIPLIER : 0;
          const float* from = x + n * S::X.n + channel / LANES * S::X.block + channel % LANES + gathered * S::X.h;
          float* to = ring + gathered % rows.extent() * ROW + lane;
          for (int column = 0; column < S::IN_WIDTH; ++column) to[column * LANES] = from[column * S::X.w];
        }
      const auto row = [=](int k) { return ring + (top + k * S::DILATION_H) % rows_of<S>.extent() * ROW; };
      float* const to = y + n * S::Y.n + group * S::Y.block + h * S::Y.h;
      const float *const weights = w + group * D::WEIGHTS, *const start = bias + group * LANES;
      if (D::STORED > 0 && group == D::GROUPS - 1)
        depthwise_row<S, false, LANES, S::Y.w, 0, D::STORED>(row, weights, start, to, n, group * LANES, h, epilogue);
      else
        depthwise_row<S, false, LANES, S::Y.w, 0, 0>(row, weights, start, to, n, group * LANES, h, epilogue);
    }
  }
}

}  // namespace graphopt
