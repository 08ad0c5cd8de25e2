// Attention of one query: lanes run along features for the scores, along keys for the softmax.
//
// For the few queries that would leave most lanes of a block empty: the last of 49 or 257, or the only one.
#pragma once

#include "attention_parts.hpp"
#include "fold.hpp"

namespace graphopt {

// FEATURES numbers of q and of each key, VALUES of each value; rows of keys and values are K_ROW and V_ROW apart.
template <int FEATURES, int VALUES, long K_ROW, long V_ROW> struct AttentionRow {
  static constexpr int WIDTH = attention_parts::vectors_of(FEATURES) * LANES;
  static constexpr int PANEL = REGISTERS >= 16 ? 4 : 1;  // vectors of values at a time

  // Loads 16 of `total` numbers from c on.
  template <int TOTAL> GRAPHOPT_INLINE static Vec part(const float* p, int c) {
    if (TOTAL % LANES == 0 || c + LANES <= TOTAL) return load(p + c);
    return load_first(p + c, TOTAL % LANES);
  }

  // scores[key] = q * k; q is padded with zeros. Scores behind `keys` up to a whole vector are -inf.
  static __attribute__((noinline)) void score(const float* q, const float* k, int keys, float* scores) {
    for (int key = 0; key < keys; key += LANES) {
      Vec sums[LANES];
      GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) sums[i] = zero();
      const int last = keys - key - 1;
      const float* rows = k + key * K_ROW;
      if (last >= LANES - 1) {
        for (int c = 0; c < WIDTH; c += LANES) {
          const Vec x = load(q + c);
          GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) sums[i] = fma(x, part<FEATURES>(rows + i * K_ROW, c), sums[i]);
        }
        store(scores + key, fold_rows<LANES>(sums, Sum{}));
      } else {
        for (int i = 0; i <= last; ++i) {
          Vec sum = zero();
          for (int c = 0; c < WIDTH; c += LANES) sum = fma(load(q + c), part<FEATURES>(rows + i * K_ROW, c), sum);
          scores[key + i] = sum_lanes(sum);
        }
        for (int i = last + 1; i < LANES; ++i) scores[key + i] = attention_parts::MINUS_INFINITY;
      }
    }
  }

  // y = sum over keys of scores[key] * v * scale, in two halves of even and odd keys.
  template <int VECTORS> static void weigh_panel(const float* scores, const float* v, int keys, int c, float scale, float* y, long step) {
    Vec sums[2][VECTORS];
    GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) sums[0][j] = sums[1][j] = zero();
    int key = 0;
    for (; key + 2 <= keys; key += 2)
      GRAPHOPT_UNROLL for (int i = 0; i < 2; ++i) {
        const Vec weight = splat(scores[key + i]);
        GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) sums[i][j] = fma(weight, part<VALUES>(v + (key + i) * V_ROW, c + j * LANES), sums[i][j]);
      }
    if (key < keys)
      GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) sums[0][j] = fma(splat(scores[key]), part<VALUES>(v + key * V_ROW, c + j * LANES), sums[0][j]);
    GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) {
      const Vec total = (sums[0][j] + sums[1][j]) * splat(scale);
      const int count = VALUES - c - j * LANES < LANES ? VALUES - c - j * LANES : LANES;
      float* to = y + (c + j * LANES) * step;
      if (step == 1) {
        store_first(to, total, count);
      } else {
        float lanes[LANES];
        store(lanes, total);
        for (int i = 0; i < count; ++i) to[i * step] = lanes[i];
      }
    }
  }
  static void weigh(const float* scores, const float* v, int keys, float scale, float* y, long step) {
    constexpr int VECTORS = attention_parts::vectors_of(VALUES);
    int j = 0;
    for (; j + PANEL <= VECTORS; j += PANEL) weigh_panel<PANEL>(scores, v, keys, j * LANES, scale, y, step);
    if constexpr (VECTORS % PANEL != 0) weigh_panel<VECTORS % PANEL>(scores, v, keys, j * LANES, scale, y, step);
  }
};

namespace attention_parts {

// Exponentials of the scores in place; returns 1 / their sum, 0 where all were -inf.
inline __attribute__((noinline)) float exponentiate_row(float* scores, int keys) {
  Vec most = splat(MINUS_INFINITY);
  for (int key = 0; key < keys; key += LANES) most = larger_of(load(scores + key), most);
  float lanes[LANES], largest = MINUS_INFINITY;
  store(lanes, most);
  for (int i = 0; i < LANES; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  const Vec base = splat(largest == MINUS_INFINITY ? 0.0f : largest);
  Vec sum = zero();
  for (int key = 0; key < keys; key += LANES) {
    const Vec e = exp2_negative(load(scores + key) - base);
    store(scores + key, e);
    sum += e;
  }
  const float total = sum_lanes(sum);
  return total == 0.0f ? 0.0f : 1.0f / total;
}

}  // namespace attention_parts
}  // namespace graphopt
