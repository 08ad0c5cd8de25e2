// Squeeze and excite (Hu et al., 2018): y[n] = excite(w2 * squeeze(w1 * mean[n] + b1) + b2), one gate per channel.
//
//   S::IMAGES, CHANNELS, HIDDEN
//   S::PARTS                      x is [n][part][channel] and its parts are added up; a mean has one
//   S::DIVISOR                    of their sum
//   S::X, X_PART                  Strides (n and block count), floats from part to part
//   S::Y                          Strides (n and block count)
//   S::Y_PADDED                   all 16 channels of the last group exist
//   S::CHUNK                      channels that one worker multiplies at a time, a multiple of 16
//   S::HIDDEN_VECTORS, VECTORS    output vectors per set of w1 and w2
//
// The product over channels is cut into chunks, whose results are added up in their order by everybody who needs
// them. w1 is [set][channel][vector][16], w2 [set][hidden][vector][16].
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"
#include "window_pool.hpp"

namespace graphopt {

template <class S> struct ExciteShape {
  static constexpr int GROUPS = ceil_div(S::CHANNELS, LANES), HIDDEN_GROUPS = ceil_div(S::HIDDEN, LANES);
  static constexpr int CHUNKS = ceil_div(S::CHANNELS, S::CHUNK);
  static constexpr int SETS = ceil_div(GROUPS, S::VECTORS), HIDDEN_SETS = ceil_div(HIDDEN_GROUPS, S::HIDDEN_VECTORS);
  static constexpr int PARTIAL = HIDDEN_GROUPS * LANES;
};

// sums[v] += w[k][v] * x[k] for k < depth, in CHAINS partial sums as few vectors would wait for each other.
template <int WIDTH> GRAPHOPT_INLINE void multiply_vector(const float* x, const float* w, int depth, Vec (&sums)[WIDTH]) {
  constexpr int CHAINS = WIDTH >= 4 || REGISTERS < 32 ? 1 : 4;
  Vec parts[CHAINS][WIDTH] = {};
  int k = 0;
  for (; k + CHAINS <= depth; k += CHAINS) {
    GRAPHOPT_UNROLL for (int i = 0; i < CHAINS; ++i) {
      GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) parts[i][v] = fma(load(w + ((k + i) * WIDTH + v) * LANES), splat(x[k + i]), parts[i][v]);
    }
  }
  for (; k < depth; ++k) {
    GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) parts[0][v] = fma(load(w + (k * WIDTH + v) * LANES), splat(x[k]), parts[0][v]);
  }
  GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) {
    GRAPHOPT_UNROLL for (int half = CHAINS / 2; half > 0; half /= 2) {
      GRAPHOPT_UNROLL for (int i = 0; i < half; ++i) parts[i][v] += parts[i + half][v];
    }
    sums[v] += parts[0][v];
  }
}

// Calls body(width, set) with the constant number of vectors of each set.
template <int GROUPS, int VECTORS, class Body> GRAPHOPT_INLINE void each_set(int begin, int end, Body body) {
  constexpr int SETS = ceil_div(GROUPS, VECTORS), LAST = GROUPS - (SETS - 1) * VECTORS;
  for (int set = begin; set < end; ++set) {
    if (LAST != VECTORS && set == SETS - 1) body(std::integral_constant<int, LAST>{}, set);
    else body(std::integral_constant<int, VECTORS>{}, set);
  }
}

template <class S, class Squeeze, class Excite>
void squeeze_excite(const Worker& worker, const float* x, const float* w1, const float* b1, const float* w2, const float* b2, float* y, float* shared,
                    Squeeze squeeze, Excite excite) {
  using E = ExciteShape<S>;
  const Range chunks = worker.split(1L * S::IMAGES * E::CHUNKS);
  for (long i = chunks.begin; i < chunks.end; ++i) {
    const int n = static_cast<int>(i / E::CHUNKS), first = static_cast<int>(i % E::CHUNKS) * S::CHUNK;
    const int depth = S::CHANNELS - first < S::CHUNK ? S::CHANNELS - first : S::CHUNK;
    alignas(64) float means[S::CHUNK];
    for (int c = 0; c < depth; c += LANES) {
      const float* const from = x + n * S::X.n + (first + c) / LANES * S::X.block;
      const int count = depth - c < LANES ? depth - c : LANES;
      Vec sum = load_first(from, count);
      for (int part = 1; part < S::PARTS; ++part) sum += load_first(from + part * S::X_PART, count);
      store(means + c, pool_mean(sum, S::DIVISOR));
    }
    each_set<E::HIDDEN_GROUPS, S::HIDDEN_VECTORS>(0, E::HIDDEN_SETS, [&](auto width, int set) __attribute__((always_inline)) {
      constexpr int WIDTH = decltype(width)::value;
      const int group = set * S::HIDDEN_VECTORS;
      Vec sums[WIDTH] = {};
      multiply_vector<WIDTH>(means, w1 + 1L * group * LANES * S::CHANNELS + first * WIDTH * LANES, depth, sums);
      GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) store(shared + i * E::PARTIAL + (group + v) * LANES, sums[v]);
    });
  }
  worker.wait();
  const Range sets = worker.split(1L * S::IMAGES * E::SETS);
  int known = -1;  // the image whose hidden features are in scratch
  for (long i = sets.begin; i < sets.end; ++i) {
    const int n = static_cast<int>(i / E::SETS), first = static_cast<int>(i % E::SETS);
    if (n != known)
      for (int group = 0; group < E::HIDDEN_GROUPS; ++group) {
        Vec sum = load(b1 + group * LANES);
        for (int chunk = 0; chunk < E::CHUNKS; ++chunk) sum += load(shared + (1L * n * E::CHUNKS + chunk) * E::PARTIAL + group * LANES);
        store(worker.scratch + group * LANES, squeeze(sum, n, group * LANES, 0, 0));
      }
    known = n;
    each_set<E::GROUPS, S::VECTORS>(first, first + 1, [&](auto width, int set) __attribute__((always_inline)) {
      constexpr int WIDTH = decltype(width)::value;
      const int group = set * S::VECTORS;
      Vec sums[WIDTH];
      GRAPHOPT_UNROLL for (int v = 0; v < WIDTH; ++v) sums[v] = load(b2 + (group + v) * LANES);
      multiply_vector<WIDTH>(worker.scratch, w2 + 1L * group * LANES * S::HIDDEN, S::HIDDEN, sums);
      for (int v = 0; v < WIDTH; ++v) {
        const Vec gate = excite(sums[v], n, (group + v) * LANES, 0, 0);
        float* const to = y + n * S::Y.n + (group + v) * S::Y.block;
        store_channels<S::CHANNELS, S::Y_PADDED>(to, gate, (group + v) * LANES);
      }
    });
  }
}

}  // namespace graphopt
