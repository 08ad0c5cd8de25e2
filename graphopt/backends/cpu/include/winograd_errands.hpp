// What a product of frequencies fetches on the side: the pixels that its results go to, and those of the next block.
//
// Transforms wait for memory, products hardly use it. So while a block and a panel are multiplied, the lines of y
// that the panel will be stored to, and a share of the next block's x, move to L2, one line per input channel.
#pragma once

#include "multiply.hpp"
#include "winograd_shape.hpp"

namespace graphopt {

// 16 lines, `step` floats apart: columns of an image.
struct WinogradLines {
  const float* first;
  long step;
};

template <class S> class WinogradErrands {
  using W = WinogradShape<S>;
  static constexpr int TILES = LANES / S::ORDER;                // whole tiles among 16 columns
  static constexpr int RUNS = ceil_div(S::BLOCK, TILES);        // of so many tiles in a block
  static constexpr int SHRINK = S::POOL ? 2 : 1;
  static constexpr int X_RUNS = RUNS * ceil_div(W::IN_GROUPS, W::PANELS);  // the share of a panel

 public:
  // Each register tile takes one of these per 16 input channels; without enough registers it has fewer than VECTORS.
  static constexpr int SLOTS = ceil_div(S::PANEL, S::VECTORS) * (S::VECTORS / tile_vectors(S::VECTORS)) * Pieces(S::BLOCK, tile_rows(tile_vectors(S::VECTORS))).count * W::IN_GROUPS;

  // `x` is null where there is no next block.
  WinogradErrands(const float* x, const float* y, int block, int panel) : x_(x), y_(y), block_(block), panel_(panel) {}

  // What to fetch during the product of a frequency.
  const WinogradLines* at(int frequency) {
    int count = 0;
    const int groups = panel_ == W::PANELS - 1 ? W::LAST_PANEL : S::PANEL;
    for (int i = share(frequency, RUNS * groups); i < share(frequency + 1, RUNS * groups); ++i) {
      const WinogradPlace<S> place(block_ * S::BLOCK + i % RUNS * TILES);
      const int h = place.h.out_start + place.row * S::ORDER * S::DILATION_H, w = place.w.out_start + place.column * S::ORDER * S::DILATION_W;
      const float* first = y_ + place.image * S::Y.n + (panel_ * S::PANEL + i / RUNS) * S::Y.block + h / SHRINK * S::Y.h + w / SHRINK * S::Y.w;
      for (int row = 0; row < S::ORDER / SHRINK; ++row) add(count, {first + row * S::DILATION_H * S::Y.h, S::DILATION_W * S::Y.w});
    }
    if (x_ != nullptr)
      for (int i = share(frequency, X_RUNS); i < share(frequency + 1, X_RUNS); ++i) {
        const WinogradPlace<S> place((block_ + 1) * S::BLOCK + i % RUNS * TILES);
        const int group = panel_ * (X_RUNS / RUNS) + i / RUNS;
        const int h = place.h.in_start + (place.row * S::ORDER + place.h.shift + 1) * S::DILATION_H;
        const int w = place.w.in_start + (place.column * S::ORDER + place.w.shift + 1) * S::DILATION_W;
        const float* first = x_ + place.image * S::X.n + group * S::X.block + h * S::X.h + w * S::X.w;
        for (int row = 0; row < S::ORDER; ++row) add(count, {first + row * S::DILATION_H * S::X.h, S::DILATION_W * S::X.w});
      }
    while (count < SLOTS) lines_[count++] = {y_, 0};
    return lines_;
  }

 private:
  static constexpr int share(int frequency, int total) { return total * frequency / W::FREQUENCIES; }
  void add(int& count, WinogradLines lines) {
    if (count < SLOTS) lines_[count++] = lines;
  }

  const float *x_, *y_;
  int block_, panel_;
  WinogradLines lines_[SLOTS];
};

}  // namespace graphopt
