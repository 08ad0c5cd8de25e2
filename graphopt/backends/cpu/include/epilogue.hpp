// What a kernel does to each vector of results before it stores it: `v = epilogue(v, n, c, h, w)`.
//
// The vector holds channels c to c + 15 (a multiple of 16) of position n, h, w. Chains of elementwise ops are
// emitted as structs with this one operator; see kernels/chain_code.py.
#pragma once

#include "simd.hpp"

namespace graphopt {

// Stores what the kernel computed.
struct Identity {
  GRAPHOPT_INLINE Vec operator()(Vec v, int, int, int, int) const { return v; }
};

// ---- operands that are truth values: 1.0 and 0.0 in a chain ---------------------------------------------------

GRAPHOPT_INLINE Vec load_first_truth(const bool* p, int count) {
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = i < count && p[i] ? 1.0f : 0.0f;
  return load(lanes);
}
GRAPHOPT_INLINE Vec load_truth(const bool* p) { return load_first_truth(p, LANES); }
GRAPHOPT_INLINE Vec splat_truth(const bool* p) { return splat(*p ? 1.0f : 0.0f); }

}  // namespace graphopt
