// A mobile block in one step: 1x1 convolution that widens, depthwise convolution, 1x1 convolution that narrows
// (Sandler et al., "MobileNetV2", 2018), each with its own epilogue. The wide activations stay in cache.
//
//   S                             of the depthwise convolution: see depthwise_row.hpp
//   S::IMAGES
//   S::IN_CHANNELS, MIDDLE_CHANNELS, OUT_CHANNELS
//   S::WIDENS                     there is a first 1x1 convolution; else x is what the depthwise convolution reads
//   S::X, Y                       Strides
//   S::X_PADDED, Y_PADDED         all 16 channels of the last group exist
//   S::WIDEN_VECTORS, WIDEN_PIXELS, NARROW_VECTORS, NARROW_PIXELS   register tiles of the 1x1 convolutions
//   S::BAND                       rows of results that one worker makes at a time
//   S::STEP                       rows of results that are made before more rows are widened
//   S::RING                       widened rows that are kept
//
// Of 16 x WIDEN_VECTORS middle channels at a time, a ring of the last widened rows is kept in the first cache level,
// from which rows of the middle are made. A whole band of the middle, of all channels, is then narrowed.
//
// Weights: [set of WIDEN_VECTORS][c][vector][16], [middle / 16][kh][kw][16], [set of NARROW_VECTORS][middle][vector][16].
#pragma once

#include "depthwise_row.hpp"
#include "pointwise_tiles.hpp"
#include "runtime.hpp"

