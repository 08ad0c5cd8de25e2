// Product of pixels and weights: y[pixel, o] = bias[o] + sum over c of x[pixel, c] * w[o, c].
//
// Pixels are the rows of a linear layer, or those of a 1x1 convolution. A block of them is packed first, the pixels of
// a tile side by side: [chunk][tile][c][pixel]. So the product reads x as a straight stream, whatever its strides (rows
// a multiple of 4 KB apart would fall into the same cache sets).
//
//   S::IMAGES, OUT_HEIGHT, OUT_WIDTH   pixels;  S::IN_CHANNELS, OUT_CHANNELS
//   S::X, S::Y                    Strides, 16 channels side by side; X_ROW, X_COLUMN: floats of x from pixel to pixel of y
//   S::Y_PADDED                   all 16 channels of the last group of y exist
//   S::VECTORS, PIXELS            register tile
//   S::CHUNK                      input channels per pass over a block's tiles; partial sums wait in scratch
//   S::BLOCK                      tiles of a block
//   S::SHARED                     all blocks are packed by all workers first; otherwise each packs what it needs
//   S::LONG_EPILOGUE              the epilogue is too long to be repeated for every sum of a tile
//
// w is [set of VECTORS output vectors][c][VECTORS][16].
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"
#include "transpose.hpp"

