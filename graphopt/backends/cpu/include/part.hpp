// What elementwise functions are made of, on a `Part` (one machine register): bits, rounding, choices.
#pragma once

#include <cmath>

#include "simd.hpp"

// Defines the function of a Vec from the one of a Part: exp(Vec) from exp_part(Part).
#define GRAPHOPT_LIFT(name) \
  GRAPHOPT_INLINE Vec name(Vec x) { \
    return lift([](Part a) __attribute__((always_inline)) { return name##_part(a); }, x); \
  }
#define GRAPHOPT_LIFT_2(name) \
  GRAPHOPT_INLINE Vec name(Vec x, Vec y) { \
    return lift([](Part a, Part b) __attribute__((always_inline)) { return name##_part(a, b); }, x, y); \
  }

namespace graphopt {

#if defined(__AVX512F__)
constexpr __mmask16 ALL = 0xffff;  // gcc 12 warns of the forms of intrinsics without a mask
#endif

// ---- bits --------------------------------------------------------------------------------------------------

GRAPHOPT_INLINE IntPart bits(Part x) { return reinterpret_cast<IntPart>(x); }
GRAPHOPT_INLINE Part from_bits(IntPart x) { return reinterpret_cast<Part>(x); }
GRAPHOPT_INLINE Part number(float x) { return Part{} + x; }
GRAPHOPT_INLINE Part to_float(IntPart x) { return __builtin_convertvector(x, Part); }

constexpr int32_t SIGN = INT32_MIN;

GRAPHOPT_INLINE Part abs_part(Part x) { return from_bits(bits(x) & ~SIGN); }
GRAPHOPT_INLINE Part copysign_part(Part magnitude, Part sign) { return from_bits((bits(magnitude) & ~SIGN) | (bits(sign) & SIGN)); }

// ---- choices -----------------------------------------------------------------------------------------------

// max(x, low) and min(x, high) of a number in one instruction; a NaN of x stays.
GRAPHOPT_INLINE Part at_least_part(Part x, float low) { return larger(number(low), x); }
GRAPHOPT_INLINE Part at_most_part(Part x, float high) { return smaller(number(high), x); }

// min(max(x, -limit), limit); +-limit for a NaN.
GRAPHOPT_INLINE Part limited(Part x, float limit) {
#if defined(__AVX512DQ__)
  constexpr int SMALLER_MAGNITUDE = 2, SIGN_OF_FIRST = 0;
  return reinterpret_cast<Part>(
      _mm512_maskz_range_ps(ALL, reinterpret_cast<__m512>(x), _mm512_set1_ps(limit), SMALLER_MAGNITUDE | SIGN_OF_FIRST << 2));
#else
  return larger(smaller(x, number(limit)), number(-limit));
#endif
}

// ---- rounding ----------------------------------------------------------------------------------------------

enum Rounding { TO_NEAREST = 0, DOWN = 1, UP = 2, TO_ZERO = 3 };  // numbers of the x86 instructions

template <Rounding rounding> GRAPHOPT_INLINE Part rounded(Part x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Part>(_mm512_maskz_roundscale_ps(ALL, reinterpret_cast<__m512>(x), rounding | 8));
#elif defined(__AVX__)
  return reinterpret_cast<Part>(_mm256_round_ps(reinterpret_cast<__m256>(x), rounding | 8));
#else
  for (int i = 0; i < PART_LANES; ++i)
    x[i] = rounding == DOWN ? std::floor(x[i]) : rounding == UP ? std::ceil(x[i]) : rounding == TO_ZERO ? std::trunc(x[i]) : std::nearbyint(x[i]);
  return x;
#endif
}

GRAPHOPT_INLINE Part floor_part(Part x) { return rounded<DOWN>(x); }
GRAPHOPT_INLINE Part ceil_part(Part x) { return rounded<UP>(x); }
GRAPHOPT_INLINE Part trunc_part(Part x) { return rounded<TO_ZERO>(x); }
GRAPHOPT_INLINE Part round_part(Part x) { return rounded<TO_NEAREST>(x); }

GRAPHOPT_INLINE Part sqrt_part(Part x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Part>(_mm512_maskz_sqrt_ps(ALL, reinterpret_cast<__m512>(x)));
#elif defined(__AVX__)
  return reinterpret_cast<Part>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#else
  for (int i = 0; i < PART_LANES; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// ---- polynomials -------------------------------------------------------------------------------------------

// terms[0] + terms[1] x + terms[2] x^2 + ... in pairs (Estrin's scheme): short chains of dependent operations, which
// bind here, for a few more multiplications.
template <int COUNT> GRAPHOPT_INLINE Part in_pairs(Part x, const Part (&terms)[COUNT]) {
  if constexpr (COUNT == 1) {
    return terms[0];
  } else {
    constexpr int HALF = (COUNT + 1) / 2;
    Part pairs[HALF];
    GRAPHOPT_UNROLL
    for (int i = 0; i < HALF; ++i) pairs[i] = 2 * i + 1 < COUNT ? terms[2 * i + 1] * x + terms[2 * i] : terms[2 * i];
    return in_pairs<HALF>(x * x, pairs);
  }
}

// c[0] + c[1] x + c[2] x^2 + ...
template <int COUNT> GRAPHOPT_INLINE Part polynomial(Part x, const float (&c)[COUNT]) {
  Part terms[COUNT];
  GRAPHOPT_UNROLL
  for (int i = 0; i < COUNT; ++i) terms[i] = number(c[i]);
  return in_pairs<COUNT>(x, terms);
}

// A function of one number on each lane, for what is too rare to have vector code.
template <class F> GRAPHOPT_INLINE Part each(F f, Part x) {
  for (int i = 0; i < PART_LANES; ++i) x[i] = f(x[i]);
  return x;
}
template <class F> GRAPHOPT_INLINE Part each(F f, Part x, Part y) {
  for (int i = 0; i < PART_LANES; ++i) x[i] = f(x[i], y[i]);
  return x;
}

}  // namespace graphopt
