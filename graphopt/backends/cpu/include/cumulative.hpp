// Running sums and products, and sorting, along one axis. S describes the other axes (loops.hpp).
#pragma once

#include <algorithm>

#include "loops.hpp"
#include "scalar.hpp"

namespace graphopt {

// y[i] = x[0] op ... op x[i] for LENGTH elements, STEPS apart in y and x; A is the type of the running value.
template <class S, class T, class X, class A, class Join> void cumulate(const Worker& worker, T* y, const X* x, A start, Join join) {
  for_each_position<S>(worker, 2 + S::LENGTH * 2, [=](const long* at) {
    A running = start;
    for (long i = 0; i < S::LENGTH; ++i) {
      running = join(running, static_cast<A>(x[at[1] + i * S::STEPS[1]]));
      y[at[0] + i * S::STEPS[0]] = static_cast<T>(running);
    }
  });
}

// The first COUNT of LENGTH elements in order: their values, and where they were. Equal ones stay in their order, a NaN is the
// largest. Storages of the loops: 0 are the values, 1 is x, 2 are the indices; STEPS along the axis.
template <class S, bool DESCENDING, class T>
void sort(const Worker& worker, T* values, const T* x, int64_t* indices) {
  int32_t* order = reinterpret_cast<int32_t*>(worker.scratch);
  for_each_position<S>(worker, 2 + S::LENGTH * 20, [=](const long* at) {
    const T* from = x + at[1];
    for (int32_t i = 0; i < S::LENGTH; ++i) order[i] = i;
    const auto before = [from](int32_t a, int32_t b) {
      const T left = from[a * S::STEPS[1]], right = from[b * S::STEPS[1]];
      const bool nan_left = left != left, nan_right = right != right;
      if (nan_left != nan_right) return DESCENDING ? nan_left : nan_right;
      if (nan_left || left == right) return a < b;
      return DESCENDING ? left > right : left < right;
    };
    if constexpr (S::COUNT_SORTED == S::LENGTH) std::sort(order, order + S::LENGTH, before);
    else std::partial_sort(order, order + S::COUNT_SORTED, order + S::LENGTH, before);
    for (long i = 0; i < S::COUNT_SORTED; ++i) {
      values[at[0] + i * S::STEPS[0]] = from[order[i] * S::STEPS[1]];
      indices[at[2] + i * S::STEPS[2]] = order[i];
    }
  });
}

}  // namespace graphopt
