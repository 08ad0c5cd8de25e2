// Vectors of 16 floats on every machine: one AVX-512 register, two of AVX, four of 128 bits.
//
// A kernel is written once, against `Vec`. What differs between machines is how many of them stay in
// registers: REGISTERS. Functions are written for a `Part` (one machine register) and lifted to `Vec`.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define GRAPHOPT_INLINE inline __attribute__((always_inline))
#define GRAPHOPT_UNROLL _Pragma("GCC unroll 64")

namespace graphopt {

constexpr int LANES = 16;

#if defined(__AVX512F__)
constexpr int PARTS = 1;
constexpr int REGISTERS = 32;  // so many Vecs fit in registers
#elif defined(__AVX__)
constexpr int PARTS = 2;
constexpr int REGISTERS = 8;
#else
constexpr int PARTS = 4;
constexpr int REGISTERS = 4;
#endif

constexpr int PART_LANES = LANES / PARTS;

typedef float Part __attribute__((vector_size(64 / PARTS)));
typedef float PartUnaligned __attribute__((vector_size(64 / PARTS), aligned(4), may_alias));
typedef int32_t IntPart __attribute__((vector_size(64 / PARTS)));

#if defined(__AVX512F__)
typedef Part Vec;
typedef IntPart IntVec;
template <class F, class... V> GRAPHOPT_INLINE auto lift(F f, V... v) { return f(v...); }
#elif defined(__AVX__)
template <class P> struct Parts { P a, b; };
typedef Parts<Part> Vec;
typedef Parts<IntPart> IntVec;
template <class F, class... V> GRAPHOPT_INLINE auto lift(F f, V... v) { return Parts<decltype(f(v.a...))>{f(v.a...), f(v.b...)}; }
#else
template <class P> struct Parts { P a, b, c, d; };
typedef Parts<Part> Vec;
typedef Parts<IntPart> IntVec;
template <class F, class... V> GRAPHOPT_INLINE auto lift(F f, V... v) {
  return Parts<decltype(f(v.a...))>{f(v.a...), f(v.b...), f(v.c...), f(v.d...)};
}
#endif

// ---- memory ------------------------------------------------------------------------------------------------

GRAPHOPT_INLINE Part load_part(const float* p) { return *reinterpret_cast<const PartUnaligned*>(p); }
GRAPHOPT_INLINE void store_part(float* p, Part v) { *reinterpret_cast<PartUnaligned*>(p) = v; }

GRAPHOPT_INLINE Vec load(const float* p) {
#if defined(__AVX512F__)
  return load_part(p);
#elif defined(__AVX__)
  return {load_part(p), load_part(p + 8)};
#else
  return {load_part(p), load_part(p + 4), load_part(p + 8), load_part(p + 12)};
#endif
}

GRAPHOPT_INLINE void store(float* p, Vec v) {
#if defined(__AVX512F__)
  store_part(p, v);
#elif defined(__AVX__)
  store_part(p, v.a);
  store_part(p + 8, v.b);
#else
  store_part(p, v.a);
  store_part(p + 4, v.b);
  store_part(p + 8, v.c);
  store_part(p + 12, v.d);
#endif
}

// (`Part{} + x` would be an addition: it turns -0 into +0.)
GRAPHOPT_INLINE Vec splat(float x) {
#if defined(__AVX512F__)
  return Part{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif defined(__AVX__)
  const Part p{x, x, x, x, x, x, x, x};
  return {p, p};
#else
  const Part p{x, x, x, x};
  return {p, p, p, p};
#endif
}

GRAPHOPT_INLINE Vec zero() { return Vec{}; }

#if defined(__AVX512F__)
// A mask of the first `count` lanes, 0 to 16.
GRAPHOPT_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
#endif

#if defined(__AVX__) && !defined(__AVX512F__)
// All bits of the first `count` lanes, of lanes 0 to 7 or 8 to 15.
GRAPHOPT_INLINE __m256i first_lanes(int count, int from) {
  const IntPart lane{0, 1, 2, 3, 4, 5, 6, 7};
  return reinterpret_cast<__m256i>(lane + from < IntPart{} + count);
}
#endif

// The first `count` lanes of p, the others `fill`. Reads no more than that.
GRAPHOPT_INLINE Vec load_first(const float* p, int count, float fill = 0.0f) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(count), p));
#elif defined(__AVX__)
  const auto part = [&](int from) {
    const __m256i mask = first_lanes(count, from);
    const __m256 found = _mm256_maskload_ps(p + from, mask);
    return reinterpret_cast<Part>(fill == 0.0f ? found : _mm256_blendv_ps(_mm256_set1_ps(fill), found, reinterpret_cast<__m256>(mask)));
  };
  return {part(0), part(8)};
