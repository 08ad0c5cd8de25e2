// Register tiles of a matrix product: acc[i][j] += sum over k of a(i, k) * b(k, j), lanes along the columns of b.
//
// A tile is `ROWS` rows of a by `VECTORS` vectors of b. Per step of k it loads each vector of b and broadcasts each
// element of a once, so that tall tiles of two vectors keep both FMA units busy with little load traffic.
#pragma once

#include <type_traits>

#include "simd.hpp"

namespace graphopt {

// Vectors of a tile's row, `wanted` on a machine with 32 registers.
constexpr int tile_vectors(int wanted) { return REGISTERS >= 16 ? wanted : 1; }

// Rows of a tile: its accumulators, one row of b and one broadcast element must fit in the registers.
constexpr int tile_rows(int vectors) {
  const int fit = (REGISTERS - 1 - vectors) / vectors;
  return fit < 1 ? 1 : fit > 14 ? 14 : fit;
}

// `total` rows in as few pieces of at most `most` as there can be, of two sizes that differ by one: large ones first.
struct Pieces {
  int count, size, large;  // `large` pieces of `size`, the others are one smaller
  constexpr Pieces(int total, int most)
      : count((total + most - 1) / most), size(count ? (total + count - 1) / count : 0), large(count ? total - count * (size - 1) : 0) {}
  constexpr int start(int piece) const { return piece * size - (piece > large ? piece - large : 0); }
};

// Calls f(integral_constant<int, SIZE>, start) for pieces `begin` to `end` of Pieces(TOTAL, MOST).
template <int TOTAL, int MOST, class F> GRAPHOPT_INLINE void for_pieces(int begin, int end, F f) {
  constexpr Pieces pieces(TOTAL, MOST);
  int piece = begin;
  for (; piece < end && piece < pieces.large; ++piece) f(std::integral_constant<int, pieces.size>{}, pieces.start(piece));
  if constexpr (pieces.large < pieces.count)
    for (; piece < end; ++piece) f(std::integral_constant<int, pieces.size - 1>{}, pieces.start(piece));
}
template <int TOTAL, int MOST, class F> GRAPHOPT_INLINE void for_pieces(F f) {
  for_pieces<TOTAL, MOST>(0, Pieces(TOTAL, MOST).count, f);
}

// Accumulators of a tile.
template <int ROWS, int VECTORS> struct Tile {
  static_assert(ROWS >= 1 && VECTORS >= 1, "a tile has rows and vectors");
  Vec at[ROWS][VECTORS];

  GRAPHOPT_INLINE void clear() {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) at[i][j] = zero();
  }

  // Row i of the tile is at y + i * row.
  GRAPHOPT_INLINE void load_from(const float* y, long row) {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) at[i][j] = load(y + i * row + LANES * j);
  }
  GRAPHOPT_INLINE void add_from(const float* y, long row) {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) at[i][j] += load(y + i * row + LANES * j);
  }
  GRAPHOPT_INLINE void store_to(float* y, long row) const {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) store(y + i * row + LANES * j, at[i][j]);
  }
  // f(vector, row, index of the vector) for all of the tile.
  template <class F> GRAPHOPT_INLINE void for_each(F f) const {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) f(at[i][j], i, j);
  }
  // Multiplies row i by factors[i].
  GRAPHOPT_INLINE void scale_rows(const float* factors) {
    GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) {
      const Vec factor = splat(factors[i]);
      GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) at[i][j] *= factor;
    }
  }

  // `depth` steps of k. Element (i, k) of a is at i * A_ROW + k * A_STEP, vector (k, j) of b at k * B_STEP + 16 * j.
  template <long A_ROW, long A_STEP, long B_STEP> GRAPHOPT_INLINE void multiply(const float* a, const float* b, int depth) {
    for (int k = 0; k < depth; ++k, a += A_STEP, b += B_STEP) {
      Vec row[VECTORS];
      GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) row[j] = load(b + LANES * j);
      GRAPHOPT_UNROLL for (int i = 0; i < ROWS; ++i) {
        const Vec x = splat(a[i * A_ROW]);
        GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) at[i][j] = fma(x, row[j], at[i][j]);
      }
    }
  }
};

}  // namespace graphopt
