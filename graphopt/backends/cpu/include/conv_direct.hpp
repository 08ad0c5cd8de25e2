// Convolution by its definition: y[o, pixel] = bias[o] + sum over c, kh, kw of w[o, c, kh, kw] * x[c, pixel at (kh, kw)].
//
//   S::IMAGES, GROUPS             images; groups of the convolution
//   S::IN_CHANNELS, OUT_CHANNELS  of all groups together
//   S::OUT_HEIGHT, OUT_WIDTH      pixels of y; S::KERNEL_H, KERNEL_W taps
//   S::X, S::Y                    Strides; X_LANE is 1, or the distance of two channels where x is planes
//   S::X_ROW, X_COLUMN            floats of x from one pixel of y to the next: stride * distance of rows, columns
//   S::X_TAP_H, X_TAP_W           floats of x from one tap to the next: dilation * distance of rows, columns
//   S::Y_PADDED                   all 16 channels of the last group of y exist
//   S::VECTORS, ROWS, COLUMNS     register tile: 16-channel vectors, and rows x columns of pixels
//   S::CHUNK                      input channels that are summed before the next tile: their weights stay in L1; a
//                                 multiple of 16, or all of a set's
//   S::BLOCK                      tiles that share a chunk of weights; partial sums wait in scratch
//   S::WEIGHTS_OUTER              walk over the images for each set of output channels, not the other way round
//   S::LONG_EPILOGUE              the epilogue is too long to be repeated for every sum of a tile
//
// A set of output vectors sums over the channels of all groups that it touches; weights between groups are zeros.
// w is [set of VECTORS output vectors][c / 16][kh][kw][c % 16][VECTORS][16] with room for DEPTH channels in each set;
// of planes [c][kh][kw] instead. x points to tap (0, 0) of pixel (0, 0): padding is before it, in the halo.
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"

