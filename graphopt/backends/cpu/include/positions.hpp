// Values that depend on where they are: triangles, ranges, the identity matrix.
#pragma once

#include "loops.hpp"
#include "scalar.hpp"

namespace graphopt {

// tril or triu of rows: storages of the loops are y, x, and the number of the row. Elements i of a row are STEPS apart.
template <class S, class T> void triangle(const Worker& worker, T* y, const T* x) {
  for_each_position<S>(worker, 2 + S::LENGTH, [=](const long* at) {
    const long diagonal = at[2] + S::DIAGONAL;  // the last element of tril, the first of triu
    for (long i = 0; i < S::LENGTH; ++i) {
      const bool kept = S::LOWER ? i <= diagonal : i >= diagonal;
      y[at[0] + i * S::STEPS[0]] = kept ? x[at[1] + i * S::STEPS[1]] : T(0);
    }
  });
}

// y[i] = make(i) for LENGTH elements.
template <long LENGTH, long STEP, class T, class Make> void generate(const Worker& worker, T* y, Make make) {
  const Range share = worker.split(LENGTH, 256);
  for (long i = share.begin; i < share.end; ++i) y[i * STEP] = make(i);
}

}  // namespace graphopt
