// Tiles of the image to frequencies and back, 16 channels at a time.
#pragma once

#include "epilogue.hpp"
#include "winograd_shape.hpp"
#include "winograd_transforms.hpp"

namespace graphopt {

// ---- input: V = B^T d B ----------------------------------------------------------------------------------------

// Tiles side by side share columns: a strip of them is transformed along h once per column, into a buffer that
// stays in L1, and then along w once per tile.
template <class S> struct WinogradStrip {
  static constexpr int POINTS = S::ORDER + 2;
  static constexpr int TILES = (88 / POINTS - 2) / S::ORDER;  // longer strips push the image's rows out of L1
  static constexpr int COLUMNS = TILES * S::ORDER + 2;
  static constexpr int SIZE = COLUMNS * POINTS * LANES;
};

// Columns [begin, end) of a strip along h. x is the pixel of row 0 and column 0 of the strip, of which rows
// [first, last) exist; CAREFUL where not all rows or not all `lanes` do.
template <class S, bool CAREFUL>
void winograd_columns(const float* x, float* strip, int begin, int end, int first, int last, int lanes) {
  constexpr int POINTS = S::ORDER + 2;
  constexpr long ROW = S::X.h * S::DILATION_H, COLUMN = S::X.w * S::DILATION_W;
  for (int column = begin; column < end; ++column) {
    const float* from = x + column * COLUMN;
    Vec d[POINTS], v[POINTS];
    GRAPHOPT_UNROLL for (int i = 0; i < POINTS; ++i) {
      if constexpr (!CAREFUL) d[i] = load(from + i * ROW);
      else if (i < first || i >= last) d[i] = zero();
      else d[i] = lanes == LANES ? load(from + i * ROW) : load_first(from + i * ROW, lanes);
    }
    winograd_input<S::ORDER>(d, v);
    GRAPHOPT_UNROLL for (int i = 0; i < POINTS; ++i) store(strip + (column * POINTS + i) * LANES, v[i]);
  }
}

// `tiles` tiles of a strip along w. v is frequency 0 of the first tile.
template <class S> void winograd_rows(const float* strip, float* v, int tiles) {
  constexpr int POINTS = S::ORDER + 2;
  for (int row = 0; row < POINTS; ++row)
    for (int tile = 0; tile < tiles; ++tile) {
      Vec d[POINTS], w[POINTS];
      GRAPHOPT_UNROLL for (int i = 0; i < POINTS; ++i) d[i] = load(strip + ((tile * S::ORDER + i) * POINTS + row) * LANES);
      winograd_input<S::ORDER>(d, w);
      GRAPHOPT_UNROLL for (int i = 0; i < POINTS; ++i) store(v + (row * POINTS + i) * WinogradShape<S>::V_FREQUENCY + tile * LANES, w[i]);
    }
}

// Tiles [begin, end) of a block, input groups [first_group, last_group). They may lie in several rows and images.
template <class S> void winograd_transform(const float* x, float* v, int block, int begin, int end, int first_group, int last_group) {
  using W = WinogradShape<S>;
  alignas(64) float strip[WinogradStrip<S>::SIZE];
  int tile = block * S::BLOCK + begin;
  const int stop = block * S::BLOCK + end < W::TILES ? block * S::BLOCK + end : W::TILES;
  float* to = v + begin * LANES;
  while (tile < stop) {
    const WinogradPlace<S> place(tile);
    int tiles = W::TILES_W - place.column;
    if (tiles > WinogradStrip<S>::TILES) tiles = WinogradStrip<S>::TILES;
    if (tiles > stop - tile) tiles = stop - tile;
    const int columns = tiles * S::ORDER + 2;
    // the strip's corner in the phase's input, and what of the strip exists
    const int h = place.row * S::ORDER + place.h.shift, w = place.column * S::ORDER + place.w.shift;
    const int first = h < 0 ? -h : 0, last = place.h.in_size - h;
    int left = w < 0 ? -w : 0, right = place.w.in_size - w;
    if (left > columns) left = columns;
    if (right > columns) right = columns;
    if (right < left) right = left;
    for (int i = 0; i < left * W::POINTS; ++i) store(strip + i * LANES, zero());
    for (int i = right * W::POINTS; i < columns * W::POINTS; ++i) store(strip + i * LANES, zero());
    const bool inside = first == 0 && last >= W::POINTS;
    const float* corner = x + place.image * S::X.n + (place.h.in_start + h * S::DILATION_H) * S::X.h + (place.w.in_start + w * S::DILATION_W) * S::X.w;
    for (int group = first_group; group < last_group; ++group) {
      constexpr int TAIL = S::X_PADDED ? 0 : S::IN_CHANNELS % LANES;
      const int lanes = TAIL != 0 && group == W::IN_GROUPS - 1 ? TAIL : LANES;
      const float* from = corner + group * S::X.block;
      if (inside && lanes == LANES) winograd_columns<S, false>(from, strip, left, right, 0, W::POINTS, LANES);
      else winograd_columns<S, true>(from, strip, left, right, first, last, lanes);
      winograd_rows<S>(strip, to + group * W::V_GROUP, tiles);
    }
    tile += tiles;
    to += tiles * LANES;
  }
}

// ---- output: y = A^T M A ---------------------------------------------------------------------------------------

// Where a tile is: the image, its first output channel and pixel, and how many rows and columns of it exist.
struct WinogradTile {
  int image, channel, h, w;
  int rows, columns;
};

// One tile, 16 output channels. m is frequency 0, y is output (0, 0) of the tile or of its pooled self. All columns
// exist where the tile is WIDE.
template <class S, bool WIDE, class Epilogue>
__attribute__((noinline)) void winograd_output_tile(const float* m, Vec bias, float* y, const WinogradTile at, const Epilogue epilogue) {
  constexpr int ORDER = S::ORDER, POINTS = ORDER + 2, STEP = S::POOL ? 2 : 1;
  Vec half[ORDER][POINTS];
  for (int column = 0; column < POINTS; ++column) {
    Vec d[POINTS], r[ORDER];
    GRAPHOPT_UNROLL for (int i = 0; i < POINTS; ++i) d[i] = load(m + (i * POINTS + column) * WinogradShape<S>::M_FREQUENCY);
    winograd_output<ORDER>(d, r);
    GRAPHOPT_UNROLL for (int i = 0; i < ORDER; ++i) half[i][column] = r[i];
  }
  // f(column) for the columns that exist, STEP by STEP
  const auto for_columns = [&](int step, auto f) {
    if constexpr (WIDE && !S::LONG_EPILOGUE) GRAPHOPT_UNROLL for (int i = 0; i < ORDER; i += step) f(i);
    else for (int i = 0; i + step <= at.columns; i += step) f(i);
  };
  for (int row = 0; row + STEP <= at.rows; row += STEP) {
    Vec values[STEP][ORDER];
    GRAPHOPT_UNROLL for (int k = 0; k < STEP; ++k) {
      winograd_output<ORDER>(half[row + k], values[k]);
      for_columns(1, [&](int i) {
        values[k][i] = epilogue(values[k][i] + bias, at.image, at.channel, at.h + (row + k) * S::DILATION_H, at.w + i * S::DILATION_W);
      });
    }
    float* to = y + row / STEP * S::DILATION_H * S::Y.h;
    for_columns(STEP, [&](int i) {
      Vec value = values[0][i];
      if constexpr (S::POOL) value = maximum(maximum(value, values[0][i + 1]), maximum(values[1][i], values[1][i + 1]));
      store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to + i / STEP * S::DILATION_W * S::Y.w, value, at.channel);
    });
  }
}

