// Reductions: sums and the like over some axes of a value.
//
// S describes the outer loops over what is kept (loops.hpp; storage 0 is y, storage 1 is x), R those over what is
// reduced (storage 0 is x), with a run of LENGTH elements innermost. Rounding errors grow with the logarithm of the
// number of elements: blocks are joined in pairs. The order depends on the shapes alone.
#pragma once

#include "activations.hpp"
#include "elementwise.hpp"
#include "loops.hpp"

namespace graphopt {

namespace reducing {

// ---- what is done to the elements: map each, join, finish -----------------------------------------------------

struct Plain {
  GRAPHOPT_INLINE static Vec map(Vec v) { return v; }
  GRAPHOPT_INLINE static Vec finish(Vec v) { return v; }
};
struct Sum : Plain {
  static constexpr float START = 0.0f;
  GRAPHOPT_INLINE static Vec join(Vec a, Vec b) { return a + b; }
};
struct Product : Plain {
  static constexpr float START = 1.0f;
  GRAPHOPT_INLINE static Vec join(Vec a, Vec b) { return a * b; }
};
struct Largest : Plain {
  static constexpr float START = -INFINITY;
  GRAPHOPT_INLINE static Vec join(Vec a, Vec b) { return maximum(a, b); }
};
struct Smallest : Plain {
  static constexpr float START = INFINITY;
  GRAPHOPT_INLINE static Vec join(Vec a, Vec b) { return minimum(a, b); }
};
template <long COUNT> struct Mean : Sum {
  GRAPHOPT_INLINE static Vec finish(Vec v) { return v / splat(static_cast<float>(COUNT)); }
};

// Vector norms.
struct SumOfMagnitudes : Sum {
  GRAPHOPT_INLINE static Vec map(Vec v) { return abs(v); }
};
struct RootOfSquares : Sum {
  GRAPHOPT_INLINE static Vec map(Vec v) { return v * v; }
  GRAPHOPT_INLINE static Vec finish(Vec v) { return sqrt(v); }
};
struct LargestMagnitude : Largest {
  GRAPHOPT_INLINE static Vec map(Vec v) { return abs(v); }
};
struct SmallestMagnitude : Smallest {
  GRAPHOPT_INLINE static Vec map(Vec v) { return abs(v); }
};
struct CountOfNonzeros : Sum {
  GRAPHOPT_INLINE static Vec map(Vec v) { return not_equal(v, zero()); }
};
struct RootOfPowers : Sum {
  float power;
  GRAPHOPT_INLINE Vec map(Vec v) const { return pow(abs(v), splat(power)); }
  GRAPHOPT_INLINE Vec finish(Vec v) const { return pow(v, splat(1.0f / power)); }
};

// The second look at elements, at which something is known of all of them.
struct SquaredDeviation : Sum {
  Vec mean;
  GRAPHOPT_INLINE Vec map(Vec v) const { return (v - mean) * (v - mean); }
};
struct Exponential : Sum {
  Vec largest;
  GRAPHOPT_INLINE Vec map(Vec v) const { return exp(v - largest); }
};

// ---- folding a run of vectors --------------------------------------------------------------------------------

// Partial results, joined like the digits of a binary counter: two of one size become one of the next.
template <class Op, int V> struct Pairs {
  Vec stack[48][V];
  long count = 0;
  int top = 0;

  GRAPHOPT_INLINE void push(const Op (&op)[V], Vec (&v)[V]) {
    for (long bits = count++; bits & 1; bits >>= 1) {
      --top;
      for (int j = 0; j < V; ++j) v[j] = op[j].join(stack[top][j], v[j]);
    }
    for (int j = 0; j < V; ++j) stack[top][j] = v[j];
    ++top;
  }
  GRAPHOPT_INLINE void result(const Op (&op)[V], Vec (&v)[V]) {
    for (int j = 0; j < V; ++j) v[j] = stack[top - 1][j];
    for (int k = top - 2; k >= 0; --k)
      for (int j = 0; j < V; ++j) v[j] = op[j].join(stack[k][j], v[j]);
  }
};

// The join of all lanes, in all lanes: halves, then quarters, pairs, neighbours.
template <class Op> GRAPHOPT_INLINE Vec joined_lanes(const Op& op, Vec v) {
  v = op.join(v, rotated<8>(v));
  v = op.join(v, rotated<4>(v));
  v = op.join(v, rotated<2>(v));
  return op.join(v, rotated<1>(v));
}

// The first `count` lanes of v, `other` behind them.
GRAPHOPT_INLINE Vec keep_first(Vec v, int count, float other) {
  float lanes[LANES];
  store(lanes, v);
  return load_first(lanes, count, other);
}

// Folds what R describes from x on. Lanes are neighbours along the run where S::ALONG_RUN (their join comes in all
// lanes), else V * 16 (at the last, COUNT) elements that are kept.
template <class S, class R, class Op> GRAPHOPT_INLINE void fold(const float* x, const Op (&op)[S::V], Vec (&result)[S::V]) {
  constexpr int V = S::V, BLOCK = 32, CHAINS = V == 1 ? 4 : V == 2 ? 2 : 1;
  constexpr long STEPS = S::ALONG_RUN ? R::LENGTH / LANES : R::LENGTH, STEP = S::ALONG_RUN ? LANES : R::STEP;
  constexpr int TAIL = S::ALONG_RUN ? R::LENGTH % LANES : 0;
  Pairs<Op, V> pairs;
  Odometer<R> odometer(0);
  for (long row = 0; row < positions<R>(); ++row, odometer.next()) {
    const float* from = x + odometer.at[0];
    for (long begin = 0; begin < STEPS; begin += BLOCK) {
      const long end = begin + BLOCK < STEPS ? begin + BLOCK : STEPS;
      Vec sums[CHAINS][V];
      for (int chain = 0; chain < CHAINS; ++chain)
        for (int j = 0; j < V; ++j) sums[chain][j] = splat(Op::START);
      long k = begin;
      for (; k + CHAINS <= end; k += CHAINS) {
        GRAPHOPT_UNROLL
        for (int chain = 0; chain < CHAINS; ++chain) {
          GRAPHOPT_UNROLL
          for (int j = 0; j < V; ++j) {
            const float* p = from + (k + chain) * STEP + j * LANES;
            sums[chain][j] = op[j].join(sums[chain][j], op[j].map(S::COUNT_KEPT == LANES || j < V - 1 ? load(p) : load_first(p, S::COUNT_KEPT)));
          }
        }
      }
      for (; k < end; ++k)
        for (int j = 0; j < V; ++j) {
          const float* p = from + k * STEP + j * LANES;
          sums[0][j] = op[j].join(sums[0][j], op[j].map(S::COUNT_KEPT == LANES || j < V - 1 ? load(p) : load_first(p, S::COUNT_KEPT)));
        }
      for (int chain = 1; chain < CHAINS; ++chain)
        for (int j = 0; j < V; ++j) sums[0][j] = op[j].join(sums[0][j], sums[chain][j]);
      pairs.push(op, sums[0]);
    }
    if constexpr (TAIL > 0) {
      Vec rest[V] = {keep_first(op[0].map(load_first(from + STEPS * LANES, TAIL)), TAIL, Op::START)};
      pairs.push(op, rest);
    }
  }
  pairs.result(op, result);
  if constexpr (S::ALONG_RUN) result[0] = joined_lanes(op[0], result[0]);
}

template <class S> GRAPHOPT_INLINE void store_kept(float* y, const Vec (&v)[S::V]) {
  if constexpr (S::ALONG_RUN) {
    store_first(y, v[0], 1);
  } else {
    for (int j = 0; j < S::V - 1; ++j) store_lanes<S::Y_STEP, LANES>(y + j * LANES * S::Y_STEP, v[j]);
    store_lanes<S::Y_STEP, S::COUNT_KEPT>(y + (S::V - 1) * LANES * S::Y_STEP, v[S::V - 1]);
  }
}

template <class Op, int V> struct Repeated {
  Op op[V];
  GRAPHOPT_INLINE explicit Repeated(Op one) {
    for (int j = 0; j < V; ++j) op[j] = one;
  }
};

}  // namespace reducing

template <class S, class R, class Op> void reduce(const Worker& worker, float* y, const float* x, Op one = {}) {
  for_each_position<S>(worker, 2 + S::V * positions<R>() * R::LENGTH / 8, [=](const long* at) {
    const reducing::Repeated<Op, S::V> all(one);
    Vec result[S::V];
    reducing::fold<S, R>(x + at[1], all.op, result);
    for (int j = 0; j < S::V; ++j) result[j] = one.finish(result[j]);
    reducing::store_kept<S>(y + at[0], result);
  });
}

// Sum of squared distances from the mean, over DIVISOR; its root where asked.
template <class S, class R, bool ROOT> void variance(const Worker& worker, float* y, const float* x, float divisor) {
  constexpr float COUNT = static_cast<float>(positions<R>() * R::LENGTH);
  for_each_position<S>(worker, 2 + S::V * positions<R>() * R::LENGTH / 4, [=](const long* at) {
    const reducing::Repeated<reducing::Sum, S::V> sum(reducing::Sum{});
    Vec result[S::V];
    reducing::fold<S, R>(x + at[1], sum.op, result);
    reducing::SquaredDeviation deviation[S::V];
    for (int j = 0; j < S::V; ++j) deviation[j].mean = result[j] / splat(COUNT);
    reducing::fold<S, R>(x + at[1], deviation, result);
    for (int j = 0; j < S::V; ++j) {
      result[j] = result[j] / splat(divisor);
      if constexpr (ROOT) result[j] = sqrt(result[j]);
    }
    reducing::store_kept<S>(y + at[0], result);
  });
}

template <class S, class R> void log_sum_exp(const Worker& worker, float* y, const float* x) {
  for_each_position<S>(worker, 2 + S::V * positions<R>() * R::LENGTH / 2, [=](const long* at) {
    const reducing::Repeated<reducing::Largest, S::V> largest(reducing::Largest{});
    Vec result[S::V];
    reducing::fold<S, R>(x + at[1], largest.op, result);
    reducing::Exponential exponential[S::V];
    for (int j = 0; j < S::V; ++j) exponential[j].largest = where(isinf(result[j]), zero(), result[j]);
    reducing::fold<S, R>(x + at[1], exponential, result);
    for (int j = 0; j < S::V; ++j) result[j] = log(result[j]) + exponential[j].largest;
    reducing::store_kept<S>(y + at[0], result);
  });
}

}  // namespace graphopt
