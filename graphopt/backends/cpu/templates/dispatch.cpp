// Picks the variant of the network that suits this processor, when the program runs.
//
// This file is compiled for any processor. The variants are compiled for one each, in namespaces of their own, so
// nothing of them runs before they are picked. GRAPHOPT_ISA=generic in the environment picks by hand.
#include <stdlib.h>
#include <string.h>

#include "variant.hpp"

extern "C" {
#if defined(GRAPHOPT_HAS_AVX512)
extern const graphopt_variant graphopt_variant_avx512;
#endif
#if defined(GRAPHOPT_HAS_AVX2)
extern const graphopt_variant graphopt_variant_avx2;
#endif
#if defined(GRAPHOPT_HAS_GENERIC)
extern const graphopt_variant graphopt_variant_generic;
#endif
}

namespace {

#if defined(GRAPHOPT_HAS_AVX512) || defined(GRAPHOPT_HAS_AVX2)
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
#endif

#if defined(GRAPHOPT_HAS_AVX512)
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Whether the environment leaves the choice to us, or asks for this one.
bool wanted(const graphopt_variant& variant) {
  const char* asked = getenv("GRAPHOPT_ISA");
  return asked == nullptr || strcmp(asked, variant.isa) == 0;
}

// The best that runs here, or null.
const graphopt_variant* variant() {
#if defined(GRAPHOPT_HAS_AVX512)
  if (has_avx512() && wanted(graphopt_variant_avx512)) return &graphopt_variant_avx512;
#endif
#if defined(GRAPHOPT_HAS_AVX2)
  if (has_avx2() && wanted(graphopt_variant_avx2)) return &graphopt_variant_avx2;
#endif
#if defined(GRAPHOPT_HAS_GENERIC)
  if (wanted(graphopt_variant_generic)) return &graphopt_variant_generic;
#endif
  return nullptr;
}

// Shapes are the same in all of them.
const graphopt_variant* any_variant() {
#if defined(GRAPHOPT_HAS_GENERIC)
  return &graphopt_variant_generic;
#elif defined(GRAPHOPT_HAS_AVX2)
  return &graphopt_variant_avx2;
#else
  return &graphopt_variant_avx512;
#endif
}

}  // namespace

#include "interface.hpp"