namespace graphopt {

template <class S> struct LinearShape {
  static constexpr int PIXELS = S::IMAGES * S::OUT_HEIGHT * S::OUT_WIDTH;
  static constexpr int TILE = even_tile(PIXELS, fit_pixels(S::PIXELS));
  static constexpr int TILES = ceil_div(PIXELS, TILE);
  // Tiles are packed in pairs where two of them make 16 pixels or less. A block has whole pairs.
  static constexpr int PAIR = TILE <= LANES / 2 ? 2 : 1;
  static constexpr int PAIRS = ceil_div(TILES, PAIR);
  static constexpr int BLOCK_PAIRS = ceil_div(S::BLOCK * S::PIXELS, TILE * PAIR);
  static constexpr int BLOCK = BLOCK_PAIRS * PAIR;
  static constexpr int BLOCKS = ceil_div(TILES, BLOCK);
  static constexpr int OUT_VECTORS = ceil_div(S::OUT_CHANNELS, LANES);
  static constexpr int SETS = ceil_div(OUT_VECTORS, S::VECTORS);
  static constexpr int LAST_VECTORS = OUT_VECTORS - (SETS - 1) * S::VECTORS;
  static constexpr int CHUNKS = ceil_div(S::IN_CHANNELS, S::CHUNK);
  // Packed numbers of a tile and a chunk. Packing stores more than a tile's pixels at once, and so past the last.
  static constexpr int PANEL = ceil_div(S::CHUNK * TILE, LANES) * LANES + LANES;
  static constexpr long BLOCK_FLOATS = static_cast<long>(CHUNKS) * BLOCK * PANEL;
  // Rows of y that no longer lie in the second cache level are asked for before they are written.
  static constexpr bool Y_FAR = S::IMAGES * S::OUT_HEIGHT == 1 && static_cast<long>(PIXELS) * S::OUT_CHANNELS > 200000;
  static constexpr int lines_ahead(int vectors) { return ceil_div(LANES * vectors, BLOCK < TILES ? BLOCK : TILES); }
  static_assert(TILE <= LANES, "a tile is packed by transposing 16 x 16");
};

struct LinearPixel {
  int image, row, column;
};
template <class S> GRAPHOPT_INLINE LinearPixel linear_pixel(int pixel) {
  return {pixel / (S::OUT_HEIGHT * S::OUT_WIDTH), pixel / S::OUT_WIDTH % S::OUT_HEIGHT, pixel % S::OUT_WIDTH};
}

// Packs a pair of tiles of x for one chunk of channels into `block`, their block. Pixels past the last repeat it.
template <class S> void linear_pack(const float* x, float* block, int pair, int chunk) {
  using L = LinearShape<S>;
  constexpr int TILE = L::TILE;
  float* to = block + static_cast<long>(chunk * L::BLOCK + pair % L::BLOCK_PAIRS * L::PAIR) * L::PANEL;
  const float* pixels[LANES];  // lanes of the first tile, or of the first and the second
  for (int lane = 0; lane < LANES; ++lane) {
    const int in_tile = lane % (LANES / L::PAIR), pixel = (pair * L::PAIR + lane / (LANES / L::PAIR)) * TILE + (in_tile < TILE ? in_tile : 0);
    const LinearPixel at = linear_pixel<S>(pixel < L::PIXELS ? pixel : L::PIXELS - 1);
    pixels[lane] = x + at.image * S::X.n + at.row * S::X_ROW + at.column * S::X_COLUMN;
  }
  const int begin = chunk * S::CHUNK, end = S::IN_CHANNELS - begin > S::CHUNK ? begin + S::CHUNK : S::IN_CHANNELS;
  int c = begin;
  for (; c + LANES <= end; c += LANES, to += LANES * TILE) {
    Vec rows[LANES];
    GRAPHOPT_UNROLL for (int lane = 0; lane < LANES; ++lane) rows[lane] = load(pixels[lane] + c / LANES * S::X.block);
    transpose16(rows);
    // in this order: lanes that are no pixels of the tile are overwritten by the next channel
    GRAPHOPT_UNROLL for (int k = 0; k < LANES; ++k) {
      if constexpr (L::PAIR == 2) store_halves(to + k * TILE, to + L::PANEL + k * TILE, rows[k]);
      else store(to + k * TILE, rows[k]);
    }
  }
  for (; c < end; ++c, to += TILE)
    for (int tile = 0; tile < L::PAIR; ++tile)
      for (int p = 0; p < TILE; ++p) to[tile * L::PANEL + p] = pixels[tile * (LANES / L::PAIR) + p][c / LANES * S::X.block + c % LANES];
}

// The product of a packed block with WIDTH output vectors, `channel` the first channel of them.
template <class S, int WIDTH, class Epilogue>
__attribute__((noinline)) void linear_block(const float* packed, const float* w, const float* bias, float* y, float* scratch, int block, int channel,
                                            const Epilogue& epilogue) {
  using L = LinearShape<S>;
  constexpr int VECTORS = fit_vectors(WIDTH), TILE = L::TILE, STEP = WIDTH * LANES, AHEAD = L::lines_ahead(WIDTH);
  constexpr int TAIL = S::IN_CHANNELS % LANES;
  constexpr long NEAR = weights_ahead(4L * S::CHUNK * STEP, WIDTH);
  constexpr int RUN = sum_run(S::CHUNK < S::IN_CHANNELS ? S::CHUNK : S::IN_CHANNELS);
  using T = Sums<VECTORS, 1, TILE>;
  alignas(64) float own[L::CHUNKS > 1 ? LANES : VECTORS * TILE * LANES];  // unfinished sums of a tile, where there is one chunk
  const int first_tile = block * L::BLOCK, tiles = L::TILES - first_tile < L::BLOCK ? L::TILES - first_tile : L::BLOCK;
  for (int chunk = 0; chunk < L::CHUNKS; ++chunk, w += S::CHUNK * STEP) {
    const bool last = chunk + 1 == L::CHUNKS;
    const int depth = last ? S::IN_CHANNELS - chunk * S::CHUNK : S::CHUNK;
    const float* panel = packed + static_cast<long>(chunk) * L::BLOCK * L::PANEL;
    const float* ahead = w + depth * STEP;  // the next chunk's weights move closer meanwhile
    float* saved = scratch;
    for (int tile = 0; tile < tiles; ++tile, panel += L::PANEL) {
      const int first = (first_tile + tile) * TILE;
      for (int v = 0; v < WIDTH; v += VECTORS, saved += VECTORS * TILE * LANES) {
        T sums;
        float* const unfinished = L::CHUNKS > 1 ? saved : own;
        const float *numbers = panel, *weights = w + v * LANES;
        const float* soon = y + first * S::Y.w + (channel / LANES + v) * S::Y.block;
        for (int run = 0; run < depth; run += RUN) {
          const int stop = run + RUN < depth ? run + RUN : depth;
          const bool first_run = chunk == 0 && run == 0;
          if (first_run) sums.start(bias + v * LANES);
          else sums.clear();
          for (int k = run; k + LANES <= stop; k += LANES, numbers += LANES * TILE, weights += LANES * STEP, ahead += AHEAD * LANES) {
            GRAPHOPT_UNROLL for (int line = 0; line < AHEAD; ++line) prefetch(ahead + line * LANES);
            if constexpr (L::Y_FAR)
              if (last) {
                GRAPHOPT_UNROLL for (int i = 0; i < VECTORS; ++i) prefetch_for_write(soon + i * S::Y.block);
                soon += S::Y.w;
              }
            sums.template add<TILE, 0, 1, STEP, NEAR>(numbers, weights, LANES);
          }
          if constexpr (TAIL != 0)
            if (last && stop == depth) sums.template add<TILE, 0, 1, STEP>(numbers, weights, TAIL);
          if (!first_run) sums.add_saved(unfinished);
          if (!last || stop < depth) sums.save(unfinished);
        }
        if (!last) continue;
        for_each_sum<S::LONG_EPILOGUE>(sums, [&](int i, int p, Vec sum) {
          if (L::PIXELS % TILE != 0 && first + p >= L::PIXELS) return;
          const LinearPixel at = linear_pixel<S>(first + p);
          const int c = channel + (v + i) * LANES;
          float* to = y + at.image * S::Y.n + c / LANES * S::Y.block + at.row * S::Y.h + at.column * S::Y.w;
          store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to, epilogue(sum, at.image, c, at.row, at.column), c);
        });
      }
    }
  }
}

