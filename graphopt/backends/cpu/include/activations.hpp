// Activations, comparisons and choices on vectors of f32: every elementwise op that `math.hpp` has not.
// Truth values are 1.0 and 0.0.
#pragma once

#include "math.hpp"
#include "rare_math.hpp"

namespace graphopt {

// ---- activations -------------------------------------------------------------------------------------------

// Phi(x) = 1/2 + x p(z) with z = x^2 / (5.25^2 / 2) - 1 for |x| <= 5.25, error 1.6e-8; beyond, what overshoots is cut.
constexpr float NORMAL[] = {0.13465934992f, -0.06712681800f, 0.04964578524f, -0.03976341337f, 0.03203143924f, -0.02504193224f, 0.01853864826f, -0.01277524978f,
                            0.00841787085f, -0.00544851925f, 0.00289236079f, -0.00103953469f, 0.00066473236f, -0.00065658370f, 0.00023995004f};

// x Phi(x), half the absolute error of 0.5 * x * (1 + erf(x / sqrt(2))) in floats.
GRAPHOPT_INLINE Part gelu_part(Part x) {
  const Part square = at_most_part(x * x, 5.25f * 5.25f);
  const Part half_erf = limited(x * polynomial(square * (2.0f / (5.25f * 5.25f)) - 1.0f, NORMAL), 0.5f);
  return x * half_erf + 0.5f * x;
}

// x sigmoid(x); the division overlaps with what is around it, an estimate and a Newton step would not.
GRAPHOPT_INLINE Part silu_part(Part x) { return x / (1.0f + rough_exp<true>(limited(x, 100.0f))); }

// 0.5 x (1 + tanh(u)) is x sigmoid(2u).
GRAPHOPT_INLINE Part gelu_tanh_part(Part x) {
  const Part twice_u = x * (x * x * 0.0713548162726f + 1.59576912161f);
  return x / (1.0f + rough_exp<true>(limited(twice_u, 100.0f)));
}

// tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2).
GRAPHOPT_INLINE Part mish_part(Part x) {
  const Part e = rough_exp<false>(at_most_part(limited(x, 110.0f), 20.0f));
  const Part n = e * (e + 2.0f);
  return x * (n / (n + 2.0f));
}

GRAPHOPT_INLINE Part hardsigmoid_part(Part x) { return at_most_part(at_least_part(x + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f); }
GRAPHOPT_INLINE Part hardswish_part(Part x) { return x * hardsigmoid_part(x); }
GRAPHOPT_INLINE Part softsign_part(Part x) { return x / (abs_part(x) + 1.0f); }
GRAPHOPT_INLINE Part log_sigmoid_part(Part x) { return at_most_part(x, 0.0f) - log1p_part(exp_part(-abs_part(x))); }
GRAPHOPT_INLINE Part frac_part(Part x) { return x - trunc_part(x); }
GRAPHOPT_INLINE Part elu_part(Part x, float alpha, float scale, float input_scale) {
  return x > Part{} ? x * scale : expm1_part(x * input_scale) * (alpha * scale);
}

GRAPHOPT_LIFT(gelu)
GRAPHOPT_LIFT(gelu_tanh)
GRAPHOPT_LIFT(silu)
GRAPHOPT_LIFT(mish)
GRAPHOPT_LIFT(hardsigmoid)
GRAPHOPT_LIFT(hardswish)
GRAPHOPT_LIFT(softsign)
GRAPHOPT_LIFT(log_sigmoid)
GRAPHOPT_LIFT(frac)

GRAPHOPT_INLINE Vec elu(Vec x, float alpha, float scale, float input_scale) {
  return lift([=](Part a) __attribute__((always_inline)) { return elu_part(a, alpha, scale, input_scale); }, x);
}
GRAPHOPT_INLINE Vec selu(Vec x) { return elu(x, 1.6732632423543772f, 1.0507009873554805f, 1.0f); }

GRAPHOPT_INLINE Vec softplus(Vec x, float beta, float threshold) {
  return lift([=](Part a) __attribute__((always_inline)) {
    const Part t = a * beta;
    return t > threshold ? a : log1p_part(exp_part(t)) / beta;
  }, x);
}

GRAPHOPT_INLINE Vec leaky_relu(Vec x, float slope) {
  return lift([=](Part a) __attribute__((always_inline)) { return a > Part{} ? a : a * slope; }, x);
}

GRAPHOPT_INLINE Vec prelu(Vec x, Vec slope) {
  return lift([](Part a, Part s) __attribute__((always_inline)) { return a > Part{} ? a : a * s; }, x, slope);
}

GRAPHOPT_INLINE Vec hardshrink(Vec x, float lambda) {
  return lift([=](Part a) __attribute__((always_inline)) { return abs_part(a) <= lambda ? Part{} : a; }, x);
}

GRAPHOPT_INLINE Vec softshrink(Vec x, float lambda) {
  return lift([=](Part a) __attribute__((always_inline)) {
    const Part inside = a != a ? a : Part{};
    return a > lambda ? a - lambda : a < -lambda ? a + lambda : inside;
  }, x);
}

GRAPHOPT_INLINE Vec threshold(Vec x, float limit, float value) {
  return lift([=](Part a) __attribute__((always_inline)) { return a <= limit ? number(value) : a; }, x);
}

// ---- comparisons and logic ---------------------------------------------------------------------------------

#define GRAPHOPT_COMPARISON(name, condition) \
  GRAPHOPT_INLINE Vec name(Vec x, Vec y) { \
    return lift([](Part a, Part b) __attribute__((always_inline)) { return (condition) ? number(1.0f) : Part{}; }, x, y); \
  }
GRAPHOPT_COMPARISON(equal, a == b)
GRAPHOPT_COMPARISON(not_equal, a != b)
GRAPHOPT_COMPARISON(less, a < b)
GRAPHOPT_COMPARISON(less_equal, a <= b)
GRAPHOPT_COMPARISON(greater, a > b)
GRAPHOPT_COMPARISON(greater_equal, a >= b)
GRAPHOPT_COMPARISON(logical_and, (a != Part{}) & (b != Part{}))
GRAPHOPT_COMPARISON(logical_or, (a != Part{}) | (b != Part{}))
GRAPHOPT_COMPARISON(logical_xor, (a != Part{}) ^ (b != Part{}))

GRAPHOPT_INLINE Vec logical_not(Vec x) { return equal(x, zero()); }
GRAPHOPT_INLINE Vec isnan(Vec x) { return not_equal(x, x); }
GRAPHOPT_INLINE Vec isinf(Vec x) { return equal(abs(x), splat(INFINITY)); }
GRAPHOPT_INLINE Vec sign(Vec x) { return greater(x, zero()) - less(x, zero()); }

GRAPHOPT_INLINE Vec where(Vec condition, Vec x, Vec y) {
  return lift([](Part c, Part a, Part b) __attribute__((always_inline)) { return c != Part{} ? a : b; }, condition, x, y);
}

}  // namespace graphopt
