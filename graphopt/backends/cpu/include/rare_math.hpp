// Functions that networks rarely call on many elements: lane by lane through the C library.
#pragma once

#include "part.hpp"
#include "scalar.hpp"

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

GRAPHOPT_EACH_2(remainder, scalar::remainder)
GRAPHOPT_EACH_2(divide_floor, scalar::divide_floor)

GRAPHOPT_INLINE Vec divide_trunc(Vec x, Vec y) {
  return lift([](Part a, Part b) __attribute__((always_inline)) { return trunc_part(a / b); }, x, y);
}

}  // namespace graphopt