#else
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = fill;
  std::memcpy(lanes, p, sizeof(float) * static_cast<size_t>(count));
  return load(lanes);
#endif
}

// Writes the first `count` lanes and no more.
GRAPHOPT_INLINE void store_first(float* p, Vec v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, first_lanes(count), reinterpret_cast<__m512>(v));
#elif defined(__AVX__)
  // (a copy of so many bytes would make gcc keep the sums of a tile in memory)
  _mm256_maskstore_ps(p, first_lanes(count, 0), reinterpret_cast<__m256>(v.a));
  _mm256_maskstore_ps(p + 8, first_lanes(count, 8), reinterpret_cast<__m256>(v.b));
#else
  float lanes[LANES];
  store(lanes, v);
  std::memcpy(p, lanes, sizeof(float) * static_cast<size_t>(count));
#endif
}

// The same pointer, of which the compiler knows nothing.
GRAPHOPT_INLINE const float* opaque(const float* p) {
  __asm__("" : "+r"(p));
  return p;
}

// Lanes 0 to 7 to one place, 8 to 15 to another.
GRAPHOPT_INLINE void store_halves(float* low, float* high, Vec v) {
#if defined(__AVX512F__)
  typedef float Half __attribute__((vector_size(32), aligned(4), may_alias));
  *reinterpret_cast<Half*>(low) = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  *reinterpret_cast<Half*>(high) = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX__)
  store_part(low, v.a);
  store_part(high, v.b);
#else
  store_part(low, v.a);
  store_part(low + 4, v.b);
  store_part(high, v.c);
  store_part(high + 4, v.d);
#endif
}

// Asks for the line of p in the second cache level. Any address will do.
GRAPHOPT_INLINE void prefetch(const float* p) { __builtin_prefetch(p, 0, 2); }
// Asks for it in the first.
GRAPHOPT_INLINE void prefetch_near(const float* p) { __builtin_prefetch(p, 0, 3); }
// Asks for it in the second, to be written.
GRAPHOPT_INLINE void prefetch_for_write(const float* p) { __builtin_prefetch(p, 1, 2); }

// ---- arithmetic --------------------------------------------------------------------------------------------

#if !defined(__AVX512F__)
GRAPHOPT_INLINE Vec operator+(Vec x, Vec y) { return lift([](Part a, Part b) { return a + b; }, x, y); }
GRAPHOPT_INLINE Vec operator-(Vec x, Vec y) { return lift([](Part a, Part b) { return a - b; }, x, y); }
GRAPHOPT_INLINE Vec operator*(Vec x, Vec y) { return lift([](Part a, Part b) { return a * b; }, x, y); }
GRAPHOPT_INLINE Vec operator/(Vec x, Vec y) { return lift([](Part a, Part b) { return a / b; }, x, y); }
GRAPHOPT_INLINE Vec operator-(Vec x) { return lift([](Part a) { return -a; }, x); }
GRAPHOPT_INLINE Vec& operator+=(Vec& x, Vec y) { return x = x + y; }
GRAPHOPT_INLINE Vec& operator-=(Vec& x, Vec y) { return x = x - y; }
GRAPHOPT_INLINE Vec& operator*=(Vec& x, Vec y) { return x = x * y; }
#endif

// a * b + c, rounded once where the machine can.
GRAPHOPT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return lift([](Part x, Part y, Part z) { return x * y + z; }, a, b, c);
}

// x > y ? x : y and x < y ? x : y in one instruction: y where either is NaN.
GRAPHOPT_INLINE Part larger(Part x, Part y) {
#if defined(__AVX512F__)
  return reinterpret_cast<Part>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(y)));
#elif defined(__AVX__)
  return reinterpret_cast<Part>(_mm256_max_ps(reinterpret_cast<__m256>(x), reinterpret_cast<__m256>(y)));
#else
  return x > y ? x : y;
#endif
}
GRAPHOPT_INLINE Part smaller(Part x, Part y) {
#if defined(__AVX512F__)
  return reinterpret_cast<Part>(_mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(y)));
#elif defined(__AVX__)
  return reinterpret_cast<Part>(_mm256_min_ps(reinterpret_cast<__m256>(x), reinterpret_cast<__m256>(y)));