// `shared` holds all packed blocks where they are SHARED, otherwise `scratch` starts with one.
template <class S, class Epilogue>
void linear(const Worker& worker, const float* x, const float* w, const float* bias, float* y, float* scratch, float* shared, Epilogue epilogue) {
  using L = LinearShape<S>;
  const auto multiply = [&](const float* packed, float* sums, int block, int set) {
    const int vector = set * S::VECTORS, channel = vector * LANES;
    const float* set_w = w + static_cast<long>(S::IN_CHANNELS) * channel;
    if (L::LAST_VECTORS != S::VECTORS && set == L::SETS - 1) linear_block<S, L::LAST_VECTORS>(packed, set_w, bias + channel, y, sums, block, channel, epilogue);
    else linear_block<S, S::VECTORS>(packed, set_w, bias + channel, y, sums, block, channel, epilogue);
  };
  if constexpr (S::SHARED) {
    const Range packing = worker.split(static_cast<long>(L::PAIRS) * L::CHUNKS);
    for (long i = packing.begin; i < packing.end; ++i) {
      const int pair = static_cast<int>(i / L::CHUNKS);
      linear_pack<S>(x, shared + pair / L::BLOCK_PAIRS * L::BLOCK_FLOATS, pair, static_cast<int>(i % L::CHUNKS));
    }
    worker.wait();
    const Range work = worker.split(static_cast<long>(L::SETS) * L::BLOCKS);
    for (long i = work.begin; i < work.end; ++i) {
      const int block = static_cast<int>(i % L::BLOCKS);
      multiply(shared + block * L::BLOCK_FLOATS, scratch, block, static_cast<int>(i / L::BLOCKS));
    }
  } else {
    const Range work = worker.split(static_cast<long>(L::BLOCKS) * L::SETS);
    int packed = -1;
    for (long i = work.begin; i < work.end; ++i) {
      const int block = static_cast<int>(i / L::SETS);
      if (block != packed)
        for (int pair = block * L::BLOCK_PAIRS; pair < L::PAIRS && pair < (block + 1) * L::BLOCK_PAIRS; ++pair)
          for (int chunk = 0; chunk < L::CHUNKS; ++chunk) linear_pack<S>(x, scratch, pair, chunk);
      packed = block;
      multiply(scratch, scratch + L::BLOCK_FLOATS, block, static_cast<int>(i % L::SETS));
    }
  }
}

}  // namespace graphopt
