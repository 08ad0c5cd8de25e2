// Sums and maxima across lanes, of several vectors at once: one vector whose lane i is what vector i folds to.
//
// Lanes are folded in halves, 8 apart, then 4, 2 and 1, whatever the number of vectors: as `sum_lanes` does it.
#pragma once

#include "simd.hpp"
#include "transpose.hpp"

namespace graphopt {

struct Sum {
  GRAPHOPT_INLINE Vec operator()(Vec x, Vec y) const { return x + y; }
};
// As torch's max: NaN where either is NaN.
struct Maximum {
  GRAPHOPT_INLINE Vec operator()(Vec x, Vec y) const { return maximum(x, y); }
};

namespace folding {
#if defined(__AVX512F__)
// Both halves of x side by side with those of y, folded; then quarters, pairs, neighbours. x and y take turns, so
// that the lanes of a row end where its bits say.
template <class Op> GRAPHOPT_INLINE Vec halves(Vec x, Vec y, Op op) {
  return op(shuffled<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(x, y), shuffled<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(x, y));
}
template <class Op> GRAPHOPT_INLINE Vec quarters(Vec x, Vec y, Op op) {
  return op(shuffled<0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27>(x, y), shuffled<4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31>(x, y));
}
template <class Op> GRAPHOPT_INLINE Vec pairs(Vec x, Vec y, Op op) {
  return op(shuffled<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(x, y), shuffled<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(x, y));
}
template <class Op> GRAPHOPT_INLINE Vec neighbours(Vec x, Vec y, Op op) {
  return op(shuffled<0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30>(x, y), shuffled<1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31>(x, y));
}
#endif
}  // namespace folding

// Lane i is rows[i] folded, for i < ROWS (1 to 16); other lanes are folds of some of the rows.
template <int ROWS, class Op> GRAPHOPT_INLINE Vec fold_rows(const Vec* rows, Op op) {
  static_assert(ROWS >= 1 && ROWS <= LANES, "a vector has 16 lanes");
#if defined(__AVX512F__)
  using namespace folding;
  constexpr int A = ROWS > 8 ? 8 : ROWS, B = A > 4 ? 4 : A, C = B > 2 ? 2 : B;
  Vec a[A], b[B], c[C];
  GRAPHOPT_UNROLL for (int i = 0; i < A; ++i) a[i] = halves(rows[i], rows[i + 8 < ROWS ? i + 8 : i], op);
  GRAPHOPT_UNROLL for (int i = 0; i < B; ++i) b[i] = quarters(a[i], a[i + 4 < A ? i + 4 : i], op);
  GRAPHOPT_UNROLL for (int i = 0; i < C; ++i) c[i] = pairs(b[i], b[i + 2 < B ? i + 2 : i], op);
  return neighbours(c[0], c[C - 1], op);
#else
  Vec turned[LANES];
  for (int i = 0; i < LANES; ++i) turned[i] = rows[i < ROWS ? i : 0];
  transpose16(turned);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) turned[i] = op(turned[i], turned[i + half]);
  return turned[0];
#endif
}

}  // namespace graphopt