#else
  return x < y ? x : y;
#endif
}

// As torch: NaN where either is NaN.
GRAPHOPT_INLINE Part maximum_part(Part x, Part y) { const Part m = larger(x, y); return x != x ? x : m; }
GRAPHOPT_INLINE Part minimum_part(Part x, Part y) { const Part m = smaller(x, y); return x != x ? x : m; }
GRAPHOPT_INLINE Vec maximum(Vec x, Vec y) { return lift([](Part a, Part b) { return maximum_part(a, b); }, x, y); }
GRAPHOPT_INLINE Vec minimum(Vec x, Vec y) { return lift([](Part a, Part b) { return minimum_part(a, b); }, x, y); }
// max(x, 0) in one instruction; a NaN stays a NaN.
GRAPHOPT_INLINE Vec relu(Vec x) { return lift([](Part a) { return larger(Part{}, a); }, x); }

// x and y taking turns: the 16 lanes of the first halves (HALF 0) or of the second halves (1).
template <int HALF> GRAPHOPT_INLINE Vec interleaved(Vec x, Vec y) {
#if defined(__AVX512F__) && !defined(__clang__)
  IntVec from{};
  GRAPHOPT_UNROLL
  for (int i = 0; i < LANES; ++i) from[i] = HALF * LANES / 2 + i / 2 + i % 2 * LANES;
  return __builtin_shuffle(x, y, from);
#else
  float lanes[2][LANES], turns[LANES];
  store(lanes[0], x);
  store(lanes[1], y);
  for (int i = 0; i < LANES; ++i) turns[i] = lanes[i % 2][HALF * LANES / 2 + i / 2];
  return load(turns);
#endif
}

// p[offsets[0]], p[offsets[1]], ...
GRAPHOPT_INLINE Vec load_at(const float* p, const int32_t* offsets) {
#if defined(__AVX512F__)
  const __m512i at = _mm512_loadu_si512(offsets);
  return reinterpret_cast<Vec>(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, at, p, 4));
#else
  float lanes[LANES];
  for (int i = 0; i < LANES; ++i) lanes[i] = p[offsets[i]];
  return load(lanes);
#endif
}

// Lane i becomes lane i + COUNT, around the end.
template <int COUNT> GRAPHOPT_INLINE Vec rotated(Vec v) {
#if defined(__AVX512F__) && !defined(__clang__)
  IntVec from{};
  GRAPHOPT_UNROLL
  for (int i = 0; i < LANES; ++i) from[i] = (i + COUNT) % LANES;
  return __builtin_shuffle(v, from);
#else
  float lanes[2 * LANES];
  store(lanes, v);
  store(lanes + LANES, v);
  return load(lanes + COUNT);
#endif
}

// ---- lanes in another order ----------------------------------------------------------------------------------

// For `in_eights`: lane i is i ^ r, r = 0 to 7.
GRAPHOPT_INLINE IntVec exchanged_lanes(int r) {
#if defined(__AVX512F__)
  return IntPart{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} ^ r;
#elif defined(__AVX__)
  const IntPart order = IntPart{0, 1, 2, 3, 4, 5, 6, 7} ^ r;
  return {order, order};
#else
  const IntPart low = IntPart{0, 1, 2, 3} ^ r, high = IntPart{4, 5, 6, 7} ^ r;
  return {low, high, low, high};
#endif
}

// Lane i becomes lane order[i], which is one of the same eight.
GRAPHOPT_INLINE Vec in_eights(Vec v, IntVec order) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(order), reinterpret_cast<__m512>(v)));
#elif defined(__AVX2__)
  return lift([](Part x, IntPart i) { return reinterpret_cast<Part>(_mm256_permutevar8x32_ps(reinterpret_cast<__m256>(x), reinterpret_cast<__m256i>(i))); }, v, order);
#else
  float lanes[LANES], moved[LANES];
  int32_t from[LANES];
  store(lanes, v);
  std::memcpy(from, &order, sizeof from);
  for (int i = 0; i < LANES; ++i) moved[i] = lanes[i / 8 * 8 + from[i]];
  return load(moved);
#endif
}

// ---- reductions over lanes, in an order that never changes ---------------------------------------------------

GRAPHOPT_INLINE float sum_lanes(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

GRAPHOPT_INLINE float maximum_lanes(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) {
      const float x = lanes[i], y = lanes[i + half];
      lanes[i] = (x > y || x != x) ? x : y;
    }
  return lanes[0];
}

}  // namespace graphopt
