// Reading and writing at positions that index tensors give. An index out of range fails the run; what it would have
// read is 0, what it would have written is not written.
//
// S describes the outer loops (loops.hpp) and has, besides, INDICES index tensors that point into axes of SIZES_INDEXED
// elements, STRIDES_INDEXED apart; LENGTH elements innermost.
#pragma once

#include "loops.hpp"
#include "scalar.hpp"

namespace graphopt {

constexpr const char* OUT_OF_RANGE = "an index is out of range";

// Where `index` points on an axis, or -1. Indices from the end are below 0 where that is allowed.
template <bool FROM_END, class I> GRAPHOPT_INLINE long place(I index, long size) {
  const long at = static_cast<long>(index);
  const long found = FROM_END && at < 0 ? at + size : at;
  return found >= 0 && found < size ? found : -1;
}

// y[...] = x[..., i0[...], i1[...], ...]. Storages of the loops: 0 is y, 1 is x, 2 and on are the indices.
template <class S, class T, class I, class... Is>
void take(const Worker& worker, T* y, const T* x, const I* first, const Is*... others) {
  const I* indices[] = {first, others...};
  bool failed = false;
  for_each_position<S>(worker, 4 + S::LENGTH / 4, [&](const long* at) {
    const auto from = [&](long i) -> long {
      long offset = 0;
      for (int k = 0; k < S::INDICES; ++k) {
        const long found = place<S::FROM_END>(indices[k][at[2 + k] + i * S::STEPS[2 + k]], S::SIZES_INDEXED[k]);
        if (found < 0) return -1;
        offset += found * S::STRIDES_INDEXED[k];
      }
      return offset;
    };
    T* to = y + at[0];
    if constexpr (S::IN_RUNS) {  // the innermost axis is not indexed
      const long offset = from(0);
      if (offset < 0) {
        failed = true;
        for (long i = 0; i < S::LENGTH; ++i) to[i * S::STEPS[0]] = T(0);
        return;
      }
      const T* source = x + at[1] + offset;
      if constexpr (S::STEPS[0] == 1 && S::STEPS[1] == 1) std::memcpy(to, source, sizeof(T) * S::LENGTH);
      else
        for (long i = 0; i < S::LENGTH; ++i) to[i * S::STEPS[0]] = source[i * S::STEPS[1]];
    } else {
      for (long i = 0; i < S::LENGTH; ++i) {
        const long offset = from(i);
        failed |= offset < 0;
        to[i * S::STEPS[0]] = offset < 0 ? T(0) : x[at[1] + offset + i * S::STEPS[1]];
      }
    }
  });
  if (failed) worker.fail(OUT_OF_RANGE);
}

// y[..., i0[...], ...] = step(y[...], x[...]), one after the other along R; what S walks over never meets. Storages: 0 is
// y, 1 is x (what is written), 2 and on are the indices.
template <class S, class R, class T, class Step, class I, class... Is>
void put(const Worker& worker, T* y, const T* x, Step step, const I* first, const Is*... others) {
  const I* indices[] = {first, others...};
  bool failed = false;
  for_each_position<S>(worker, 4 + positions<R>() * R::LENGTH, [&](const long* outer) {
    Odometer<R> inner(0);
    for (long row = 0; row < positions<R>(); ++row, inner.next())
      for (long i = 0; i < R::LENGTH; ++i) {
        long offset = outer[0] + inner.at[0] + i * R::STEPS[0];
        bool inside = true;
        for (int k = 0; k < S::INDICES; ++k) {
          const long found = place<S::FROM_END>(indices[k][outer[2 + k] + inner.at[2 + k] + i * R::STEPS[2 + k]], S::SIZES_INDEXED[k]);
          inside &= found >= 0;
          offset += found * S::STRIDES_INDEXED[k];
        }
        if (inside) y[offset] = step(y[offset], x[outer[1] + inner.at[1] + i * R::STEPS[1]]);
        failed |= !inside;
      }
  });
  if (failed) worker.fail(OUT_OF_RANGE);
}

}  // namespace graphopt
