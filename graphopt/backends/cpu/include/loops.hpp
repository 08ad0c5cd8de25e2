// Walking through several storages of one shape at once.
//
// A struct S describes the outer loops: RANK axes, COUNT storages, SIZES[RANK] and STRIDES[RANK][COUNT] in elements.
#pragma once

#include "runtime.hpp"

namespace graphopt {

// A position of the outer loops, and where it lies in each storage.
template <class S> struct Odometer {
  long at[S::COUNT] = {};
  int index[S::RANK] = {};

  explicit Odometer(long position) {
    for (int axis = S::RANK - 1; axis >= 0; --axis) {
      index[axis] = static_cast<int>(position % S::SIZES[axis]);
      position /= S::SIZES[axis];
      for (int k = 0; k < S::COUNT; ++k) at[k] += index[axis] * S::STRIDES[axis][k];
    }
  }

  GRAPHOPT_INLINE void next() {
    GRAPHOPT_UNROLL
    for (int axis = S::RANK - 1; axis >= 0; --axis) {
      GRAPHOPT_UNROLL
      for (int k = 0; k < S::COUNT; ++k) at[k] += S::STRIDES[axis][k];
      if (++index[axis] < S::SIZES[axis]) return;
      index[axis] = 0;
      GRAPHOPT_UNROLL
      for (int k = 0; k < S::COUNT; ++k) at[k] -= S::SIZES[axis] * S::STRIDES[axis][k];
    }
  }
};

template <class S> constexpr long positions() {
  long total = 1;
  for (int axis = 0; axis < S::RANK; ++axis) total *= S::SIZES[axis];
  return total;
}

// body(at) for this worker's share of the outer positions; `work` is what one costs, about in nanoseconds: a share
// is worth a wake-up.
template <class S, class Body> GRAPHOPT_INLINE void for_each_position(const Worker& worker, long work, Body body) {
  constexpr long MINIMUM = 500;
  const Range share = worker.split(positions<S>(), work >= MINIMUM ? 1 : MINIMUM / (work > 0 ? work : 1));
  if (share.begin == share.end) return;
  Odometer<S> odometer(share.begin);
  for (long left = share.end - share.begin; left > 0; --left) {
    body(odometer.at);
    odometer.next();
  }
}

}  // namespace graphopt
