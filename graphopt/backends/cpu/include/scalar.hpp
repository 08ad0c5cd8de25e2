// Elementwise ops on one element of any type, with torch's meaning: integers wrap around, comparisons of NaN are
// false, division of integers by zero gives 0 (torch raises an error).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace graphopt {
namespace scalar {

template <class T> constexpr bool is_float = std::is_floating_point_v<T>;
template <class T> constexpr bool is_bool = std::is_same_v<T, bool>;

// ---- conversion --------------------------------------------------------------------------------------------

template <class T, class X> inline T to(X x) {
  if constexpr (is_bool<T>) return x != X(0);
  else if constexpr (is_float<X> && std::is_integral_v<T>) return static_cast<T>(static_cast<int64_t>(x));
  else return static_cast<T>(x);
}

// ---- arithmetic --------------------------------------------------------------------------------------------

template <class T> inline T add(T a, T b) {
  if constexpr (is_float<T>) return a + b;
  else if constexpr (is_bool<T>) return a || b;
  else return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
template <class T> inline T sub(T a, T b) {
  if constexpr (is_float<T>) return a - b;
  else return static_cast<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
template <class T> inline T mul(T a, T b) {
  if constexpr (is_float<T>) return a * b;
  else if constexpr (is_bool<T>) return a && b;
  else return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <class T> inline T neg(T a) { return sub(T(0), a); }
template <> inline float neg(float a) { return -a; }
template <> inline double neg(double a) { return -a; }
template <class T> inline T square(T a) { return mul(a, a); }

template <class T> inline T abs(T a) {
  if constexpr (is_float<T>) return std::fabs(a);
  else return a < T(0) ? neg(a) : a;
}
template <class T> inline T sign(T a) { return static_cast<T>((a > T(0)) - (a < T(0))); }

// a / b towards zero; what wraps around (the least number by -1) wraps.
template <class T> inline T divide_trunc(T a, T b) {
  if constexpr (is_float<T>) return std::trunc(a / b);
  else if (b == T(0)) return 0;
  else if (std::is_signed_v<T> && b == static_cast<T>(-1)) return neg(a);
  else return static_cast<T>(a / b);
}

// a modulo b with the sign of a.
template <class T> inline T fmod(T a, T b) {
  if constexpr (is_float<T>) return std::fmod(a, b);
  else if (b == T(0) || (std::is_signed_v<T> && b == static_cast<T>(-1))) return 0;
  else return static_cast<T>(a % b);
}

// a modulo b with the sign of b.
template <class T> inline T remainder(T a, T b) {
  const T rest = scalar::fmod(a, b);
  return rest != T(0) && (b < T(0)) != (rest < T(0)) ? static_cast<T>(rest + b) : rest;
}

// floor(a / b) of the exact quotient, as Python and torch.
template <class T> inline T divide_floor(T a, T b) {
  if constexpr (is_float<T>) {
    if (b == T(0)) return a / b;
    const T rest = std::fmod(a, b);
    T quotient = (a - rest) / b;
    if (rest != T(0) && (b < T(0)) != (rest < T(0))) quotient -= T(1);
    if (quotient == T(0)) return std::copysign(T(0), a / b);
    const T whole = std::floor(quotient);
    return quotient - whole > T(0.5) ? whole + T(1) : whole;
  } else {
    const T quotient = divide_trunc(a, b);
    return scalar::fmod(a, b) != T(0) && (a < T(0)) != (b < T(0)) ? static_cast<T>(quotient - 1) : quotient;
  }
}

template <class T> inline T pow(T a, T b) {
  if constexpr (is_float<T>) {
    return std::pow(a, b);
  } else {
    if (b < T(0)) return a == T(1) ? T(1) : a == static_cast<T>(-1) ? (b % 2 == 0 ? T(1) : a) : T(0);
    T result = 1;
    for (auto left = static_cast<uint64_t>(b); left != 0; left >>= 1) {
      if (left & 1) result = mul(result, a);
      a = mul(a, a);
    }
    return result;
  }
}

// NaN where either is NaN.
template <class T> inline T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <class T> inline T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> inline T at_least(T a, T low) { return a < low ? low : a; }
template <class T> inline T at_most(T a, T high) { return a > high ? high : a; }

// ---- bits --------------------------------------------------------------------------------------------------

template <class T> inline T bitwise_and(T a, T b) { return static_cast<T>(a & b); }
template <class T> inline T bitwise_or(T a, T b) { return static_cast<T>(a | b); }
template <class T> inline T bitwise_xor(T a, T b) { return static_cast<T>(a ^ b); }
template <class T> inline T bitwise_not(T a) {
  if constexpr (is_bool<T>) return !a;
  else return static_cast<T>(~a);
}
template <class T> inline T bitwise_left_shift(T a, T b) {
  const bool inside = b >= T(0) && static_cast<uint64_t>(b) < 8 * sizeof(T);
  return inside ? static_cast<T>(static_cast<uint64_t>(a) << static_cast<uint64_t>(b)) : T(0);
}
template <class T> inline T bitwise_right_shift(T a, T b) {
  const bool inside = b >= T(0) && static_cast<uint64_t>(b) < 8 * sizeof(T);
  return static_cast<T>(a >> (inside ? static_cast<int>(b) : static_cast<int>(8 * sizeof(T) - 1)));
}

// ---- functions of floating-point numbers ---------------------------------------------------------------------

#define GRAPHOPT_SCALAR_ROUNDING(name, function) \
  template <class T> inline T name(T a) { \
    if constexpr (is_float<T>) return function(a); \
    else return a; \
  }
GRAPHOPT_SCALAR_ROUNDING(floor, std::floor)
GRAPHOPT_SCALAR_ROUNDING(ceil, std::ceil)
GRAPHOPT_SCALAR_ROUNDING(trunc, std::trunc)
GRAPHOPT_SCALAR_ROUNDING(round, std::nearbyint)

template <class T> inline T relu(T a) { return a < T(0) ? T(0) : a; }
template <class T> inline T frac(T a) { return a - std::trunc(a); }
template <class T> inline T reciprocal(T a) { return T(1) / a; }
template <class T> inline T rsqrt(T a) { return T(1) / std::sqrt(a); }
template <class T> inline T sigmoid(T a) { return T(1) / (T(1) + std::exp(-a)); }
template <class T> inline T silu(T a) { return a / (T(1) + std::exp(-a)); }
template <class T> inline T hardsigmoid(T a) { return at_most(at_least(a + T(3), T(0)), T(6)) / T(6); }
template <class T> inline T hardswish(T a) { return a * hardsigmoid(a); }
template <class T> inline T softplus(T a, T beta, T threshold) { return a * beta > threshold ? a : std::log1p(std::exp(a * beta)) / beta; }
template <class T> inline T mish(T a) { return a * std::tanh(softplus(a, T(1), T(20))); }
template <class T> inline T elu(T a, T alpha, T scale, T input_scale) {
  return a > T(0) ? a * scale : std::expm1(a * input_scale) * (alpha * scale);
}
template <class T> inline T selu(T a) { return elu(a, T(1.6732632423543772), T(1.0507009873554805), T(1)); }
template <class T> inline T log_sigmoid(T a) { return at_most(a, T(0)) - std::log1p(std::exp(-std::fabs(a))); }
template <class T> inline T softsign(T a) { return a / (T(1) + abs(a)); }
template <class T> inline T gelu(T a) { return a * T(0.5) * std::erfc(a * T(-0.7071067811865476)); }
template <class T> inline T gelu_tanh(T a) { return T(0.5) * a * (T(1) + std::tanh(T(0.7978845608028654) * (a + T(0.044715) * a * a * a))); }
template <class T> inline T leaky_relu(T a, T slope) { return a > T(0) ? a : a * slope; }
template <class T> inline T prelu(T a, T slope) { return a > T(0) ? a : a * slope; }
template <class T> inline T hardshrink(T a, T lambda) { return std::fabs(a) <= lambda ? T(0) : a; }
template <class T> inline T softshrink(T a, T lambda) { return a > lambda ? a - lambda : a < -lambda ? a + lambda : a != a ? a : T(0); }
template <class T> inline T threshold(T a, T limit, T value) { return a <= limit ? value : a; }

}  // namespace scalar
}  // namespace graphopt
