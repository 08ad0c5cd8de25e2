// The inner loop of sparse kernels: rows of a matrix with few entries times a tile of x that lies in L1.
//
// A tile has a row of pixels per input (channel and tap). An entry names a row of the tile by its offset in vectors
// and brings the weights of ROWS output channels, which share the row's vectors. LISTS lists of entries run in lock
// step: this hides the latency of multiply-adds behind each other where a row has few vectors, and halves or
// quarters the loops that end at an unforeseeable place. Shorter lists end with entries of weight 0 on a row where
// they have no other: that is what a dense kernel computes there.
//
// Two loads a cycle bind. So offsets come four to a load, and single weights two to a load by way of an integer
// register, which broadcasts them on another port.
#pragma once

#include "simd.hpp"

namespace graphopt {

template <int LISTS, int ROWS> struct SparseEntry {
  uint16_t at[LISTS < 2 ? 2 : LISTS];
  float weights[LISTS * ROWS];
};

// Vectors of a row that are summed at once; with fewer registers the lists are read several times.
template <int LISTS, int ROWS> constexpr int sparse_vectors(int wanted) {
  constexpr int most = (REGISTERS - (REGISTERS >= 32 ? 8 : 2)) / (LISTS * ROWS);
  return most < 1 ? 1 : most < wanted ? most : wanted;
}

// Two neighbouring floats, broadcast without the load port.
GRAPHOPT_INLINE void splat_pair(const float* p, Vec& first, Vec& second) {
#if defined(__AVX512F__)
  uint64_t pair;
  std::memcpy(&pair, p, sizeof pair);
  asm("" : "+r"(pair));  // else the compiler broadcasts from memory
  const int32_t low = static_cast<int32_t>(pair), high = static_cast<int32_t>(pair >> 32);
  first = reinterpret_cast<Vec>(_mm512_set1_epi32(low));
  second = reinterpret_cast<Vec>(_mm512_set1_epi32(high));
#else
  first = splat(p[0]);
  second = splat(p[1]);
#endif
}

// sum[list][row][v] += weights * row of the tile, for all entries of the lists in their order.
template <int LISTS, int ROWS, int VECTORS>
GRAPHOPT_INLINE void sparse_multiply(Vec (&sum)[LISTS][ROWS][VECTORS], const float* tile, const SparseEntry<LISTS, ROWS>* entry,
                                     const SparseEntry<LISTS, ROWS>* end) {
  uintptr_t base = reinterpret_cast<uintptr_t>(tile);
#if defined(__GNUC__) && defined(__x86_64__)
  asm("" : "+r"(base));  // displacements from here on are constants, which fit into the multiply-add
#endif
  uint64_t next = 0;
  std::memcpy(&next, entry->at, sizeof(uint16_t) * LISTS);
  for (; entry != end; ++entry) {
    const uint64_t at = next;
    std::memcpy(&next, entry[1].at, sizeof(uint16_t) * LISTS);
    Vec weights[LISTS * ROWS];
    GRAPHOPT_UNROLL for (int list = 0; list < LISTS; ++list) {
      uintptr_t address = base + static_cast<uint16_t>(at >> 16 * list) * sizeof(float) * LANES;
#if defined(__GNUC__) && defined(__x86_64__)
      asm("" : "+r"(address));
#endif
      const float* row = reinterpret_cast<const float*>(address);
      if constexpr (ROWS == 1) {
        static_assert(LISTS % 2 == 0, "single rows come in pairs");
        if (list % 2 == 0) splat_pair(entry->weights + list, weights[list], weights[list + 1]);
        GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) sum[list][0][v] = fma(weights[list], load(row + v * LANES), sum[list][0][v]);
      } else {
        GRAPHOPT_UNROLL for (int r = 0; r < ROWS; ++r) weights[list * ROWS + r] = splat(entry->weights[list * ROWS + r]);
        GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) {
          const Vec x = load(row + v * LANES);
          GRAPHOPT_UNROLL for (int r = 0; r < ROWS; ++r) sum[list][r][v] = fma(weights[list * ROWS + r], x, sum[list][r][v]);
        }
      }
    }
  }
}

}  // namespace graphopt
