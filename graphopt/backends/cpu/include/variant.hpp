// A network compiled for one instruction set, as plain data and functions.
//
// When several are in one binary, each is compiled with its own namespace (`-Dgraphopt=graphopt_avx2`): what is
// inline in one must never stand in for the other's. This table is what they show to the C interface.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "network.h"

struct graphopt_failure {
  int status;
  int step;
  char text[256];
};

struct graphopt_variant {
  const char* isa;
  int input_count, output_count, step_count;
  size_t weights_bytes;
  int (*tensor)(int output, int index, graphopt_tensor* tensor);
  void* (*create)(const char* path, const void* memory, size_t bytes, int threads, graphopt_failure* failure);
  int (*threads)(const void* instance);
  int (*run)(void* instance, const void* const* inputs, void* const* outputs, double* seconds, graphopt_failure* failure);
  void (*destroy)(void* instance);
};
