// Sharing work of uneven size among workers.
#pragma once

#include "runtime.hpp"

namespace graphopt {

// Where one worker's share begins or ends: a tile, and a unit of it.
struct SparsePlace {
  long tile;
  int unit;
};

// The place at which index / count of all work is done, when tiles come one after the other. All tiles have the same
// units; work[i] is what the units before i cost.
inline SparsePlace sparse_share(const int32_t* work, int units, long tiles, int index, int count) {
  const int64_t total = work[units], place = total * tiles * index / count;
  int unit = 0;
  while (work[unit] < place % total) ++unit;
  return {static_cast<long>(place / total), unit};
}

}  // namespace graphopt