// The tiles of a block, output groups of a panel.
template <class S, class Epilogue>
void winograd_outputs(const float* m, const float* bias, float* y, int block, int panel, const Epilogue& epilogue) {
  using W = WinogradShape<S>;
  static_assert(!S::POOL || (S::ORDER % 2 == 0 && W::PHASES == 1), "a pool's window must not leave its tile");
  constexpr int SHRINK = S::POOL ? 2 : 1;
  const int groups = panel == W::PANELS - 1 ? W::LAST_PANEL : S::PANEL;
  const int tiles = block == W::BLOCKS - 1 ? W::TILES - block * S::BLOCK : S::BLOCK;
  for (int i = 0; i < tiles; ++i) {
    const WinogradPlace<S> place(block * S::BLOCK + i);
    const int top = place.row * S::ORDER, left = place.column * S::ORDER;
    const int rows = place.h.out_size - top, columns = place.w.out_size - left;
    WinogradTile at{place.image, 0, place.h.out_start + top * S::DILATION_H, place.w.out_start + left * S::DILATION_W,
                    rows < S::ORDER ? rows : S::ORDER, columns < S::ORDER ? columns : S::ORDER};
    float* corner = y + at.image * S::Y.n + at.h / SHRINK * S::Y.h + at.w / SHRINK * S::Y.w;
    for (int k = 0; k < groups; ++k) {
      const int group = panel * S::PANEL + k;
      at.channel = group * LANES;
      const auto tile = !S::LONG_EPILOGUE && at.columns == S::ORDER ? winograd_output_tile<S, true, Epilogue> : winograd_output_tile<S, false, Epilogue>;
      tile(m + i * W::M_TILE + k * LANES, load(bias + at.channel), corner + group * S::Y.block, at, epilogue);
    }
  }
}

}  // namespace graphopt
