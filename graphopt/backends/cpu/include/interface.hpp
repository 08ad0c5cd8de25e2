// The C interface of network.h, on top of a variant of the network.
//
// Included once: at the end of network.cpp where there is one variant, by dispatch.cpp where there are several.
// The includer has defined two functions: `variant()`, the one that this processor runs or null, and
// `any_variant()`, one that can be asked for shapes. Nothing is allocated with C++'s own means, nothing throws.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"
#include "variant.hpp"

struct graphopt_network {
  const graphopt_variant* variant;
  void* instance;
};

namespace {

thread_local graphopt_failure last_failure;

int fail_interface(int status, const char* text) {
  last_failure.status = status;
  last_failure.step = -1;
  snprintf(last_failure.text, sizeof last_failure.text, "%s", text);
  return status;
}

graphopt_network* make_network(const char* path, const void* memory, size_t bytes, int threads) {
  const graphopt_variant* chosen = variant();
  if (chosen == nullptr) {
    fail_interface(GRAPHOPT_UNSUPPORTED, "this processor has none of the instruction sets that the network was compiled for");
    return nullptr;
  }
  graphopt_network* network = static_cast<graphopt_network*>(malloc(sizeof(graphopt_network)));
  if (network == nullptr) {
    fail_interface(GRAPHOPT_NO_MEMORY, "no memory for the network");
    return nullptr;
  }
  network->variant = chosen;
  network->instance = chosen->create(path, memory, bytes, threads, &last_failure);
  if (network->instance != nullptr) return network;
  free(network);
  return nullptr;
}

int run_network(graphopt_network* network, const void* const* inputs, void* const* outputs, double* seconds) {
  if (network == nullptr) return fail_interface(GRAPHOPT_INVALID, "the network is NULL");
  const graphopt_variant& used = *network->variant;
  if ((inputs == nullptr && used.input_count != 0) || (outputs == nullptr && used.output_count != 0))
    return fail_interface(GRAPHOPT_INVALID, "the inputs or outputs are NULL");
  return used.run(network->instance, inputs, outputs, seconds, &last_failure);
}

}  // namespace

extern "C" {

GRAPHOPT_EXPORT int graphopt_api_version(void) { return GRAPHOPT_API_VERSION; }

GRAPHOPT_EXPORT const char* graphopt_isa(void) {
  const graphopt_variant* chosen = variant();
  return chosen == nullptr ? nullptr : chosen->isa;
}

GRAPHOPT_EXPORT int graphopt_input_count(void) { return any_variant()->input_count; }
GRAPHOPT_EXPORT int graphopt_output_count(void) { return any_variant()->output_count; }
GRAPHOPT_EXPORT int graphopt_input(int index, graphopt_tensor* tensor) { return any_variant()->tensor(0, index, tensor); }
GRAPHOPT_EXPORT int graphopt_output(int index, graphopt_tensor* tensor) { return any_variant()->tensor(1, index, tensor); }
GRAPHOPT_EXPORT int graphopt_step_count(void) { return any_variant()->step_count; }
GRAPHOPT_EXPORT size_t graphopt_weights_bytes(void) { return any_variant()->weights_bytes; }

GRAPHOPT_EXPORT graphopt_network* graphopt_create(const char* weights_path, int threads) {
  if (weights_path != nullptr) return make_network(weights_path, nullptr, 0, threads);
  fail_interface(GRAPHOPT_INVALID, "the path of the weights is NULL");
  return nullptr;
}

GRAPHOPT_EXPORT graphopt_network* graphopt_create_from_memory(const void* weights, size_t bytes, int threads) {
  return make_network(nullptr, weights, bytes, threads);
}

GRAPHOPT_EXPORT int graphopt_threads(const graphopt_network* network) {
  return network == nullptr ? 0 : network->variant->threads(network->instance);
}

GRAPHOPT_EXPORT int graphopt_run(graphopt_network* network, const void* const* inputs, void* const* outputs) {
  return run_network(network, inputs, outputs, nullptr);
}

GRAPHOPT_EXPORT int graphopt_run_timed(graphopt_network* network, const void* const* inputs, void* const* outputs, double* seconds) {
  return run_network(network, inputs, outputs, seconds);
}

GRAPHOPT_EXPORT void graphopt_destroy(graphopt_network* network) {
  if (network == nullptr) return;
  network->variant->destroy(network->instance);
  free(network);
}

GRAPHOPT_EXPORT const char* graphopt_error(void) { return last_failure.text; }
GRAPHOPT_EXPORT int graphopt_error_step(void) { return last_failure.step; }

}  // extern "C"
