// 16 pixels of 16 channels from memory to memory, lanes turned from channels to pixels or back.
#pragma once

#include "transpose.hpp"

namespace graphopt {

// Lanes 0, 2, 4, ... of both.
GRAPHOPT_INLINE Vec even_lanes(Vec x, Vec y) {
#if defined(__AVX512F__)
  return shuffled<0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30>(x, y);
#else
  float lanes[2 * LANES];
  store(lanes, x);
  store(lanes + LANES, y);
  for (int i = 0; i < LANES; ++i) lanes[i] = lanes[2 * i];
  return load(lanes);
#endif
}

#if defined(__AVX512F__)
namespace transposing {
// Four quarters of 16 rows, each from its own place: what costs three shuffles in registers is free in the load.
GRAPHOPT_INLINE Vec load_quarters(const float* a, const float* b, const float* c, const float* d) {
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(a));
  v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(b));
  v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(c));
  v = _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(d));
  return reinterpret_cast<Vec>(v);
}
}  // namespace transposing

// Calls use(j, v) for each column j of 16 rows; `row(i)` points to row i.
template <class Row, class Use> GRAPHOPT_INLINE void transpose_rows(Row row, Use use) {
  using namespace transposing;
  Vec a[4][4];  // quarter q of a[j][i] holds floats 4 j to 4 j + 3 of row 4 q + i
  GRAPHOPT_UNROLL for (int i = 0; i < 4; ++i) {
    const float *p = row(i), *q = row(4 + i), *r = row(8 + i), *s = row(12 + i);
    GRAPHOPT_UNROLL for (int j = 0; j < 4; ++j) a[j][i] = load_quarters(p + 4 * j, q + 4 * j, r + 4 * j, s + 4 * j);
  }
  GRAPHOPT_UNROLL for (int j = 0; j < 4; ++j) {
    const Vec low = low_lanes(a[j][0], a[j][1]), high = high_lanes(a[j][0], a[j][1]);
    const Vec low_next = low_lanes(a[j][2], a[j][3]), high_next = high_lanes(a[j][2], a[j][3]);
    use(4 * j, low_pairs(low, low_next));
    use(4 * j + 1, high_pairs(low, low_next));
    use(4 * j + 2, low_pairs(high, high_next));
    use(4 * j + 3, high_pairs(high, high_next));
  }
}
#else
// Calls use(j, v) for each column j of 16 rows; `row(i)` points to row i.
template <class Row, class Use> inline void transpose_rows(Row row, Use use) {
  float columns[LANES][LANES];
  for (int i = 0; i < LANES; ++i) {
    const float* p = row(i);
    for (int j = 0; j < LANES; ++j) columns[j][i] = p[j];
  }
  for (int j = 0; j < LANES; ++j) use(j, load(columns[j]));
}
#endif

}  // namespace graphopt
