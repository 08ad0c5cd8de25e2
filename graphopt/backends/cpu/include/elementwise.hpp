// Elementwise ops as a step of their own: y[...] = f(operands[...]).
//
// S describes the outer loops (loops.hpp; storage 0 is y, storage k is operand k - 1) and the two innermost axes: MIDDLE
// and LENGTH elements, Y_MIDDLE and Y_STEP apart in y. F has `at<COUNT>(at, m, i)` for vectors, `at(at, m, i)` for elements.
#pragma once

#include "epilogue.hpp"
#include "loops.hpp"

namespace graphopt {

// COUNT lanes STEP apart; 0 is one number for all.
template <int STEP, int COUNT> GRAPHOPT_INLINE Vec load_lanes(const float* p) {
  if constexpr (STEP == 0) {
    return splat(*p);
  } else if constexpr (STEP == 1) {
    return COUNT == LANES ? load(p) : load_first(p, COUNT);
  } else {
    float lanes[LANES] = {};
    for (int i = 0; i < COUNT; ++i) lanes[i] = p[i * STEP];
    return load(lanes);
  }
}
template <int STEP, int COUNT> GRAPHOPT_INLINE Vec load_lanes(const bool* p) {
  float lanes[LANES] = {};
  for (int i = 0; i < COUNT; ++i) lanes[i] = p[i * STEP] ? 1.0f : 0.0f;
  return load(lanes);
}

template <int STEP, int COUNT> GRAPHOPT_INLINE void store_lanes(float* p, Vec v) {
  if constexpr (STEP == 1) {
    if constexpr (COUNT == LANES) store(p, v);
    else store_first(p, v, COUNT);
  } else {
    float lanes[LANES];
    store(lanes, v);
    for (int i = 0; i < COUNT; ++i) p[i * STEP] = lanes[i];
  }
}
template <int STEP, int COUNT> GRAPHOPT_INLINE void store_lanes(bool* p, Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < COUNT; ++i) p[i * STEP] = lanes[i] != 0.0f;
}

template <class S, class T, class F> void elementwise(const Worker& worker, T* y, F f) {
  constexpr long WHOLE = S::LENGTH / LANES * LANES, TAIL = S::LENGTH - WHOLE;
  for_each_position<S>(worker, 2 + S::MIDDLE * ((S::LENGTH + LANES - 1) / LANES) * S::WORK, [=](const long* at) {
    for (long m = 0; m < S::MIDDLE; ++m) {
      T* to = y + at[0] + m * S::Y_MIDDLE;
      for (long i = 0; i < WHOLE; i += LANES) store_lanes<S::Y_STEP, LANES>(to + i * S::Y_STEP, f.template at<LANES>(at, m, i));
      if constexpr (TAIL > 0) store_lanes<S::Y_STEP, TAIL>(to + WHOLE * S::Y_STEP, f.template at<TAIL>(at, m, WHOLE));
    }
  });
}

template <class S, class T, class F> void elementwise_typed(const Worker& worker, T* y, F f) {
  for_each_position<S>(worker, 2 + S::MIDDLE * S::LENGTH * S::WORK, [=](const long* at) {
    for (long m = 0; m < S::MIDDLE; ++m) {
      T* to = y + at[0] + m * S::Y_MIDDLE;
      for (long i = 0; i < S::LENGTH; ++i) to[i * S::Y_STEP] = f.at(at, m, i);
    }
  });
}

}  // namespace graphopt
