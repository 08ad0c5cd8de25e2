// Sliding windows along one axis, and how a row of results is cut into register tiles.
//
//   S::IN_HEIGHT, IN_WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W,
//   PADDING_H, PADDING_W           of a convolution or pool
#pragma once

#include <type_traits>
#include <utility>

#include "simd.hpp"

namespace graphopt {

// Result o looks at elements o * stride - padding + k * dilation, k = 0 to kernel - 1.
struct Window {
  int in, out, kernel, stride, dilation, padding;

  // Place of tap 0, in front of the input where negative.
  constexpr int start(int o) const { return o * stride - padding; }
  // Taps [first, last) lie in the input.
  constexpr int first(int o) const {
    const int k = start(o) >= 0 ? 0 : (dilation - 1 - start(o)) / dilation;
    return k < kernel ? k : kernel;
  }
  constexpr int last(int o) const {
    const int space = in - start(o);
    const int k = space <= 0 ? 0 : (space - 1) / dilation + 1;
    return k < kernel ? k : kernel;
  }
  // From the first tap to behind the last.
  constexpr int extent() const { return (kernel - 1) * dilation + 1; }
  // True when all taps of results [o, o + count) lie in the input.
  constexpr bool inside(int o, int count) const { return start(o) >= 0 && start(o + count - 1) + extent() <= in; }
};

template <class S> constexpr Window rows_of{S::IN_HEIGHT, S::OUT_HEIGHT, S::KERNEL_H, S::STRIDE_H, S::DILATION_H, S::PADDING_H};
template <class S> constexpr Window columns_of{S::IN_WIDTH, S::OUT_WIDTH, S::KERNEL_W, S::STRIDE_W, S::DILATION_W, S::PADDING_W};

// ---- tiles of columns ----------------------------------------------------------------------------------------

// Place of a tile whose windows lie in the input, wherever it is.
constexpr int INSIDE = -1;

// How many full tiles leave the input, from the left; from the right, of those that are left over.
template <class S, int TILE> constexpr int tiles_outside(bool right) {
  constexpr Window columns = columns_of<S>;
  constexpr int FULL = columns.out / TILE;
  int left = 0, count = 0;
  while (left < FULL && !columns.inside(left * TILE, TILE)) ++left;
  if (!right) return left;
  while (count < FULL - left && !columns.inside((FULL - 1 - count) * TILE, TILE)) ++count;
  return count;
}

template <int TILE, int FIRST, class Body, int... I>
GRAPHOPT_INLINE void fixed_tiles([[maybe_unused]] Body body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, TILE>{}, std::integral_constant<int, (FIRST + I) * TILE>{}, (FIRST + I) * TILE), ...);
}

// Calls body(count, place, column) for tiles of at most TILE columns that cover a row of results. The first two
// are constants: `place` is the tile's first column where a window leaves the input, so that the taps outside
// vanish at compile time, and INSIDE for all other tiles.
template <class S, int TILE, class Body> GRAPHOPT_INLINE void column_tiles(Body body) {
  constexpr Window columns = columns_of<S>;
  constexpr int FULL = columns.out / TILE, REST = columns.out % TILE;
  constexpr int LEFT = tiles_outside<S, TILE>(false), RIGHT = tiles_outside<S, TILE>(true);
  fixed_tiles<TILE, 0>(body, std::make_integer_sequence<int, LEFT>{});
  if constexpr (LEFT + RIGHT < FULL)
    for (int tile = LEFT; tile < FULL - RIGHT; ++tile)
      body(std::integral_constant<int, TILE>{}, std::integral_constant<int, INSIDE>{}, tile * TILE);
  fixed_tiles<TILE, FULL - RIGHT>(body, std::make_integer_sequence<int, RIGHT>{});
  if constexpr (REST > 0) {
    constexpr int PLACE = columns.inside(FULL * TILE, REST) ? INSIDE : FULL * TILE;
    body(std::integral_constant<int, REST>{}, std::integral_constant<int, PLACE>{}, FULL * TILE);
  }
}

// ---- 16 channels, or the first COUNT where that is not 0 -------------------------------------------------------

template <int COUNT> GRAPHOPT_INLINE Vec load_group(const float* p) {
  if constexpr (COUNT == 0) return load(p);
  else return load_first(p, COUNT);
}
template <int COUNT> GRAPHOPT_INLINE void store_group(float* p, Vec v) {
  if constexpr (COUNT == 0) store(p, v);
  else store_first(p, v, COUNT);
}

}  // namespace graphopt
