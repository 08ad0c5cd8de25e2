// How a Winograd convolution is cut into tiles, blocks and panels; everything known at compile time.
//
//   S::ORDER                      m: a tile makes m x m outputs of (m + 2) x (m + 2) inputs
//   S::IMAGES, IN_CHANNELS, IN_HEIGHT, IN_WIDTH, OUT_CHANNELS, OUT_HEIGHT, OUT_WIDTH
//   S::PADDING_H, PADDING_W, DILATION_H, DILATION_W       stride 1, kernel 3 x 3
//   S::X, S::Y                    Strides;  S::X_PADDED, S::Y_PADDED: all 16 channels of the last group exist
//   S::BLOCK                      tiles that go through all phases together
//   S::PANEL                      groups of 16 output channels that a block makes at once
//   S::VECTORS                    groups of 16 output channels of a register tile; PANEL is a multiple
//   S::POOL                       y is max_pool2d(result, 2, 2): h and w of Y count pooled pixels
//   S::LONG_EPILOGUE              the epilogue is too long to be repeated in the code for every output of a tile
//
// A convolution with dilation d is d convolutions without, of every d-th row: a *phase*. Phases are cut into
// tiles like images of their own.
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"

namespace graphopt {

// Distance of two frequencies in floats: an odd number of cache lines, so that they spread over all cache sets.
constexpr long winograd_distance(long floats) { return (floats / LANES | 1) * LANES; }

template <class S> struct WinogradShape {
  static constexpr int ORDER = S::ORDER;
  static constexpr int POINTS = ORDER + 2;
  static constexpr int FREQUENCIES = POINTS * POINTS;

  static constexpr int PHASES = S::DILATION_H * S::DILATION_W;
  static constexpr int TILES_H = ceil_div(ceil_div(S::OUT_HEIGHT, S::DILATION_H), ORDER);
  static constexpr int TILES_W = ceil_div(ceil_div(S::OUT_WIDTH, S::DILATION_W), ORDER);
  static constexpr int TILES = S::IMAGES * PHASES * TILES_H * TILES_W;
  static constexpr int BLOCKS = ceil_div(TILES, S::BLOCK);

  static constexpr int IN_GROUPS = ceil_div(S::IN_CHANNELS, LANES);
  static constexpr int OUT_GROUPS = ceil_div(S::OUT_CHANNELS, LANES);
  static constexpr int PANELS = ceil_div(OUT_GROUPS, S::PANEL);
  static constexpr int LAST_PANEL = OUT_GROUPS - (PANELS - 1) * S::PANEL;

  // V of a block: [frequency][input group][tile][16]
  static constexpr long V_GROUP = S::BLOCK * LANES;
  static constexpr long V_FREQUENCY = winograd_distance(IN_GROUPS * V_GROUP);
  static constexpr long V_BLOCK = FREQUENCIES * V_FREQUENCY;
  // U: [panel][frequency][VECTORS output groups][input channel][output channel of these groups]
  static constexpr long U_PANEL = static_cast<long>(FREQUENCIES) * S::IN_CHANNELS * S::PANEL * LANES;
  // M of a block and a panel: [frequency][tile][output channel of the panel]
  static constexpr long M_TILE = S::PANEL * LANES;
  static constexpr long M_FREQUENCY = winograd_distance(S::BLOCK * M_TILE);
  static constexpr long M_BLOCK = FREQUENCIES * M_FREQUENCY;
};

// One axis of a phase: element i of the phase is element start + i * dilation of the image.
struct WinogradAxis {
  int out_start, out_size;
  int in_start, in_size;
  int shift;  // output i reads inputs i + shift to i + shift + 2

  constexpr WinogradAxis(int phase, int in, int out, int padding, int dilation)
      : out_start(phase),
        out_size(ceil_div(out - phase, dilation)),
        in_start(((phase - padding) % dilation + dilation) % dilation),
        in_size(in_start < in ? ceil_div(in - in_start, dilation) : 0),
        shift((phase - padding - in_start) / dilation) {}
};

// A tile's place: image, phase, and tile row and column in it.
template <class S> struct WinogradPlace {
  using W = WinogradShape<S>;
  int image, row, column;
  WinogradAxis h, w;

  explicit constexpr WinogradPlace(int tile) : WinogradPlace(tile / (W::TILES_H * W::TILES_W), tile % (W::TILES_H * W::TILES_W)) {}

 private:
  constexpr WinogradPlace(int phase, int tile)
      : image(phase / W::PHASES),
        row(tile / W::TILES_W),
        column(tile % W::TILES_W),
        h(phase % W::PHASES / S::DILATION_W, S::IN_HEIGHT, S::OUT_HEIGHT, S::PADDING_H, S::DILATION_H),
        w(phase % S::DILATION_W, S::IN_WIDTH, S::OUT_WIDTH, S::PADDING_W, S::DILATION_W) {}
};

}  // namespace graphopt
