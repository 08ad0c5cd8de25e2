// Winograd's minimal filtering F(m, 3): m outputs of a 3-tap filter with m + 2 products instead of 3 m.
//
//   y = A^T [ (G w) * (B^T d) ]          d: m + 2 inputs, w: 3 taps, * elementwise
//
// It is polynomial multiplication: evaluate at m + 2 points, multiply, interpolate (A. Lavin and S. Gray,
// "Fast Algorithms for Convolutional Neural Networks", 2015, sections 4 and 5). The points are 0, infinity
// and pairs +-p, which share their even and odd halves, so that F(6, 3) costs 24 additions and FMAs on the
// way in and 20 on the way out. The same points in the same order make G (kernels/winograd_transforms.py).
//
// In two dimensions the transforms are applied along both axes of a tile.
#pragma once

#include "simd.hpp"

namespace graphopt {

// The pairs +-p. 1.5 instead of the usual 2 makes the largest error of F(4, 3) about 1.6 times smaller.
template <int ORDER> struct WinogradPoints;
template <> struct WinogradPoints<2> { static constexpr float PAIRS[] = {1.0f}; };
template <> struct WinogradPoints<4> { static constexpr float PAIRS[] = {1.0f, 1.5f}; };
template <> struct WinogradPoints<6> { static constexpr float PAIRS[] = {1.0f, 0.5f, 2.0f}; };

// Coefficients of prod (x^2 - p^2) over all pairs, or all but one, by powers of x^2; the last is 1.
template <int ORDER, int WITHOUT = -1> struct WinogradPolynomial {
  static constexpr int COUNT = ORDER / 2 + (WITHOUT < 0);
  float coefficients[COUNT]{1.0f};

  constexpr WinogradPolynomial() {
    int degree = 0;
    for (int pair = 0; pair < ORDER / 2; ++pair) {
      if (pair == WITHOUT) continue;
      const float square = WinogradPoints<ORDER>::PAIRS[pair] * WinogradPoints<ORDER>::PAIRS[pair];
      ++degree;
      for (int i = degree; i >= 0; --i) coefficients[i] = (i > 0 ? coefficients[i - 1] : 0.0f) - (i < degree ? square * coefficients[i] : 0.0f);
    }
  }

  // sum coefficients[i] * d[2 i]
  GRAPHOPT_INLINE Vec apply(const Vec* d) const {
    Vec sum = d[2 * (COUNT - 1)];
    GRAPHOPT_UNROLL for (int i = COUNT - 2; i >= 0; --i) sum = fma(splat(coefficients[i]), d[2 * i], sum);
    return sum;
  }
};

template <int ORDER, int PAIR> GRAPHOPT_INLINE void winograd_input_pair(const Vec* d, Vec* v) {
  constexpr WinogradPolynomial<ORDER, PAIR> others;
  const Vec even = others.apply(d + 2), odd = others.apply(d + 1), point = splat(WinogradPoints<ORDER>::PAIRS[PAIR]);
  v[2 * PAIR + 1] = fma(point, odd, even);
  v[2 * PAIR + 2] = fma(-point, odd, even);
  if constexpr (2 * (PAIR + 1) < ORDER) winograd_input_pair<ORDER, PAIR + 1>(d, v);
}

// v = B^T d, each of ORDER + 2 vectors.
template <int ORDER> GRAPHOPT_INLINE void winograd_input(const Vec* d, Vec* v) {
  constexpr WinogradPolynomial<ORDER> all;
  v[0] = all.apply(d);
  winograd_input_pair<ORDER, 0>(d, v);
  v[ORDER + 1] = all.apply(d + 1);
}

constexpr float winograd_power(float x, int exponent) { return exponent == 0 ? 1.0f : x * winograd_power(x, exponent - 1); }

template <int ORDER, int ROW> GRAPHOPT_INLINE void winograd_output_rows(Vec first, Vec last, const Vec* sum, const Vec* difference, Vec* y) {
  const Vec* half = ROW % 2 == 0 ? sum : difference;  // p^k and (-p)^k differ in sign for odd k
  Vec row = ROW == 0 ? first + half[0] : half[0];     // the first pair is +-1
  if constexpr (ORDER >= 4) row = fma(splat(winograd_power(WinogradPoints<ORDER>::PAIRS[1], ROW)), half[1], row);
  if constexpr (ORDER >= 6) row = fma(splat(winograd_power(WinogradPoints<ORDER>::PAIRS[2], ROW)), half[2], row);
  y[ROW] = ROW == ORDER - 1 ? row + last : row;
  if constexpr (ROW + 1 < ORDER) winograd_output_rows<ORDER, ROW + 1>(first, last, sum, difference, y);
}

// y = A^T m: ORDER vectors of ORDER + 2.
template <int ORDER> GRAPHOPT_INLINE void winograd_output(const Vec* m, Vec* y) {
  Vec sum[ORDER / 2], difference[ORDER / 2];
  GRAPHOPT_UNROLL for (int pair = 0; pair < ORDER / 2; ++pair) {
    sum[pair] = m[2 * pair + 1] + m[2 * pair + 2];
    difference[pair] = m[2 * pair + 1] - m[2 * pair + 2];
  }
  winograd_output_rows<ORDER, 0>(m[0], m[ORDER + 1], sum, difference, y);
}

}  // namespace graphopt