namespace graphopt {

template <class S> struct DirectShape {
  static constexpr int TAPS = S::KERNEL_H * S::KERNEL_W;
  static constexpr int COLUMNS = even_tile(S::OUT_WIDTH, fit_pixels(S::COLUMNS));
  static constexpr int ROWS = even_tile(S::OUT_HEIGHT, REGISTERS >= 32 ? S::ROWS : 1);
  static constexpr int TILES_W = ceil_div(S::OUT_WIDTH, COLUMNS);
  static constexpr int TILES = ceil_div(S::OUT_HEIGHT, ROWS) * TILES_W;
  static constexpr int BLOCK = S::BLOCK * S::ROWS * S::COLUMNS / (ROWS * COLUMNS);
  static constexpr int BLOCKS = ceil_div(TILES, BLOCK);
  static constexpr int OUT_VECTORS = ceil_div(S::OUT_CHANNELS, LANES);
  static constexpr int SETS = ceil_div(OUT_VECTORS, S::VECTORS);
  static constexpr int LAST_VECTORS = OUT_VECTORS - (SETS - 1) * S::VECTORS;
  // Input channels of the groups that a set's output channels belong to.
  static constexpr int GROUP_IN = S::IN_CHANNELS / S::GROUPS, GROUP_OUT = S::OUT_CHANNELS / S::GROUPS;
  static constexpr int begin(int set) { return S::GROUPS == 1 ? 0 : set * S::VECTORS * LANES / GROUP_OUT * GROUP_IN; }
  static constexpr int end(int set) {
    const int last = (set + 1) * S::VECTORS * LANES;
    return S::GROUPS == 1 || last >= S::OUT_CHANNELS ? S::IN_CHANNELS : ceil_div(last, GROUP_OUT) * GROUP_IN;
  }
  static constexpr int depth() {
    int most = 0;
    for (int set = 0; set < SETS; ++set) most = end(set) - begin(set) > most ? end(set) - begin(set) : most;
    return most;
  }
  static constexpr int DEPTH = depth();
  static constexpr bool MIXED = S::GROUPS > 1 && DEPTH > GROUP_IN;  // some set touches more than one group
  static constexpr bool CHUNKED = S::CHUNK < DEPTH;
  // floats of weights of `channels` input channels and `vectors` output vectors
  static constexpr long weights(int channels, int vectors) { return static_cast<long>(channels) * TAPS * vectors * LANES; }
  static constexpr long near(int vectors) { return weights_ahead(weights(CHUNKED ? S::CHUNK : DEPTH, vectors) * 4, vectors); }
  // What is summed in one go: 16 channels of a tap, or a row of taps of a plane.
  static constexpr int RUN = S::X_LANE == 1 ? LANES : S::KERNEL_W, RUNS = S::X_LANE == 1 ? TAPS : S::KERNEL_H;
  // Cache lines of the next chunk's weights that each tile asks for per run: together, all of them.
  static constexpr int lines_ahead(int vectors) { return ceil_div(RUN * vectors, BLOCK < TILES ? BLOCK : TILES); }
};

// Input channels that a pass sums, and the weights that will be needed after them.
struct DirectChannels {
  int begin, end;
  const float* ahead;
};

// Asks for the pixels of a tile in the next run. They share no cache lines, and all would miss L1 at once.
template <class S, class T> GRAPHOPT_INLINE void direct_prefetch(const float* x) {
  constexpr int COLUMNS = DirectShape<S>::COLUMNS;
  GRAPHOPT_UNROLL for (int p = 0; p < T::PIXELS; ++p) prefetch_near(x + p / COLUMNS * S::X_ROW + p % COLUMNS * S::X_COLUMN);
}

// The part of a tile's sum that some channels make. `after` is where x goes on after these channels: the next tile.
template <class S, int WIDTH, class T> GRAPHOPT_INLINE void direct_add(T& sums, const float* x, const float* after, const float* w, DirectChannels channels) {
  using D = DirectShape<S>;
  constexpr int STEP = WIDTH * LANES, LINES = D::lines_ahead(WIDTH);
  constexpr long NEAR = D::near(WIDTH);
  const auto [begin, end, first_ahead] = channels;
  const float* ahead = first_ahead;
  if constexpr (S::X_LANE == 1) {
    for (int c = begin, lanes = LANES; c < end; c += lanes) {
      if constexpr (D::GROUP_IN % LANES != 0) lanes = LANES - c % LANES < end - c ? LANES - c % LANES : end - c;
      const float* group = x + c / LANES * S::X.block + c % LANES;
      if constexpr (D::TAPS == 1) direct_prefetch<S, T>(c + lanes < end ? group + S::X.block : after);
      for (int h = 0; h < S::KERNEL_H; ++h)
        for (int k = 0; k < S::KERNEL_W; ++k) {
          GRAPHOPT_UNROLL for (int line = 0; line < LINES; ++line) prefetch(ahead + line * LANES);
          sums.template add<1, S::X_ROW, S::X_COLUMN, STEP, NEAR>(group + h * S::X_TAP_H + k * S::X_TAP_W, w, lanes);
          w += lanes * STEP;
          ahead += LINES * LANES;
        }
    }
  } else {
    for (int c = begin; c < end; ++c)
      for (int h = 0; h < S::KERNEL_H; ++h) {
        const float* row = x + c * S::X_LANE + h * S::X_TAP_H;
        if constexpr (S::X_COLUMN >= LANES) direct_prefetch<S, T>(h + 1 < S::KERNEL_H ? row + S::X_TAP_H : x + (c + 1) * S::X_LANE);
        GRAPHOPT_UNROLL for (int line = 0; line < LINES; ++line) prefetch(ahead + line * LANES);
        sums.template add<S::X_TAP_W, S::X_ROW, S::X_COLUMN, STEP, NEAR>(row, w, S::KERNEL_W);
        w += S::KERNEL_W * STEP;
        ahead += LINES * LANES;
      }
  }
}

// Between groups, 0 * Inf and 0 * NaN have put NaNs where none belong: sums each number again over its own group.
// `saved` are sums of VECTORS vectors from `vector` of the set.
template <class S, int WIDTH, int VECTORS>
__attribute__((noinline)) void direct_separate(float* saved, const float* x, const float* w, const float* bias, int set, int vector) {
  using D = DirectShape<S>;
  constexpr int STEP = WIDTH * LANES, PIXELS = D::ROWS * D::COLUMNS;
  const int begin = D::begin(set), end = D::end(set);
  for (int v = vector; v < vector + VECTORS; ++v)
    for (int p = 0; p < PIXELS; ++p, saved += LANES)
      for (int lane = 0; lane < LANES; ++lane) {
        const int output = (set * S::VECTORS + v) * LANES + lane, first = output / D::GROUP_OUT * D::GROUP_IN;
        if (output >= S::OUT_CHANNELS) continue;
        float sum = bias[v * LANES + lane];
        for (int c = first; c < first + D::GROUP_IN; ++c) {
          // weights of the channels from `start` to the end of c's vector are [tap][channel]
          const int start = c / LANES * LANES > begin ? c / LANES * LANES : begin;
          const int channels = (start / LANES + 1) * LANES < end ? (start / LANES + 1) * LANES - start : end - start;
          const float* weights = w + D::weights(start - begin, WIDTH) + (c - start) * STEP + v * LANES + lane;
          const float* pixel = x + p / D::COLUMNS * S::X_ROW + p % D::COLUMNS * S::X_COLUMN + c / LANES * S::X.block + c % LANES;
          for (int tap = 0; tap < D::TAPS; ++tap) sum += weights[tap * channels * STEP] * pixel[tap / S::KERNEL_W * S::X_TAP_H + tap % S::KERNEL_W * S::X_TAP_W];
        }
        saved[lane] = sum;
      }
}

// Where a tile is in y. Its first rows and columns may be those of the tile before: these are not stored again.
struct DirectPlace {
  int image, channel, row, column;
  int first_row, first_column;
};

template <class S, int VECTORS, int ROWS, int COLUMNS, class Epilogue>
GRAPHOPT_INLINE void direct_store(const Sums<VECTORS, ROWS, COLUMNS>& sums, float* y, const DirectPlace& at, const Epilogue& epilogue) {
  float* corner = y + at.image * S::Y.n + at.channel / LANES * S::Y.block + at.row * S::Y.h + at.column * S::Y.w;
  for_each_sum<S::LONG_EPILOGUE>(sums, [&](int v, int p, Vec sum) {
    const int row = p / COLUMNS, column = p % COLUMNS, channel = at.channel + v * LANES;
    if (row < at.first_row || column < at.first_column) return;
    const Vec value = epilogue(sum, at.image, channel, at.row + row, at.column + column);
    store_channels<S::OUT_CHANNELS, S::Y_PADDED>(corner + v * S::Y.block + row * S::Y.h + column * S::Y.w, value, channel);
  });
}

// Tiles `begin` to `end` of an image, and set `set` of WIDTH output vectors.
template <class S, int WIDTH, class Epilogue>
__attribute__((noinline)) void direct_block(const float* x, const float* w, const float* bias, float* y, float* scratch, int image, int set, int begin, int end,
                                            const Epilogue& epilogue) {
  using D = DirectShape<S>;
  constexpr int VECTORS = fit_vectors(WIDTH);
  using T = Sums<VECTORS, D::ROWS, D::COLUMNS>;
  constexpr int RUN = S::X_LANE == 1 ? sum_run(D::CHUNKED ? S::CHUNK : D::DEPTH, D::TAPS) : D::DEPTH;
  alignas(64) float own[D::CHUNKED || RUN >= D::DEPTH ? LANES : VECTORS * T::PIXELS * LANES];  // unfinished sums of a tile
  const int channel = set * S::VECTORS * LANES, from = D::begin(set), to = D::end(set);
  [[maybe_unused]] const float* all_weights = w;
  for (int first = from, last; first < to; first = last) {
    last = D::CHUNKED && first / LANES * LANES + S::CHUNK < to ? first / LANES * LANES + S::CHUNK : to;
    const float* ahead = w + D::weights(last - first, WIDTH);
    const int ahead_step = (S::X_LANE == 1 ? ceil_div(last - first, LANES) : last - first) * D::RUNS * D::lines_ahead(WIDTH) * LANES;
    float* saved = scratch;
    for (int tile = begin; tile < end; ++tile, ahead += ahead_step) {
      const int wanted_row = tile / D::TILES_W * D::ROWS, wanted_column = tile % D::TILES_W * D::COLUMNS;
      const int row = wanted_row + D::ROWS > S::OUT_HEIGHT ? S::OUT_HEIGHT - D::ROWS : wanted_row;
      const int column = wanted_column + D::COLUMNS > S::OUT_WIDTH ? S::OUT_WIDTH - D::COLUMNS : wanted_column;
      const float* corner = x + row * S::X_ROW + column * S::X_COLUMN;
      const float* after = corner + first / LANES * S::X.block + D::COLUMNS * S::X_COLUMN;
      for (int v = 0; v < WIDTH; v += VECTORS, saved += VECTORS * T::PIXELS * LANES) {
        T sums;
        float* const unfinished = D::CHUNKED ? saved : own;
        for (int run = first, stop; run < last; run = stop) {
          stop = RUN < D::DEPTH && run / LANES * LANES + RUN < last ? run / LANES * LANES + RUN : last;
          if (run == from) sums.start(bias + v * LANES);
          else sums.clear();
          const float* next = stop < last ? corner + stop / LANES * S::X.block : after;
          const float* run_ahead = ahead + static_cast<long>(run / LANES - first / LANES) * D::RUNS * D::lines_ahead(WIDTH) * LANES;
          direct_add<S, WIDTH>(sums, corner, next, w + D::weights(run - first, WIDTH) + v * LANES, {run, stop, run_ahead});
          if (run != from) sums.add_saved(unfinished);
          if (stop < last) sums.save(unfinished);
        }
        if constexpr (D::MIXED)
          if (last == to && sums.any_nan()) {
            alignas(64) float mixed[VECTORS * T::PIXELS * LANES];
            sums.save(mixed);
            direct_separate<S, WIDTH, VECTORS>(mixed, corner, all_weights, bias, set, v);
            sums.resume(mixed);
          }
        if (!D::CHUNKED || last == to)
          direct_store<S>(sums, y, {image, channel + v * LANES, row, column, wanted_row - row, wanted_column - column}, epilogue);
        else sums.save(saved);
      }
    }
    w += D::weights(last - first, WIDTH);
  }
}

template <class S, class Epilogue>
void direct_convolution(const Worker& worker, const float* x, const float* w, const float* bias, float* y, float* scratch, Epilogue epilogue) {
  using D = DirectShape<S>;
  constexpr int PLACES = S::IMAGES * D::BLOCKS;
  const Range work = worker.split(static_cast<long>(D::SETS) * PLACES);
  for (long unit = work.begin; unit < work.end; ++unit) {
    const int set = static_cast<int>(S::WEIGHTS_OUTER ? unit / PLACES : unit % D::SETS);
    const int place = static_cast<int>(S::WEIGHTS_OUTER ? unit % PLACES : unit / D::SETS);
    const int image = place / D::BLOCKS, begin = place % D::BLOCKS * D::BLOCK;
    const int end = begin + D::BLOCK < D::TILES ? begin + D::BLOCK : D::TILES;
    const float* image_x = x + image * S::X.n;
    const float* set_w = w + set * D::weights(D::DEPTH, S::VECTORS);
    const float* set_bias = bias + set * S::VECTORS * LANES;
    if (D::LAST_VECTORS != S::VECTORS && set == D::SETS - 1)
      direct_block<S, D::LAST_VECTORS>(image_x, set_w, set_bias, y, scratch, image, set, begin, end, epilogue);
    else
      direct_block<S, S::VECTORS>(image_x, set_w, set_bias, y, scratch, image, set, begin, end, epilogue);
  }
}

}  // namespace graphopt
