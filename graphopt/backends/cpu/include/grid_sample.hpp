// An image at positions that a tensor gives: every position mixes neighbours along each axis (ATen/native/GridSampler.h).
//
// S: N, C, AXES (2 or 3) sizes IN_SIZES and OUT_SIZES, strides X_N, X_C, X_AXES, Y_N, Y_C, Y_AXES, GRID (n, axes..., coordinate).
// The last coordinate comes first in the grid.
#pragma once

#include <cmath>

#include "runtime.hpp"

namespace graphopt {

enum class Sampling { NEAREST, LINEAR, CUBIC };
enum class Outside { ZEROS, BORDER, REFLECTION };

namespace sampling {

// Where -1 to 1 is on an axis of `size` elements.
template <bool CORNERS, class T> inline T unnormalised(T coordinate, long size) {
  return CORNERS ? (coordinate + T(1)) / T(2) * T(size - 1) : ((coordinate + T(1)) * T(size) - T(1)) / T(2);
}

// Mirrored at both ends, which are at the outer elements (CORNERS) or half an element further.
template <bool CORNERS, class T> inline T reflected(T coordinate, long size) {
  const T low = CORNERS ? T(0) : T(-0.5), span = CORNERS ? T(size - 1) : T(size);
  if (span == T(0)) return T(0);
  const T distance = std::fabs(coordinate - low), extra = std::fmod(distance, span);
  return static_cast<long>(std::floor(distance / span)) % 2 == 0 ? extra + low : span - extra + low;
}

template <Outside OUTSIDE, bool CORNERS, class T> inline T padded(T coordinate, long size) {
  if (OUTSIDE == Outside::REFLECTION) coordinate = reflected<CORNERS>(coordinate, size);
  if (OUTSIDE != Outside::ZEROS) coordinate = coordinate > T(0) ? (coordinate < T(size - 1) ? coordinate : T(size - 1)) : T(0);
  return coordinate;
}

// The element of a whole coordinate, or -1.
template <class T> inline long element(T whole, long size) { return whole >= T(0) && whole < T(size) ? static_cast<long>(whole) : -1; }

template <class T> inline void cubic_weights(T t, T (&weights)[4]) {
  const T a = T(-0.75);
  const auto near = [a](T x) { return ((a + T(2)) * x - (a + T(3))) * x * x + T(1); };
  const auto far = [a](T x) { return ((a * x - T(5) * a) * x + T(8) * a) * x - T(4) * a; };
  weights[0] = far(t + T(1)), weights[1] = near(t), weights[2] = near(T(1) - t), weights[3] = far(T(2) - t);
}

template <Sampling MODE> constexpr int TAPS = MODE == Sampling::NEAREST ? 1 : MODE == Sampling::LINEAR ? 2 : 4;

template <Sampling MODE, Outside OUTSIDE, bool CORNERS, class T>
inline void along(T coordinate, long size, long (&elements)[TAPS<MODE>], T (&weights)[TAPS<MODE>]) {
  T at = unnormalised<CORNERS>(coordinate, size);
  if constexpr (MODE == Sampling::NEAREST) {
    elements[0] = element(std::nearbyint(padded<OUTSIDE, CORNERS>(at, size)), size);
    weights[0] = T(1);
  } else if constexpr (MODE == Sampling::LINEAR) {
    at = padded<OUTSIDE, CORNERS>(at, size);
    const T first = std::floor(at);
    elements[0] = element(first, size), elements[1] = element(first + T(1), size);
    weights[0] = first + T(1) - at, weights[1] = at - first;
  } else {
    const T first = std::floor(at);
    cubic_weights(at - first, weights);
    for (int k = 0; k < 4; ++k) elements[k] = element(padded<OUTSIDE, CORNERS>(first + T(k - 1), size), size);
  }
}

}  // namespace sampling

template <class S, Sampling MODE, Outside OUTSIDE, bool CORNERS, class T> void grid_sample(const Worker& worker, T* y, const T* x, const T* grid) {
  constexpr int TAPS = sampling::TAPS<MODE>, COUNT = S::AXES == 2 ? TAPS * TAPS : TAPS * TAPS * TAPS;
  long places = S::N;
  for (int axis = 0; axis < S::AXES; ++axis) places *= S::OUT_SIZES[axis];
  const Range share = worker.split(places);
  for (long k = share.begin; k < share.end; ++k) {
    long rest = k, to = 0, from = 0;
    for (int axis = S::AXES - 1; axis >= 0; --axis) {
      const long i = rest % S::OUT_SIZES[axis];
      rest /= S::OUT_SIZES[axis];
      to += i * S::Y_AXES[axis];
      from += i * S::GRID[axis + 1];
    }
    const T* position = grid + from + rest * S::GRID[0];
    long elements[S::AXES][TAPS];
    T weights[S::AXES][TAPS];
    for (int axis = 0; axis < S::AXES; ++axis)
      sampling::along<MODE, OUTSIDE, CORNERS>(position[(S::AXES - 1 - axis) * S::GRID[S::AXES + 1]], S::IN_SIZES[axis], elements[axis], weights[axis]);
    long offsets[COUNT];
    T shares[COUNT];
    for (int tap = 0; tap < COUNT; ++tap) {
      int digits = tap;
      offsets[tap] = rest * S::X_N;
      shares[tap] = T(1);
      bool inside = true;
      for (int axis = S::AXES - 1; axis >= 0; --axis) {
        const int i = digits % TAPS;
        digits /= TAPS;
        inside &= elements[axis][i] >= 0;
        offsets[tap] += elements[axis][i] * S::X_AXES[axis];
        shares[tap] *= weights[axis][i];
      }
      if (!inside) offsets[tap] = -1;
    }
    for (long c = 0; c < S::C; ++c) {
      T sum = 0;
      for (int tap = 0; tap < COUNT; ++tap)
        if (offsets[tap] >= 0) sum += shares[tap] * x[offsets[tap] + c * S::X_C];
      y[to + rest * S::Y_N + c * S::Y_C] = sum;
    }
  }
}

}  // namespace graphopt
