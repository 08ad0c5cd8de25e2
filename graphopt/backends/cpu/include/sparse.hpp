// Products and convolutions whose weights are mostly zeros, in a pattern that is data.
//
//   S::IMAGES, IN_HEIGHT, IN_WIDTH, OUT_HEIGHT, OUT_WIDTH
//   S::KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, DILATION_H, DILATION_W
//   S::BANDS, IN_CHANNELS, OUT_CHANNELS   groups of a convolution, joined so that channels of a band fit 16 lanes; channels of one
//   S::X, X_PLANES, X_PADDED              Strides; planes: X.block is the distance of two channels and X.w is 1
//   S::HALO_H, HALO_W                     zeros around planes of x
//   S::Y, Y_PLANES, Y_PADDED              the same of y; pixels of planes of y lie one after the other
//   S::JOINED                             pixels of all images are one stretch: tiles of small images are filled by several
//   S::VECTORS, TILES, LARGE_TILES        pixels of a stretch as tiles: LARGE_TILES of 16 * VECTORS, then of one vector less
//   S::DIRECT                             tiles are where they are in planes of x, instead of a copy in scratch
//   S::BUFFERED                           the epilogue is long: it is compiled once, not for each pixel of a vector
//   S::CHUNK                              inputs (channel, tap) that are multiplied while their tile is in L1
//   S::PANEL                              output channels that one worker does at a time, a multiple of 16
//   S::LINES_AHEAD                        cache lines of entries to ask for per group, 0 where entries stay in the second cache
//   S::ROWS, LISTS                        see sparse_multiply.hpp
//
// The pattern, per band, chunk and panel: `groups` of LISTS lists of ROWS output channels (number of entries, then
// where in the panel each list's rows are, in units of ROWS), all their `entries`, and in `starts` the first entry.
// `work` counts what panels cost, summed up from the first: workers share tiles and panels evenly by it.
//
// Numeric class: a sum is bias + first chunk, then + the sum of each further chunk. A weight of zero does not turn
// infinities and NaNs of x into NaN, as it does in a dense kernel.
#pragma once

#include "sparse_multiply.hpp"
#include "sparse_share.hpp"
#include "sparse_tile.hpp"

