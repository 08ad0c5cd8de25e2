// The end of network.cpp: ties the network's constants and `steps` to an instance, for one instruction set.
#pragma once

#include "instance.hpp"
#include "runtime.hpp"
#include "variant.hpp"

// The export that a weights file has to belong to; a standalone export defines it at the top of network.cpp.
#if !defined(GRAPHOPT_WEIGHTS_ID)
#define GRAPHOPT_WEIGHTS_ID 0
#endif

namespace graphopt {
namespace network {

constexpr Description description{arena_bytes, weights_bytes, scratch_floats, shared_floats, step_count, steps};

inline size_t element_bytes(const char* dtype) {
  const char last = dtype[strlen(dtype) - 1];  // f64, f32, i16, u8, bool
  return last == '4' ? 8 : last == '2' ? 4 : last == '6' ? 2 : 1;
}

inline int describe(int output, int index, graphopt_tensor* tensor) {
  const int count = output ? output_count : input_count;
  if (index < 0 || index >= count || tensor == nullptr) return GRAPHOPT_INVALID;
  const Tensor& found = output ? outputs[index] : inputs[index];
  size_t bytes = element_bytes(found.dtype);
  for (int axis = 0; axis < found.rank; ++axis) bytes *= static_cast<size_t>(found.shape[axis]);
  *tensor = graphopt_tensor{found.name, found.dtype, found.rank, found.shape, bytes};
  return GRAPHOPT_OK;
}

inline void* create(const char* path, const void* memory, size_t bytes, int threads, graphopt_failure* failure) {
  if (threads < 0 || threads > 4096) {
    fail(*failure, GRAPHOPT_INVALID, "threads is %d, needs 0 (one for each core) to 4096", threads);
    return nullptr;
  }
  Memory weights;
  if (path != nullptr) {
    const char* wrong = map_weights(path, weights_bytes, GRAPHOPT_WEIGHTS_ID, weights);
    if (wrong != nullptr) {
      fail(*failure, GRAPHOPT_BAD_WEIGHTS, "%.120s: %s", path, wrong);
      return nullptr;
    }
  } else {
    weights.data = const_cast<unsigned char*>(static_cast<const unsigned char*>(memory));
    if (bytes != weights_bytes || (memory == nullptr && weights_bytes != 0) || reinterpret_cast<uintptr_t>(memory) % 64 != 0) {
      fail(*failure, GRAPHOPT_BAD_WEIGHTS, "%zu bytes of weights at %p, needs %zu at a multiple of 64", bytes, memory, weights_bytes);
      return nullptr;
    }
  }
  return Instance::create(description, weights, path != nullptr, threads, *failure);
}

inline int threads(const void* instance) { return static_cast<const Instance*>(instance)->threads(); }

inline int run(void* instance, const void* const* given, void* const* wanted, double* seconds, graphopt_failure* failure) {
  return static_cast<Instance*>(instance)->run(given, wanted, seconds, *failure);
}

inline void destroy(void* instance) { Instance::destroy(static_cast<Instance*>(instance)); }

}  // namespace network
}  // namespace graphopt

#if !defined(GRAPHOPT_ISA)
#define GRAPHOPT_ISA unknown  // -DGRAPHOPT_ISA=avx2: what it is compiled for
#endif
#define GRAPHOPT_JOIN_(left, right) left##right
#define GRAPHOPT_JOIN(left, right) GRAPHOPT_JOIN_(left, right)
#define GRAPHOPT_TEXT_(name) #name
#define GRAPHOPT_TEXT(name) GRAPHOPT_TEXT_(name)

// graphopt_variant_avx2
extern "C" {
extern const graphopt_variant GRAPHOPT_JOIN(graphopt_variant_, GRAPHOPT_ISA);
const graphopt_variant GRAPHOPT_JOIN(graphopt_variant_, GRAPHOPT_ISA) = {
    GRAPHOPT_TEXT(GRAPHOPT_ISA),
    graphopt::network::input_count,
    graphopt::network::output_count,
    graphopt::network::step_count,
    graphopt::network::weights_bytes,
    graphopt::network::describe,
    graphopt::network::create,
    graphopt::network::threads,
    graphopt::network::run,
    graphopt::network::destroy,
};
}

// Where it is one of several, dispatch.cpp picks: it is compiled apart, for any processor.
#if !defined(GRAPHOPT_DISPATCH)
namespace {
const graphopt_variant* variant() { return &GRAPHOPT_JOIN(graphopt_variant_, GRAPHOPT_ISA); }
const graphopt_variant* any_variant() { return variant(); }
}  // namespace
#include "interface.hpp"
#endif
