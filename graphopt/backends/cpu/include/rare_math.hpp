// Functions that networks rarely call on many elements: lane by lane through the C library.
#pragma once

#include "part.hpp"

namespace graphopt {

#define GRAPHOPT_EACH(name) \
  GRAPHOPT_INLINE Vec name(Vec x) { \
    return lift([](Part a) { return each([](float v) { return std::name(v); }, a); }, x); \
  }
GRAPHOPT_EACH(sin)
GRAPHOPT_EACH(cos)
GRAPHOPT_EACH(tan)
GRAPHOPT_EACH(asin)
GRAPHOPT_EACH(acos)
GRAPHOPT_EACH(atan)
GRAPHOPT_EACH(sinh)
GRAPHOPT_EACH(cosh)
GRAPHOPT_EACH(asinh)
GRAPHOPT_EACH(acosh)
GRAPHOPT_EACH(atanh)
GRAPHOPT_EACH(erfc)

#define GRAPHOPT_EACH_2(name, function) \
  GRAPHOPT_INLINE Vec name(Vec x, Vec y) { \
    return lift([](Part a, Part b) { return each([](float v, float w) { return function(v, w); }, a, b); }, x, y); \
  }
GRAPHOPT_EACH_2(pow, std::pow)
GRAPHOPT_EACH_2(atan2, std::atan2)
GRAPHOPT_EACH_2(fmod, std::fmod)

// a modulo b with the sign of b.
GRAPHOPT_INLINE float remainder(float a, float b) {
  const float rest = std::fmod(a, b);
  return rest != 0.0f && (b < 0.0f) != (rest < 0.0f) ? rest + b : rest;
}

// floor(a / b) of the exact quotient, as Python and torch.
GRAPHOPT_INLINE float divide_floor(float a, float b) {
  if (b == 0.0f) return a / b;
  const float rest = std::fmod(a, b);
  float quotient = (a - rest) / b;
  if (rest != 0.0f && (b < 0.0f) != (rest < 0.0f)) quotient -= 1.0f;
  if (quotient == 0.0f) return std::copysign(0.0f, a / b);
  const float whole = std::floor(quotient);
  return quotient - whole > 0.5f ? whole + 1.0f : whole;
}

GRAPHOPT_EACH_2(remainder, remainder)
GRAPHOPT_EACH_2(divide_floor, divide_floor)

GRAPHOPT_INLINE Vec divide_trunc(Vec x, Vec y) {
  return lift([](Part a, Part b) __attribute__((always_inline)) { return trunc_part(a / b); }, x, y);
}

}  // namespace graphopt
