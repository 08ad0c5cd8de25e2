// The register tile of dense convolutions and products: VECTORS x 16 output channels of ROWS x COLUMNS pixels.
//
// Per step of the sum it loads one vector of weights per output vector and broadcasts one number of x per pixel.
// All places of x are constant displacements from one pointer. 2 vectors x 14 pixels or 3 x 8 keep two FMA units
// busy with less than one load a cycle: 97% of peak from the first cache level (Cascade Lake, 150 GFLOPS).
#pragma once

#include "simd.hpp"

namespace graphopt {

constexpr int ceil_div(int total, int unit) { return (total + unit - 1) / unit; }

// Output vectors and pixels of a tile that stay in registers; tiles are given for machines with 32 of them.
constexpr int fit_vectors(int wanted) { return REGISTERS >= 32 ? wanted : 1; }
constexpr int fit_pixels(int wanted) { return REGISTERS >= 32 || wanted < REGISTERS - 2 ? wanted : REGISTERS - 2; }

// `total` pixels in tiles of at most `most`, as even as they can be.
constexpr int even_tile(int total, int most) { return ceil_div(total, ceil_div(total, most)); }

// Floats between weights that are used and weights to ask for, `width` vectors a step; 0 where `bytes` of them that many
// tiles use one after the other stay in the first cache level anyway.
constexpr long weights_ahead(long bytes, int width) { return bytes > 24 << 10 ? 12L * width * LANES : 0; }

// Steps of a sum that are added up before they are added to what came before them. Each addition is wrong by half a unit in
// the last place of the sum so far, so that errors grow with the length of a run. (Products of BLAS libraries are blocked
// like this, too.) A step of direct convolutions and products is a multiply-add for each output.
constexpr int SUM_RUN = 768;

// Input channels of a run, a multiple of 16, where `total` with so many taps each are summed: runs of about equal length.
// Outputs of a transposed convolution that no input reaches have no taps: one run of nothing.
constexpr int sum_run(int total, int taps = 1) {
  if (total == 0 || taps == 0) return ceil_div(total > 0 ? total : 1, LANES) * LANES;
  const int most = SUM_RUN / taps < LANES ? LANES : SUM_RUN / taps;
  return ceil_div(even_tile(total, most), LANES) * LANES;
}

template <int VECTORS, int ROWS, int COLUMNS> struct Sums {
  static constexpr int PIXELS = ROWS * COLUMNS;
  Vec at[VECTORS][PIXELS];

  // Every pixel starts as the bias.
  GRAPHOPT_INLINE void start(const float* bias) {
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) {
      const Vec value = load(bias + v * LANES);
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) at[v][p] = value;
    }
  }

  GRAPHOPT_INLINE void clear() {
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) at[v][p] = zero();
  }

  // What `save` put there.
  GRAPHOPT_INLINE void resume(const float* saved) {
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v)
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) at[v][p] = load(saved + (v * PIXELS + p) * LANES);
  }

  // The same, added.
  GRAPHOPT_INLINE void add_saved(const float* saved) {
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v)
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) at[v][p] += load(saved + (v * PIXELS + p) * LANES);
  }

  GRAPHOPT_INLINE void save(float* to) const {
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v)
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) store(to + (v * PIXELS + p) * LANES, at[v][p]);
  }

  // True where some sum is NaN, or infinite.
  GRAPHOPT_INLINE bool any_nan() const {
    Vec found = zero();
    GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v)
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) found = fma(at[v][p], zero(), found);
    return sum_lanes(found) != 0.0f;
  }

  // Adds w[k] * x[pixel, k] for `count` neighbours k, those of x LANE floats apart, those of w WIDTH. Rows and columns
  // of pixels are ROW and COLUMN floats apart. Asks for the weights AHEAD floats after those that it uses, if not 0.
  // (Unrolling over k makes no difference, or a small one to the worse.)
  template <long LANE, long ROW, long COLUMN, int WIDTH, long AHEAD = 0> GRAPHOPT_INLINE void add(const float* x, const float* w, int count) {
    for (int k = 0; k < count; ++k, x += LANE) {
      // Where pixels are neighbours of each other's neighbours, the compiler would keep numbers for later steps, in
      // registers that it does not have.
      if constexpr (COLUMN % LANE == 0 && COLUMN < LANES * LANE) x = opaque(x);
      if constexpr (AHEAD != 0) GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) prefetch_near(w + AHEAD + k * WIDTH + v * LANES);
      Vec weights[VECTORS];
      GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + k * WIDTH + v * LANES);
      GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) {
        const Vec value = splat(x[p / COLUMNS * ROW + p % COLUMNS * COLUMN]);
        GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) at[v][p] = fma(weights[v], value, at[v][p]);
      }
    }
  }
};

// Calls f(v, p, sum) for each sum of a tile; where the work per sum is LONG, from a loop over memory.
template <bool LONG, int VECTORS, int ROWS, int COLUMNS, class F> GRAPHOPT_INLINE void for_each_sum(const Sums<VECTORS, ROWS, COLUMNS>& sums, F f) {
  constexpr int PIXELS = ROWS * COLUMNS;
  if constexpr (LONG) {
    alignas(64) float buffer[VECTORS * PIXELS * LANES];
    sums.save(buffer);
    for (int v = 0; v < VECTORS; ++v)
      for (int p = 0; p < PIXELS; ++p) f(v, p, load(buffer + (v * PIXELS + p) * LANES));
  } else {
    GRAPHOPT_UNROLL for (int p = 0; p < PIXELS; ++p) GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) f(v, p, sums.at[v][p]);
  }
}

// Stores channels `channel` to `channel` + 15 of CHANNELS; those that do not exist only where y is PADDED.
template <int CHANNELS, bool PADDED> GRAPHOPT_INLINE void store_channels(float* y, Vec value, int channel) {
  constexpr int TAIL = CHANNELS % LANES;
  if (!PADDED && TAIL != 0 && channel + LANES > CHANNELS) store_first(y, value, TAIL);
  else store(y, value);
}

}  // namespace graphopt