namespace graphopt {

struct MobileWeights {
  const float *widen, *widen_bias, *depthwise, *depthwise_bias, *narrow, *narrow_bias;
};

template <class S> struct MobileShape {
  static constexpr Window rows = rows_of<S>;
  static constexpr int GROUPS = ceil_div(S::MIDDLE_CHANNELS, LANES);
  static constexpr int CHUNKS = ceil_div(GROUPS, S::WIDEN_VECTORS);
  static constexpr int LAST_CHUNK = GROUPS - (CHUNKS - 1) * S::WIDEN_VECTORS;
  static constexpr int OUT_GROUPS = ceil_div(S::OUT_CHANNELS, LANES);
  static constexpr int SETS = ceil_div(OUT_GROUPS, S::NARROW_VECTORS);
  static constexpr int LAST_SET = OUT_GROUPS - (SETS - 1) * S::NARROW_VECTORS;
  static constexpr int BANDS = ceil_div(S::OUT_HEIGHT, S::BAND);
  static constexpr int RING_ROW = S::IN_WIDTH * LANES;
  static constexpr int RING_GROUP = S::WIDENS ? S::RING * RING_ROW : 0;
  static constexpr long ZEROS = static_cast<long>(S::WIDEN_VECTORS) * RING_GROUP;  // place of a row of zeros
  static constexpr long RING_FLOATS = S::WIDENS ? ZEROS + RING_ROW : 0;
  static constexpr bool X_IS_FLAT = S::X.h == S::IN_WIDTH * S::X.w;
  static constexpr bool Y_IS_FLAT = S::Y.h == S::OUT_WIDTH * S::Y.w;

  // Tiles that a chunk of the middle, and a set of output vectors, have about.
  static constexpr int MOST_ROWS = (S::BAND - 1) * S::STRIDE_H + rows.extent(), WIDENED_ROWS = MOST_ROWS < S::IN_HEIGHT ? MOST_ROWS : S::IN_HEIGHT;
  static constexpr int WIDEN_LINES = lines_ahead(S::WIDEN_VECTORS, WIDENED_ROWS * S::IN_WIDTH / fit_pixels(S::WIDEN_PIXELS));
  static constexpr int NARROW_LINES = lines_ahead(S::NARROW_VECTORS, S::BAND * S::OUT_WIDTH / fit_pixels(S::NARROW_PIXELS));

  // The weights of a chunk of the middle, and of a set of output vectors.
  static Ahead widen_weights(const float* w, int chunk) { return set_ahead<S::WIDEN_VECTORS, GROUPS, S::IN_CHANNELS>(w, chunk); }
  static Ahead narrow_weights(const float* w, int set) { return set_ahead<S::NARROW_VECTORS, OUT_GROUPS, S::MIDDLE_CHANNELS>(w, set); }

  static constexpr int band_end(int band) { return (band + 1) * S::BAND < S::OUT_HEIGHT ? (band + 1) * S::BAND : S::OUT_HEIGHT; }
};

// The ring's row of zeros, which stands for rows outside of the image.
template <class S> GRAPHOPT_INLINE void clear_zeros(float* ring) {
  if constexpr (S::WIDENS)
    for (int i = 0; i < MobileShape<S>::RING_ROW; i += LANES) store(ring + MobileShape<S>::ZEROS + i, zero());
}

// Where the middle goes: a band in scratch, or the result where there is no second 1x1 convolution.
template <class S> struct MiddleInScratch {
  static constexpr Strides strides{0, static_cast<long>(S::BAND) * S::OUT_WIDTH * LANES, S::OUT_WIDTH* LANES, LANES};
  static constexpr int STORED = 0;
  static constexpr long FLOATS = MobileShape<S>::GROUPS * strides.block;
};
template <class S> struct MiddleInResult {
  static constexpr Strides strides = S::Y;
  static constexpr int STORED = S::Y_PADDED ? 0 : S::MIDDLE_CHANNELS % LANES;
};

// Rows [begin, end) of WIDTH x 16 middle channels from `channel` on, widened into the ring. x is an image.
template <class S, int WIDTH, class Epilogue>
GRAPHOPT_INLINE void widen_rows(const float* x, const float* w, const float* bias, float* ring, Ahead& ahead, int n, int channel, int begin, int end, const Epilogue& epilogue) {
  using M = MobileShape<S>;
  for (int h = begin; h < end;) {
    const int slot = h % S::RING, most = M::X_IS_FLAT ? S::RING - slot : 1, rows = end - h < most ? end - h : most;
    float* const to = ring + slot * M::RING_ROW;
    const int count = rows * S::IN_WIDTH;
    pointwise_tiles<WIDTH, S::WIDEN_PIXELS, S::IN_CHANNELS, S::X.block, S::X.w, false, S::BUFFERED, M::WIDEN_LINES>(
        x + h * S::X.h, w, bias, ahead, 0, pixel_tiles<S::WIDEN_PIXELS>(count), count, [&](Vec sum, int v, int pixel) __attribute__((always_inline)) {
          store(to + v * M::RING_GROUP + pixel * LANES, epilogue(sum, n, channel + v * LANES, h + pixel / S::IN_WIDTH, pixel % S::IN_WIDTH));
        });
    h += rows;
  }
}

// Rows [begin, end) of a chunk of the middle, the first one at `to`; adds their sums over pixels to `totals`.
template <class S, int WIDTH, class To, class Widened, class Filtered>
__attribute__((noinline)) void middle_rows(const float* x, const MobileWeights& weights, float* ring, float* to, Ahead ahead, int n, int group, int begin,
                                           int end, Vec* totals, Widened widened, Filtered filtered) {
  using M = MobileShape<S>;
  constexpr Window rows = M::rows;
  constexpr long TAPS = S::KERNEL_H * S::KERNEL_W * LANES;
  const int channel = group * LANES;
  int ready = 0;  // rows before this one are in the ring, or not needed
  for (int h = begin; h < end; h += S::STEP) {
    const int stop = h + S::STEP < end ? h + S::STEP : end;
    if constexpr (S::WIDENS) {
      const int bottom = rows.start(stop - 1) + rows.extent(), need = bottom < rows.in ? bottom : rows.in;
      if (ready < rows.start(h)) ready = rows.start(h);
      if (ready < need) widen_rows<S, WIDTH>(x, weights.widen + 1L * channel * S::IN_CHANNELS, weights.widen_bias + channel, ring, ahead, n, channel, ready, need, widened);
      if (ready < need) ready = need;
    }
    for (int v = 0; v < WIDTH; ++v)
      for (int r = h; r < stop; ++r) {
        const int top = rows.start(r);
        float* const row_to = to + v * To::strides.block + (r - begin) * To::strides.h;
        const float *const taps = weights.depthwise + (group + v) * TAPS, *const bias = weights.depthwise_bias + channel + v * LANES;
        const auto row = [=](int k) __attribute__((always_inline)) {
          const int at = top + k * S::DILATION_H;
          if constexpr (!S::WIDENS) return x + (group + v) * S::X.block + at * S::X.h;
          else return ring + (at < 0 || at >= S::IN_HEIGHT ? M::ZEROS : v * M::RING_GROUP + at % S::RING * M::RING_ROW);
        };
        constexpr int STEP = S::WIDENS ? LANES : S::X.w, LOADED = S::WIDENS || S::X_PADDED ? 0 : S::MIDDLE_CHANNELS % LANES;
        if (LOADED + To::STORED > 0 && group + v == M::GROUPS - 1)
          totals[v] += depthwise_row<S, S::WIDENS, STEP, To::strides.w, LOADED, To::STORED>(row, taps, bias, row_to, n, channel + v * LANES, r, filtered);
        else
          totals[v] += depthwise_row<S, S::WIDENS, STEP, To::strides.w, 0, 0>(row, taps, bias, row_to, n, channel + v * LANES, r, filtered);
      }
  }
}

// The same for whichever chunk.
template <class S, class To, class Widened, class Filtered>
GRAPHOPT_INLINE void middle_chunk(const float* x, const MobileWeights& weights, float* ring, float* to, Ahead ahead, int n, int chunk, int begin,
                                  int end, Vec* totals, Widened widened, Filtered filtered) {
  using M = MobileShape<S>;
  const int group = chunk * S::WIDEN_VECTORS;
  if (M::LAST_CHUNK != S::WIDEN_VECTORS && chunk == M::CHUNKS - 1)
    middle_rows<S, M::LAST_CHUNK, To>(x, weights, ring, to, ahead, n, group, begin, end, totals, widened, filtered);
  else
    middle_rows<S, S::WIDEN_VECTORS, To>(x, weights, ring, to, ahead, n, group, begin, end, totals, widened, filtered);
}

// Tiles [begin, end) of a set of WIDTH output vectors; y points to the band's first row, which is `row`.
template <class S, int WIDTH, class Narrowed>
__attribute__((noinline)) void narrow_tiles(const float* middle, const MobileWeights& weights, float* y, Ahead ahead, int n, int group, int row, int begin,
                                            int end, int count, Narrowed narrowed) {
  using M = MobileShape<S>;
  pointwise_tiles<WIDTH, S::NARROW_PIXELS, S::MIDDLE_CHANNELS, MiddleInScratch<S>::strides.block, LANES, true, S::BUFFERED, M::NARROW_LINES>(
      middle, weights.narrow + 1L * group * LANES * S::MIDDLE_CHANNELS, weights.narrow_bias + group * LANES, ahead, begin, end, count,
      [&](Vec sum, int v, int pixel) __attribute__((always_inline)) {
        const int h = pixel / S::OUT_WIDTH, w = pixel % S::OUT_WIDTH;
        const Vec value = narrowed(sum, n, (group + v) * LANES, row + h, w);
        float* const to = y + (group + v) * S::Y.block + (M::Y_IS_FLAT ? pixel * S::Y.w : h * S::Y.h + w * S::Y.w);
        store_channels<S::OUT_CHANNELS, S::Y_PADDED>(to, value, (group + v) * LANES);
      });
}

template <class S, class Narrowed>
GRAPHOPT_INLINE void narrow_set(const float* middle, const MobileWeights& weights, float* y, int n, int set, int row, int begin, int end, int count,
                                Narrowed narrowed) {
  using M = MobileShape<S>;
  const Ahead ahead = M::narrow_weights(weights.narrow, set + 1);
  const int group = set * S::NARROW_VECTORS;
  if (M::LAST_SET != S::NARROW_VECTORS && set == M::SETS - 1)
    narrow_tiles<S, M::LAST_SET>(middle, weights, y, ahead, n, group, row, begin, end, count, narrowed);
  else
    narrow_tiles<S, S::NARROW_VECTORS>(middle, weights, y, ahead, n, group, row, begin, end, count, narrowed);
}

// Workers share bands of rows; the rows around a band are widened twice. Scratch: ring, then middle.
template <class S, class Widened, class Filtered, class Narrowed>
void inverted_residual_bands(const Worker& worker, const float* x, const MobileWeights& weights, float* y, Widened widened, Filtered filtered, Narrowed narrowed) {
  using M = MobileShape<S>;
  float *const ring = worker.scratch, *const middle = ring + M::RING_FLOATS;
  clear_zeros<S>(ring);
  const Range range = worker.split(1L * S::IMAGES * M::BANDS);
  for (long i = range.begin; i < range.end; ++i) {
    const int n = static_cast<int>(i / M::BANDS), band = static_cast<int>(i % M::BANDS), begin = band * S::BAND, end = M::band_end(band);
    for (int chunk = 0; chunk < M::CHUNKS; ++chunk) {
      const Ahead ahead = chunk + 1 < M::CHUNKS ? M::widen_weights(weights.widen, chunk + 1) : M::narrow_weights(weights.narrow, 0);
      Vec totals[S::WIDEN_VECTORS] = {};
      middle_chunk<S, MiddleInScratch<S>>(x + n * S::X.n, weights, ring, middle + chunk * S::WIDEN_VECTORS * MiddleInScratch<S>::strides.block, ahead, n,
                                          chunk, begin, end, totals, widened, filtered);
    }
    const int count = (end - begin) * S::OUT_WIDTH;
    for (int set = 0; set < M::SETS; ++set)
      narrow_set<S>(middle, weights, y + n * S::Y.n + begin * S::Y.h, n, set, begin, 0, pixel_tiles<S::NARROW_PIXELS>(count), count, narrowed);
  }
}

// Workers share channels: chunks of the middle, then sets of output channels and tiles of pixels. Nothing is done
// twice and every weight is read by one worker; the middle goes through memory that all see, of two images in turn.
template <class S, class Widened, class Filtered, class Narrowed>
void inverted_residual_channels(const Worker& worker, const float* x, const MobileWeights& weights, float* y, float* shared, Widened widened, Filtered filtered,
                                Narrowed narrowed) {
  using M = MobileShape<S>;
  constexpr int COUNT = S::OUT_HEIGHT * S::OUT_WIDTH;
  static_assert(M::BANDS == 1, "a band is an image");
  clear_zeros<S>(worker.scratch);
  const int tiles = pixel_tiles<S::NARROW_PIXELS>(COUNT);
  const Range chunks = worker.split(M::CHUNKS), places = worker.split(1L * M::SETS * tiles);
  for (int n = 0; n < S::IMAGES; ++n) {
    float* const middle = shared + n % 2 * MiddleInScratch<S>::FLOATS;
    for (int chunk = static_cast<int>(chunks.begin); chunk < chunks.end; ++chunk) {
      const Ahead ahead = chunk + 1 < chunks.end ? M::widen_weights(weights.widen, chunk + 1)
                                                 : M::narrow_weights(weights.narrow, static_cast<int>(places.begin / tiles));
      Vec totals[S::WIDEN_VECTORS] = {};
      middle_chunk<S, MiddleInScratch<S>>(x + n * S::X.n, weights, worker.scratch, middle + chunk * S::WIDEN_VECTORS * MiddleInScratch<S>::strides.block,
                                          ahead, n, chunk, 0, S::OUT_HEIGHT, totals, widened, filtered);
    }
    worker.wait();
    for (long place = places.begin; place < places.end;) {
      const int set = static_cast<int>(place / tiles), begin = static_cast<int>(place % tiles);
      const int end = places.end - place < tiles - begin ? begin + static_cast<int>(places.end - place) : tiles;
      narrow_set<S>(middle, weights, y + n * S::Y.n, n, set, 0, begin, end, COUNT, narrowed);
      place += end - begin;
    }
  }
}

// Without the second 1x1 convolution: y is the middle, and `sums` [n][band][middle channel] its sums over the pixels of
// each band, which a squeeze-and-excite wants. Chunks of channels and bands are shared by the workers.
template <class S, class Widened, class Filtered>
void widen_depthwise(const Worker& worker, const float* x, const MobileWeights& weights, float* y, float* sums, Widened widened, Filtered filtered) {
  using M = MobileShape<S>;
  clear_zeros<S>(worker.scratch);
  const Range range = worker.split(1L * S::IMAGES * M::BANDS * M::CHUNKS);
  for (long i = range.begin; i < range.end; ++i) {
    const int chunk = static_cast<int>(i % M::CHUNKS), band = static_cast<int>(i / M::CHUNKS % M::BANDS), n = static_cast<int>(i / M::CHUNKS / M::BANDS);
    Vec totals[S::WIDEN_VECTORS] = {};
    const int group = chunk * S::WIDEN_VECTORS, begin = band * S::BAND;
    middle_chunk<S, MiddleInResult<S>>(x + n * S::X.n, weights, worker.scratch, y + n * S::Y.n + group * S::Y.block + begin * S::Y.h,
                                       M::widen_weights(weights.widen, chunk + 1), n, chunk, begin, M::band_end(band), totals, widened, filtered);
    if constexpr (S::SUMS) {
      float* const to = sums + (1L * n * M::BANDS + band) * S::MIDDLE_CHANNELS + group * LANES;
      for (int v = 0; v < S::WIDEN_VECTORS && group + v < M::GROUPS; ++v)
        store_channels<S::MIDDLE_CHANNELS, false>(to + v * LANES, totals[v], (group + v) * LANES);
    }
  }
}

}  // namespace graphopt