namespace graphopt {

template <int LISTS> struct SparseGroup {
  int32_t entries;
  uint8_t rows[4];
};

template <class S> struct SparsePattern {
  using Entry = SparseEntry<S::LISTS, S::ROWS>;
  using Group = SparseGroup<S::LISTS>;
  static constexpr int PADDED = ceil_div(S::OUT_CHANNELS, LANES) * LANES;  // rows of a band
  static constexpr int PANELS = ceil_div(PADDED, S::PANEL);
  static constexpr int UNITS = S::BANDS * PANELS;
  static constexpr int GROUP_ROWS = S::LISTS * S::ROWS;
  static constexpr int AHEAD = 2048;  // bytes from entries that are used to those that are asked for
  static constexpr int GROUPS = PADDED / GROUP_ROWS, PANEL_GROUPS = S::PANEL / GROUP_ROWS;

  const Group* groups;
  const Entry* entries;
  const int32_t* starts;
  const int32_t* work;
};

// What does not change within a tile.
template <class S, class Epilogue> struct SparseWork {
  SparsePattern<S> pattern;
  const float* bias;
  float* y;
  float* tile;  // or x
  float* sums;
  const Epilogue& epilogue;
};

// Sums of one group of lists, vectors FIRST to FIRST + COUNT of a tile.
template <class S, int FIRST, int COUNT, class Epilogue>
GRAPHOPT_INLINE void sparse_group(const SparseWork<S, Epilogue>& work, const SparseGroup<S::LISTS>& group, const SparseEntry<S::LISTS, S::ROWS>* entry,
                                  const float* inputs, int channel, int rows_left, float* sums, bool first, bool last, int image, int pixel) {
  using D = SparseShape<S>;
  if (S::Y_PLANES && last)  // y is far away: ask for its lines now, to write them when the sums are ready
    GRAPHOPT_UNROLL for (int list = 0; list < S::LISTS; ++list)
      GRAPHOPT_UNROLL for (int r = 0; r < S::ROWS; ++r)
        GRAPHOPT_UNROLL for (int v = 0; v < COUNT; ++v)
          __builtin_prefetch(work.y + (channel + group.rows[list] * S::ROWS + r) * S::Y.block + pixel + (FIRST + v) * LANES, 1, 3);
  Vec sum[S::LISTS][S::ROWS][COUNT];
  GRAPHOPT_UNROLL for (int list = 0; list < S::LISTS; ++list)
    GRAPHOPT_UNROLL for (int r = 0; r < S::ROWS; ++r) {
      const Vec start = first ? splat(work.bias[channel + group.rows[list] * S::ROWS + r]) : zero();
      GRAPHOPT_UNROLL for (int v = 0; v < COUNT; ++v) sum[list][r][v] = start;
    }
  sparse_multiply(sum, inputs + FIRST * LANES, entry, entry + group.entries);
  GRAPHOPT_UNROLL for (int list = 0; list < S::LISTS; ++list)
    GRAPHOPT_UNROLL for (int r = 0; r < S::ROWS; ++r) {
      const int row = group.rows[list] * S::ROWS + r;
      float* saved = sums + static_cast<long>(row) * D::WIDTH + FIRST * LANES;
      if (!first) GRAPHOPT_UNROLL for (int v = 0; v < COUNT; ++v) sum[list][r][v] += load(saved + v * LANES);
      if (S::Y_PLANES && last) {
        if (row >= rows_left) continue;
        float* to = work.y + (channel + row) * S::Y.block;
        GRAPHOPT_UNROLL for (int v = 0; v < COUNT; ++v) {
          const int at = pixel + (FIRST + v) * LANES, left = D::PIXELS - at;
          if (left <= 0) break;
          const Vec value = work.epilogue(sum[list][r][v], image, channel + row, 0, at);
          if (D::PIXELS % LANES == 0 || left >= LANES) store(to + at, value);
          else store_first(to + at, value, D::PIXELS % LANES);
        }
      } else {
        GRAPHOPT_UNROLL for (int v = 0; v < COUNT; ++v) store(saved + v * LANES, sum[list][r][v]);
      }
    }
}

template <class S, int VECTORS, int FIRST, class... A> GRAPHOPT_INLINE void sparse_pieces(A&&... arguments) {
  constexpr int MOST = sparse_vectors<S::LISTS, S::ROWS>(VECTORS), EVEN = even_tile(VECTORS, MOST);
  constexpr int COUNT = VECTORS - FIRST < EVEN ? VECTORS - FIRST : EVEN;
  sparse_group<S, FIRST, COUNT>(arguments...);
  if constexpr (FIRST + COUNT < VECTORS) sparse_pieces<S, VECTORS, FIRST + COUNT>(arguments...);
}

// Finished sums of a panel to a y with 16 channels side by side.
template <class S, int VECTORS, class Epilogue>
void sparse_store(const SparseWork<S, Epilogue>& work, const float* sums, int channel, int rows, int image, int pixel) {
  using D = SparseShape<S>;
  constexpr int TAIL = S::BANDS * S::OUT_CHANNELS % LANES;
  const int left = D::PIXELS - pixel < VECTORS * LANES ? D::PIXELS - pixel : VECTORS * LANES;
  for (int row = 0; row < rows; row += LANES) {
    float* group = work.y + (channel + row) / LANES * S::Y.block;
    const bool narrow = TAIL != 0 && !S::Y_PADDED && channel + row + LANES > S::BANDS * S::OUT_CHANNELS;
    int within = pixel / D::IMAGE, h = pixel % D::IMAGE / S::OUT_WIDTH, w = pixel % S::OUT_WIDTH;  // `within` the stretch: an image
    const auto put = [&](Vec sum, int y_h, int y_w) {
      const Vec value = work.epilogue(sum, image + within, channel + row, y_h, y_w);
      float* to = group + (S::JOINED ? static_cast<long>(within) * S::Y.n : 0) + y_h * S::Y.h + y_w * S::Y.w;
      if (narrow) store_first(to, value, TAIL);
      else store(to, value);
    };
    const auto next_row = [&] {
      w = 0;
      if (++h == S::OUT_HEIGHT) h = 0, ++within;
    };
    for (int at = 0; at < left; at += LANES) {
      const float* from = sums + static_cast<long>(row) * D::WIDTH + at;
      const auto channels = [&](int i) { return from + i * D::WIDTH; };
      if (!S::BUFFERED && w + LANES <= S::OUT_WIDTH && at + LANES <= left) {
        transpose_rows(channels, [&](int i, Vec sum) { put(sum, h, w + i); });
        w += LANES;
      } else {
        alignas(64) float turned[LANES * LANES];
        transpose_rows(channels, [&](int i, Vec sum) { store(turned + i * LANES, sum); });
        for (int i = 0; i < LANES && at + i < left; ++i, ++w) {
          if (w == S::OUT_WIDTH) next_row();
          put(load(turned + i * LANES), h, w);
        }
      }
      if (w == S::OUT_WIDTH) next_row();
    }
  }
}

// Asks for the lines of y that a panel will be stored to, part `part` of `parts`: rows of features are far apart, and no
// prefetcher follows so many of them.
template <class S, int VECTORS, class Epilogue>
GRAPHOPT_INLINE void sparse_prepare(const SparseWork<S, Epilogue>& work, int channel, int rows, int pixel, int part, int parts) {
  using D = SparseShape<S>;
  const int left = D::PIXELS - pixel < VECTORS * LANES ? D::PIXELS - pixel : VECTORS * LANES;
  for (int at = left * part / parts; at < left * (part + 1) / parts; ++at)
    for (int row = 0; row < rows; row += LANES)
      prefetch_for_write(work.y + (channel + row) / LANES * S::Y.block + static_cast<long>(pixel + at) * S::Y.w);
}

// Units `begin` to `end` (band, panel) of one tile.
template <class S, int VECTORS, class Epilogue>
__attribute__((noinline)) void sparse_tile(const SparseWork<S, Epilogue>& work, const float* x, int image, int pixel, int begin, int end) {
  using D = SparseShape<S>;
  using P = SparsePattern<S>;
  const SparseTile<S, VECTORS, S::X_PLANES> tile(x, pixel);
  for (int band = begin / P::PANELS; band * P::PANELS < end; ++band) {
    const int first_panel = band * P::PANELS < begin ? begin - band * P::PANELS : 0;
    const int last_panel = end - band * P::PANELS < P::PANELS ? end - band * P::PANELS : P::PANELS;
    for (int chunk = 0; chunk < D::CHUNKS; ++chunk) {
      const bool first = D::CHUNKS == 1 || chunk == 0, last = D::CHUNKS == 1 || chunk == D::CHUNKS - 1;
      if (!S::DIRECT) tile.load(band * S::IN_CHANNELS, chunk * S::CHUNK, last ? D::DEPTH : (chunk + 1) * S::CHUNK, work.tile);
      const float* inputs = S::DIRECT ? x + (band * S::IN_CHANNELS + chunk * S::CHUNK) * S::X.block + pixel : work.tile;
      const long place = band * D::CHUNKS + chunk;
      const auto* entry = work.pattern.entries + work.pattern.starts[place * P::PANELS + first_panel];
      for (int panel = first_panel; panel < last_panel; ++panel) {
        const int row = panel * S::PANEL, rows = P::PADDED - row < S::PANEL ? P::PADDED - row : S::PANEL;
        const int channel = band * S::OUT_CHANNELS + row;
        float* sums = work.sums + (D::CHUNKS == 1 ? 0 : static_cast<long>(row) * D::WIDTH);
        const auto* group = work.pattern.groups + place * P::GROUPS + panel * P::PANEL_GROUPS;
        const int groups = rows / P::GROUP_ROWS;
        for (int i = 0; i < groups; ++i, entry += group->entries, ++group) {
          GRAPHOPT_UNROLL for (int line = 0; line < S::LINES_AHEAD; ++line)
            __builtin_prefetch(reinterpret_cast<const char*>(entry) + P::AHEAD + line * 64, 0, 3);
          if (!S::Y_PLANES && S::OUT_HEIGHT == 1 && S::Y.w != LANES && last) sparse_prepare<S, VECTORS>(work, channel, rows, pixel, i, groups);
          sparse_pieces<S, VECTORS, 0>(work, *group, entry, inputs, channel, S::OUT_CHANNELS - row, sums, first, last, image, pixel);
        }
        if (!S::Y_PLANES && last) sparse_store<S, VECTORS>(work, sums, channel, rows, image, pixel);
      }
    }
  }
}

template <class S, class Epilogue>
void sparse_product(const Worker& worker, const float* x, const int32_t* groups, const int32_t* entries, const int32_t* starts, const int32_t* shares,
                    const float* bias, float* y, float* scratch, Epilogue epilogue) {
  static_assert(!S::JOINED || (!S::X_PLANES && !S::Y_PLANES), "planes of two images are not neighbours");
  using D = SparseShape<S>;
  using P = SparsePattern<S>;
  constexpr long TILE = S::DIRECT ? 0 : static_cast<long>(S::CHUNK) * D::WIDTH;
  const SparsePlace begin = sparse_share(shares, P::UNITS, D::STRETCHES * S::TILES, worker.index, worker.count);
  const SparsePlace end = sparse_share(shares, P::UNITS, D::STRETCHES * S::TILES, worker.index + 1, worker.count);
  const P pattern{reinterpret_cast<const typename P::Group*>(groups), reinterpret_cast<const typename P::Entry*>(entries), starts, shares};
  for (long at = begin.tile; at <= end.tile; ++at) {
    const int first = at == begin.tile ? begin.unit : 0, last = at == end.tile ? end.unit : P::UNITS;
    if (first >= last) continue;
    const int image = static_cast<int>(at / S::TILES), number = static_cast<int>(at % S::TILES);
    const SparseWork<S, Epilogue> work{pattern, bias, y + image * S::Y.n, scratch, scratch + TILE, epilogue};
    const float* image_x = x + image * S::X.n;
    if (S::LARGE_TILES == S::TILES || number < S::LARGE_TILES)
      sparse_tile<S, S::VECTORS>(work, image_x, image, number * D::WIDTH, first, last);
    else
      sparse_tile<S, (S::VECTORS > 1 ? S::VECTORS - 1 : 1)>(work, image_x, image, number * D::WIDTH - (number - S::LARGE_TILES) * LANES, first, last);
  }
}

}  // namespace graphopt
