// Reductions of any dtype, one element at a time. S and R as in reduce.hpp.
#pragma once

#include "loops.hpp"
#include "activations.hpp"
#include "scalar.hpp"

namespace graphopt {

template <class R, class X, class A, class Step> GRAPHOPT_INLINE A fold_elements(const X* x, A start, Step step) {
  Odometer<R> odometer(0);
  for (long row = 0; row < positions<R>(); ++row, odometer.next())
    for (long k = 0; k < R::LENGTH; ++k) start = step(start, x[odometer.at[0] + k * R::STEP]);
  return start;
}

// y = finish(step(... step(start, x0) ..., xn)).
template <class S, class R, class Y, class X, class A, class Step, class Finish>
void reduce_elements(const Worker& worker, Y* y, const X* x, A start, Step step, Finish finish) {
  for_each_position<S>(worker, 2 + positions<R>() * R::LENGTH, [=](const long* at) { y[at[0]] = finish(fold_elements<R>(x + at[1], start, step)); });
}

// Twice over the elements: `second` starts at 0 and knows what the first time gave.
template <class S, class R, class Y, class X, class A, class First, class Between, class Second, class Finish>
void reduce_elements_twice(const Worker& worker, Y* y, const X* x, A start, First first, Between between, Second second, Finish finish) {
  for_each_position<S>(worker, 2 + 2 * positions<R>() * R::LENGTH, [=](const long* at) {
    const A known = between(fold_elements<R>(x + at[1], start, first));
    y[at[0]] = finish(fold_elements<R>(x + at[1], A(0), [&](A sum, X v) { return second(sum, v, known); }), known);
  });
}

// The number of the first element that is before all others in the order `better`; a NaN is before everything.
template <class S, class R, class X, class Better> void index_of_best(const Worker& worker, int64_t* y, const X* x, Better better) {
  for_each_position<S>(worker, 2 + positions<R>() * R::LENGTH, [=](const long* at) {
    const X* from = x + at[1];
    X best = from[0];
    int64_t found = 0, number = 0;
    Odometer<R> odometer(0);
    for (long row = 0; row < positions<R>(); ++row, odometer.next())
      for (long k = 0; k < R::LENGTH; ++k, ++number) {
        const X v = from[odometer.at[0] + k * R::STEP];
        if (better(v, best) || (v != v && best == best)) {
          best = v;
          found = number;
        }
      }
    y[at[0]] = found;
  });
}

// The same of f32 for COUNT_KEPT neighbours at once; a run has fewer than 2^24 elements, whose numbers are exact floats.
template <class S, class R, bool LARGEST> void index_of_best_lanes(const Worker& worker, int64_t* y, const float* x) {
  for_each_position<S>(worker, 2 + R::LENGTH, [=](const long* at) {
    const float* from = x + at[1];
    Vec best = load_first(from, S::COUNT_KEPT), found = zero();
    for (long k = 1; k < R::LENGTH; ++k) {
      const Vec v = load_first(from + k * R::STEP, S::COUNT_KEPT);
      const Vec ahead = LARGEST ? greater(v, best) : less(v, best);
      const Vec first_nan = logical_and(not_equal(v, v), equal(best, best));
      const Vec take = logical_or(ahead, first_nan);
      best = where(take, v, best);
      found = where(take, splat(static_cast<float>(k)), found);
    }
    float lanes[LANES];
    store(lanes, found);
    for (int i = 0; i < S::COUNT_KEPT; ++i) y[at[0] + i * S::Y_STEP] = static_cast<int64_t>(lanes[i]);
  });
}

}  // namespace graphopt
