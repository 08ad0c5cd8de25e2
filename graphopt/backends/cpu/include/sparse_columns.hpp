// Products and convolutions whose weights are zero for 16 output channels at once, or not at all.
//
// This is the dense register tile, 16 output channels of ROWS x COLUMNS pixels, that jumps from one input with
// weights to the next. Nothing is turned: x and y have 16 channels side by side, and padding is in x's halo.
//
//   S::IMAGES, OUT_CHANNELS, OUT_HEIGHT, OUT_WIDTH
//   S::X, S::Y, S::Y_PADDED       Strides of y; of x only n is used
//   S::X_ROW, X_COLUMN            floats of x from one pixel of y to the next
//   S::ROWS, COLUMNS              pixels of the register tile
//   S::CHUNKS                     parts of the inputs, so that x of a tile stays in the first cache
//   S::BLOCK                      tiles that pass over the weights of a chunk together; their sums wait in scratch
//   S::BUFFERED                   the epilogue is long
//
// Per chunk and panel of 16 outputs: entries `starts[chunk * panels + panel]` up to the next; of each its offset in x,
// in floats from the first tap of a pixel, and 16 weights. `work` counts entries of panels, summed up.
//
// Numeric class: the sum runs over the entries in their order, starting from the bias. See sparse.hpp on NaN.
#pragma once

#include "microkernel.hpp"
#include "sparse_share.hpp"

namespace graphopt {

template <class S> struct SparseColumnsShape {
  static constexpr int COLUMNS = even_tile(S::OUT_WIDTH, fit_pixels(S::COLUMNS));
  static constexpr int ROWS = REGISTERS >= 32 ? even_tile(S::OUT_HEIGHT, S::ROWS) : 1;
  static constexpr int TILES_W = ceil_div(S::OUT_WIDTH, COLUMNS), TILES = TILES_W * ceil_div(S::OUT_HEIGHT, ROWS);
  static constexpr int BLOCK = S::BLOCK * S::ROWS * S::COLUMNS / (ROWS * COLUMNS), BLOCKS = ceil_div(TILES, BLOCK);
  static constexpr int PANELS = ceil_div(S::OUT_CHANNELS, LANES);
  using Tile = Sums<1, ROWS, COLUMNS>;
};

template <class S, class Epilogue> struct SparseColumnsWork {
  const int32_t* offsets;
  const float* weights;
  const int32_t* starts;
  const float* bias;
  const Epilogue& epilogue;
};

// Panels `begin` to `end` of one tile and chunk. x and y are the image; sums of a tile lie panel by panel.
template <class S, class Epilogue>
__attribute__((noinline)) void sparse_columns_tile(const SparseColumnsWork<S, Epilogue>& work, const float* x, float* y, float* sums, int chunk, int tile,
                                                   int begin, int end, int image) {
  using D = SparseColumnsShape<S>;
  using Tile = typename D::Tile;
  // The last tiles reach back over pixels of the tiles before, which are not stored again.
  const int wanted_row = tile / D::TILES_W * D::ROWS, wanted_column = tile % D::TILES_W * D::COLUMNS;
  const int row = wanted_row + D::ROWS > S::OUT_HEIGHT ? S::OUT_HEIGHT - D::ROWS : wanted_row;
  const int column = wanted_column + D::COLUMNS > S::OUT_WIDTH ? S::OUT_WIDTH - D::COLUMNS : wanted_column;
  const float* corner = x + row * S::X_ROW + column * S::X_COLUMN;
  for (int panel = begin; panel < end; ++panel) {
    Tile sum;
    float* saved = sums + static_cast<long>(panel) * Tile::PIXELS * LANES;
    if (chunk == 0) sum.start(work.bias + panel * LANES);
    else sum.resume(saved);
    const int32_t* range = work.starts + chunk * D::PANELS + panel;
    for (int entry = range[0]; entry < range[1]; ++entry) {
      const Vec weights = load(work.weights + static_cast<long>(entry) * LANES);
      const float* at = corner + work.offsets[entry];
      GRAPHOPT_UNROLL for (int p = 0; p < Tile::PIXELS; ++p)
        sum.at[0][p] = fma(weights, splat(at[p / D::COLUMNS * S::X_ROW + p % D::COLUMNS * S::X_COLUMN]), sum.at[0][p]);
    }
    if (chunk < S::CHUNKS - 1) {
      sum.save(saved);
      continue;
    }
    float* to = y + panel * S::Y.block + row * S::Y.h + column * S::Y.w;
    for_each_sum<S::BUFFERED>(sum, [&](int, int p, Vec v) {
      const int h = p / D::COLUMNS, w = p % D::COLUMNS;
      if (row + h < wanted_row || column + w < wanted_column) return;
      const Vec value = work.epilogue(v, image, panel * LANES, row + h, column + w);
      store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to + h * S::Y.h + w * S::Y.w, value, panel * LANES);
    });
  }
}

template <class S, class Epilogue>
void sparse_columns(const Worker& worker, const float* x, const int32_t* offsets, const float* weights, const int32_t* starts, const int32_t* shares,
                    const float* bias, float* y, float* scratch, Epilogue epilogue) {
  using D = SparseColumnsShape<S>;
  const SparseColumnsWork<S, Epilogue> work{offsets, weights, starts, bias, epilogue};
  const SparsePlace begin = sparse_share(shares, D::PANELS, S::IMAGES * D::BLOCKS, worker.index, worker.count);
  const SparsePlace end = sparse_share(shares, D::PANELS, S::IMAGES * D::BLOCKS, worker.index + 1, worker.count);
  for (long at = begin.tile; at <= end.tile; ++at) {
    const int first = at == begin.tile ? begin.unit : 0, last = at == end.tile ? end.unit : D::PANELS;
    if (first >= last) continue;
    const int image = static_cast<int>(at / D::BLOCKS), tile = static_cast<int>(at % D::BLOCKS) * D::BLOCK;
    const int tiles = D::TILES - tile < D::BLOCK ? D::TILES - tile : D::BLOCK;
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk)
      for (int i = 0; i < tiles; ++i)
        sparse_columns_tile(work, x + image * S::X.n, y + image * S::Y.n, scratch + static_cast<long>(i) * D::PANELS * D::Tile::PIXELS * LANES, chunk,
                            tile + i, first, last, image);
  }
}

}  // namespace graphopt
