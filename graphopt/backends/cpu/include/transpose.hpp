// Transposing 16 x 16 floats in registers.
#pragma once

#include "simd.hpp"

namespace graphopt {

#if defined(__AVX__)
// Lanes of x (0 to n - 1) and y (n to 2 n - 1) of a part of n lanes in another order.
template <int... I> GRAPHOPT_INLINE Part shuffled(Part x, Part y) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, I...);
#else
  return __builtin_shuffle(x, y, IntPart{I...});
#endif
}
#endif

#if defined(__AVX512F__)
namespace transposing {
// Lanes, pairs and quarters that x and y exchange: the usual network of 64 shuffles.
GRAPHOPT_INLINE Vec low_lanes(Vec x, Vec y) { return shuffled<0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29>(x, y); }
GRAPHOPT_INLINE Vec high_lanes(Vec x, Vec y) { return shuffled<2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31>(x, y); }
GRAPHOPT_INLINE Vec low_pairs(Vec x, Vec y) { return shuffled<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(x, y); }
GRAPHOPT_INLINE Vec high_pairs(Vec x, Vec y) { return shuffled<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(x, y); }
GRAPHOPT_INLINE Vec even_quarters(Vec x, Vec y) { return shuffled<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(x, y); }
GRAPHOPT_INLINE Vec odd_quarters(Vec x, Vec y) { return shuffled<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(x, y); }
}  // namespace transposing

// Lane i of row j becomes lane j of row i.
GRAPHOPT_INLINE void transpose16(Vec (&rows)[LANES]) {
  using namespace transposing;
  Vec a[LANES], b[LANES];
  GRAPHOPT_UNROLL for (int i = 0; i < LANES; i += 2) {
    a[i] = low_lanes(rows[i], rows[i + 1]);
    a[i + 1] = high_lanes(rows[i], rows[i + 1]);
  }
  GRAPHOPT_UNROLL for (int i = 0; i < LANES; i += 4) {
    b[i] = low_pairs(a[i], a[i + 2]);
    b[i + 1] = high_pairs(a[i], a[i + 2]);
    b[i + 2] = low_pairs(a[i + 1], a[i + 3]);
    b[i + 3] = high_pairs(a[i + 1], a[i + 3]);
  }
  // quarter q of b[4 r + i] holds column 4 q + i of rows 4 r to 4 r + 3
  GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) {
    const Vec even_a = even_quarters(b[i], b[4 + i]), even_b = even_quarters(b[8 + i], b[12 + i]);
    const Vec odd_a = odd_quarters(b[i], b[4 + i]), odd_b = odd_quarters(b[8 + i], b[12 + i]);
    rows[i] = even_quarters(even_a, even_b);
    rows[8 + i] = odd_quarters(even_a, even_b);
    rows[4 + i] = even_quarters(odd_a, odd_b);
    rows[12 + i] = odd_quarters(odd_a, odd_b);
  }
}
#elif defined(__AVX__)
namespace transposing {
// Lane i of row j becomes lane j of row i, for 8 x 8.
GRAPHOPT_INLINE void transpose8(Part (&rows)[8]) {
  Part a[8], b[8];
  GRAPHOPT_UNROLL for (int i = 0; i < 8; i += 2) {
    a[i] = shuffled<0, 8, 1, 9, 4, 12, 5, 13>(rows[i], rows[i + 1]);
    a[i + 1] = shuffled<2, 10, 3, 11, 6, 14, 7, 15>(rows[i], rows[i + 1]);
  }
  GRAPHOPT_UNROLL for (int i = 0; i < 8; i += 4) GRAPHOPT_UNROLL for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = shuffled<0, 1, 8, 9, 4, 5, 12, 13>(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = shuffled<2, 3, 10, 11, 6, 7, 14, 15>(a[i + j], a[i + j + 2]);
    }
  GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) {
    rows[i] = shuffled<0, 1, 2, 3, 8, 9, 10, 11>(b[i], b[i + 4]);
    rows[i + 4] = shuffled<4, 5, 6, 7, 12, 13, 14, 15>(b[i], b[i + 4]);
  }
}
}  // namespace transposing

// Lane i of row j becomes lane j of row i.
inline void transpose16(Vec (&rows)[LANES]) {
  Part blocks[4][8];
  for (int i = 0; i < 8; ++i) {
    blocks[0][i] = rows[i].a;
    blocks[1][i] = rows[i].b;
    blocks[2][i] = rows[8 + i].a;
    blocks[3][i] = rows[8 + i].b;
  }
  for (auto& block : blocks) transposing::transpose8(block);
  for (int i = 0; i < 8; ++i) {
    rows[i] = {blocks[0][i], blocks[2][i]};
    rows[8 + i] = {blocks[1][i], blocks[3][i]};
  }
}
#else
// Lane i of row j becomes lane j of row i.
inline void transpose16(Vec (&rows)[LANES]) {
  float lanes[LANES][LANES], turned[LANES][LANES];
  for (int i = 0; i < LANES; ++i) store(lanes[i], rows[i]);
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < LANES; ++j) turned[j][i] = lanes[i][j];
  for (int i = 0; i < LANES; ++i) rows[i] = load(turned[i]);
}
#endif

}  // namespace graphopt
