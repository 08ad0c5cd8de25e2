// Zeroing the border of an image that has one in memory, before a kernel reads it as padding.
#pragma once

#include "runtime.hpp"

namespace graphopt {

// COLUMNS pixels side by side, WIDTH elements each, become zero.
template <int COLUMNS, int WIDTH, class T> GRAPHOPT_INLINE void zero_columns(T* p, long column) {
  if (column == WIDTH) {
    std::memset(p, 0, sizeof(T) * COLUMNS * WIDTH);
  } else {
    for (int w = 0; w < COLUMNS; ++w) std::memset(p + w * column, 0, sizeof(T) * WIDTH);
  }
}

// Images of H x W pixels lie in PLANES x GROUPS planes; a pixel is WIDTH elements side by side. The border is HALO_H rows
// above and below and HALO_W columns left and right; p is pixel (0, 0) of the first plane. Strides are in elements.
template <int PLANES, int GROUPS, int H, int W, int HALO_H, int HALO_W, int WIDTH, class T>
void zero_halo(const Worker& worker, T* p, long plane, long group, long row, long column) {
  constexpr int ROWS = H + 2 * HALO_H;
  const Range share = worker.split(static_cast<long>(PLANES) * GROUPS * ROWS);
  for (long k = share.begin; k < share.end; ++k) {
    const long h = k % ROWS - HALO_H, image = k / ROWS;
    T* left = p + image / GROUPS * plane + image % GROUPS * group + h * row - HALO_W * column;
    if (h < 0 || h >= H) {
      zero_columns<W + 2 * HALO_W, WIDTH>(left, column);
    } else if (HALO_W > 0) {
      zero_columns<HALO_W, WIDTH>(left, column);
      zero_columns<HALO_W, WIDTH>(left + (HALO_W + W) * column, column);
    }
  }
}

}  // namespace graphopt
