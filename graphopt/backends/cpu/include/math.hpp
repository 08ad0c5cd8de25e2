// Exponentials, logarithms and what is made of them, on vectors of f32.
//
// Errors in units in the last place (ulp) against exact values, measured by tests/backends/cpu/test_math.py. NaN,
// infinities and results below the normal range are right, too. Coefficients are minimax fits of our own.
#pragma once

#include "part.hpp"

namespace graphopt {

constexpr float LOG2_E = 1.44269504f;
constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;  // LN2_HIGH times a small integer is exact

// e^r = 1 + r + r^2 * p(r) for |r| <= ln(2) / 2, relative error 3e-9.
constexpr float EXP[] = {0.4999999341f, 0.1666651997f, 0.0416683958f, 0.0083687974f, 0.0013814434f};

// x = n ln(2) + r with a whole n; the rounding of `x * LOG2_E + MAGIC` leaves n in the low bits of its sum.
struct Reduced {
  Part n_bits, n, r;
};
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23

GRAPHOPT_INLINE Reduced reduce_exponent(Part x) {
  const Part n_bits = x * LOG2_E + MAGIC;
  const Part n = n_bits - MAGIC;
  return {n_bits, n, (x - n * LN2_HIGH) - n * LN2_LOW};
}

// p * 2^n for |n| <= 300: where the result is below the normal range it is rounded there.
GRAPHOPT_INLINE Part scaled(Part p, Part n_bits, Part n) {
#if defined(__AVX512F__)
  (void)n_bits;
  return reinterpret_cast<Part>(_mm512_maskz_scalef_ps(ALL, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  (void)n;
  const IntPart whole = bits(n_bits) - bits(number(MAGIC)), half = whole >> 1, rest = whole - half;
  return p * from_bits((half + 127) << 23) * from_bits((rest + 127) << 23);
#endif
}

GRAPHOPT_INLINE Part exp_part(Part x) {  // 1 ulp
  const Reduced of = reduce_exponent(at_least_part(at_most_part(x, 89.0f), -104.0f));
  return scaled(polynomial(of.r, EXP) * (of.r * of.r) + (of.r + 1.0f), of.n_bits, of.n);
}

// e^r = 1 + r + r^2 * p(r), relative error 1e-7.
constexpr float EXP_SHORT[] = {0.4999922810f, 0.1666711674f, 0.0418906563f, 0.0083124683f};

// e^x or e^-x for |x| <= 100, 2 ulp: short, for what adds it to 1.
template <bool negated> GRAPHOPT_INLINE Part rough_exp(Part x) {
  const Part n_bits = x * (negated ? -LOG2_E : LOG2_E) + MAGIC, n = n_bits - MAGIC;
  const Part r = ((negated ? -x : x) - n * LN2_HIGH) - n * LN2_LOW;
  return scaled(polynomial(r, EXP_SHORT) * (r * r) + (r + 1.0f), n_bits, n);
}

GRAPHOPT_INLINE Part exp2_part(Part x) {  // 1 ulp
  const Part limited = at_least_part(at_most_part(x, 129.0f), -151.0f);
  const Part n_bits = limited + MAGIC, n = n_bits - MAGIC, r = (limited - n) * 0.693147181f;
  return scaled(polynomial(r, EXP) * (r * r) + (r + 1.0f), n_bits, n);
}

// 2^r = 1 + r * p(r) for 0 <= r < 1, relative error 2e-9.
constexpr float EXP2[] = {0.6931470633f, 0.2402290702f, 0.0554862842f, 0.009673536755f, 0.001248467481f, 0.0002155738621f};

// 2^x for x <= 0, as in a softmax after its maximum is subtracted: nothing can overflow. 0 for -inf, and below 2^-110:
// such a share of a softmax is lost in any sum, and what is left of it after division could be subnormal, which makes
// the products after it a hundred times slower (masks of -100 do that).
GRAPHOPT_INLINE Part exp2_negative_part(Part x) {  // 1 ulp
#if defined(__AVX512DQ__)
  // x - floor(x), 0 for -inf; the scaling takes the floor itself
  const Part r = reinterpret_cast<Part>(_mm512_maskz_reduce_ps(ALL, reinterpret_cast<__m512>(x), DOWN | 8));
  const Part found = scaled(r * polynomial(r, EXP2) + 1.0f, r, x);
#else
  const Part found = exp2_part(x);
#endif
  return x < -110.0f ? Part{} : found;
}

// e^r - 1 = q for small r; with 2^n halved, so that 2^128 is not needed: 2 (2^(n-1) q + (2^(n-1) - 1/2)).
GRAPHOPT_INLINE Part expm1_part(Part x) {  // 2 ulp
  const Reduced of = reduce_exponent(at_least_part(at_most_part(x, 89.0f), -30.0f));
  const Part q = polynomial(of.r, EXP) * (of.r * of.r) + of.r;
  const Part half = from_bits((bits(of.n_bits) << 23) + (126 << 23));
  const Part result = 2.0f * (half * q + (half - 0.5f));
  return bits(x) == SIGN ? x : result;  // -0
}

// ---- logarithms --------------------------------------------------------------------------------------------

// x = 2^n (1 + f) with 1 + f from sqrt(1/2) to sqrt(2); log(1 + f) = f - f^2 / 2 + f^3 p(f), relative error 6e-9.
constexpr float LOG[] = {0.3333333135f, -0.2500081956f, 0.2000122964f, -0.1662335992f, 0.1420170963f, -0.1316010207f, 0.1276190877f, -0.0763515905f};

// n * (high + low) + log(1 + f) * scale.
GRAPHOPT_INLINE Part scaled_logarithm(Part x, float high, float low, float scale) {
  const auto small = x < 1.17549435e-38f;
  const Part normal = small ? x * 8388608.0f : x;
  const IntPart from_root = bits(normal) - 0x3f3504f3;  // sqrt(1/2)
  const Part n = to_float(from_root >> 23) - (small ? number(23.0f) : Part{});
  const Part f = from_bits((from_root & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const Part square = f * f;
  const Part tail = polynomial(f, LOG) * (square * f) - 0.5f * square;
  Part result = scale == 1.0f ? n * low + tail : n * low + tail * scale;
  result = scale == 1.0f ? result + f : f * scale + result;
  result = n * high + result;
  result = x < number(INFINITY) ? result : x;  // inf and NaN
  result = x == Part{} ? number(-INFINITY) : result;
  return x < Part{} ? number(NAN) : result;
}

GRAPHOPT_INLINE Part log_part(Part x) { return scaled_logarithm(x, LN2_HIGH, LN2_LOW, 1.0f); }  // 1 ulp
GRAPHOPT_INLINE Part log2_part(Part x) { return scaled_logarithm(x, 1.0f, 0.0f, LOG2_E); }  // 2 ulp, exact for powers of two
GRAPHOPT_INLINE Part log10_part(Part x) { return scaled_logarithm(x, 0.30102539f, 4.6050389e-6f, 0.434294482f); }  // 2 ulp

// log(u) with u = 1 + x rounded, and the first term for what the rounding lost.
GRAPHOPT_INLINE Part log1p_part(Part x) {  // 2 ulp
  const Part u = x + 1.0f;
  const Part result = log_part(u) + (x - (u - 1.0f)) / u;
  const auto usual = (u > Part{}) & (u < number(INFINITY)) & (bits(x) != SIGN);
  return usual ? result : bits(x) == SIGN ? x : log_part(u);
}

// ---- sigmoid, tanh, erf ------------------------------------------------------------------------------------

GRAPHOPT_INLINE Part sigmoid_part(Part x) { return 1.0f / (1.0f + rough_exp<true>(at_least_part(at_most_part(x, 100.0f), -100.0f))); }  // 3 ulp

// E / (E + 2) with E = e^(2|x|) - 1.
GRAPHOPT_INLINE Part tanh_part(Part x) {  // 2 ulp
  const Reduced of = reduce_exponent(at_most_part(abs_part(x + x), 20.0f));
  const Part q = polynomial(of.r, EXP) * (of.r * of.r) + of.r;
  const Part power = from_bits((bits(of.n_bits) << 23) + (127 << 23));
  const Part e = power * q + (power - 1.0f);
  return copysign_part(e / (e + 2.0f), x);
}

// erf(x) = x + x p(x^2) for |x| < 0.9, relative error 2e-9.
constexpr float ERF_SMALL[] = {0.1283791661f, -0.3761263192f, 0.1128366366f, -0.0268577058f, 0.0051969518f, -0.0008097703f, 0.0000818509f};
// erf(x) = 1 - p((x - 2.37) / 1.47) for 0.9 <= x <= 3.84, error 6e-9.
constexpr float ERFC[] = {0.0008032089f, -0.0060308366f, 0.0210113525f, -0.0444598906f, 0.0623024032f, -0.0579681396f, 0.0314912759f, -0.0016752050f,
                          -0.0133930147f, 0.0114501510f, -0.0022952594f, -0.0030917521f, 0.0019502846f, 0.0002297657f, -0.0003242922f};

GRAPHOPT_INLINE Part erf_part(Part x) {  // 2 ulp
  const Part magnitude = at_most_part(abs_part(x), 3.84f);
  const Part small = x * polynomial(x * x, ERF_SMALL) + x;
  const Part large = copysign_part(1.0f - polynomial((magnitude - 2.37f) * (1.0f / 1.47f), ERFC), x);
  return magnitude < 0.9f ? small : large;
}

GRAPHOPT_LIFT(exp)
GRAPHOPT_LIFT(exp2)
GRAPHOPT_LIFT(exp2_negative)
GRAPHOPT_LIFT(expm1)
GRAPHOPT_LIFT(log)
GRAPHOPT_LIFT(log2)
GRAPHOPT_LIFT(log10)
GRAPHOPT_LIFT(log1p)
GRAPHOPT_LIFT(sigmoid)
GRAPHOPT_LIFT(tanh)
GRAPHOPT_LIFT(erf)

// ---- the others --------------------------------------------------------------------------------------------

GRAPHOPT_LIFT(abs)
GRAPHOPT_LIFT(floor)
GRAPHOPT_LIFT(ceil)
GRAPHOPT_LIFT(trunc)
GRAPHOPT_LIFT(round)
GRAPHOPT_LIFT(sqrt)

GRAPHOPT_INLINE Vec reciprocal(Vec x) { return splat(1.0f) / x; }
GRAPHOPT_INLINE Vec rsqrt(Vec x) { return splat(1.0f) / sqrt(x); }

GRAPHOPT_INLINE Vec at_least(Vec x, float low) { return lift([low](Part a) __attribute__((always_inline)) { return at_least_part(a, low); }, x); }
GRAPHOPT_INLINE Vec at_most(Vec x, float high) { return lift([high](Part a) __attribute__((always_inline)) { return at_most_part(a, high); }, x); }

}  // namespace graphopt
