/* A neural network compiled by graphopt, as a C interface.
 *
 *     graphopt_network* network = graphopt_create("weights.bin", 0);
 *     if (network == NULL) { fputs(graphopt_error(), stderr); exit(1); }
 *     const void* inputs[] = {image};
 *     void* outputs[] = {scores};
 *     if (graphopt_run(network, inputs, outputs) != GRAPHOPT_OK) fputs(graphopt_error(), stderr);
 *     graphopt_destroy(network);
 *
 * Tensors are contiguous, row by row, of the type and shape that graphopt_input and graphopt_output tell; no
 * alignment is needed beyond that of an element. Inputs are only read. Outputs must not overlap with inputs
 * or with each other.
 *
 * All functions may be called from any thread. One network runs once at a time: a second caller waits. To run
 * side by side, create several. After fork() a network may be used in the child, where it starts its own
 * threads. Threads sleep between runs. Results are the same bits for any number of threads.
 */
#ifndef GRAPHOPT_NETWORK_H
#define GRAPHOPT_NETWORK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GRAPHOPT_EXPORT __attribute__((visibility("default")))
#else
#define GRAPHOPT_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface: it grows when a function changes or goes. */
#define GRAPHOPT_API_VERSION 1

enum graphopt_status {
  GRAPHOPT_OK = 0,
  GRAPHOPT_INVALID = 1,     /* an argument makes no sense */
  GRAPHOPT_NO_MEMORY = 2,
  GRAPHOPT_BAD_WEIGHTS = 3, /* the file is missing, or belongs to another network */
  GRAPHOPT_NO_THREADS = 4,  /* the system refuses more threads */
  GRAPHOPT_BAD_INPUT = 5,   /* the numbers of an input make no sense, such as an index out of range */
  GRAPHOPT_UNSUPPORTED = 6  /* the processor lacks the instructions */
};

typedef struct graphopt_network graphopt_network;

typedef struct graphopt_tensor {
  const char* name;     /* "input0", or the model's own name where it is an identifier */
  const char* dtype;    /* "f32", "i64", "bool", ... */
  int rank;
  const int64_t* shape; /* `rank` sizes */
  size_t bytes;
} graphopt_tensor;

/* GRAPHOPT_API_VERSION of the compiled code. */
GRAPHOPT_EXPORT int graphopt_api_version(void);

/* The instructions in use, "avx512", "avx2" or "generic"; NULL where the processor has none of those built in. */
GRAPHOPT_EXPORT const char* graphopt_isa(void);

GRAPHOPT_EXPORT int graphopt_input_count(void);
GRAPHOPT_EXPORT int graphopt_output_count(void);

/* Describes input or output `index`, from 0. GRAPHOPT_INVALID where there is none. */
GRAPHOPT_EXPORT int graphopt_input(int index, graphopt_tensor* tensor);
GRAPHOPT_EXPORT int graphopt_output(int index, graphopt_tensor* tensor);

/* Number of steps that a run takes, and bytes of the weights. */
GRAPHOPT_EXPORT int graphopt_step_count(void);
GRAPHOPT_EXPORT size_t graphopt_weights_bytes(void);

/* A network with the weights of a file, which is mapped and must not change. `threads` work on one run; 0 is one
 * for each core that this process may use. NULL on failure, and graphopt_error tells why. */
GRAPHOPT_EXPORT graphopt_network* graphopt_create(const char* weights_path, int threads);

/* The same with weights in memory: graphopt_weights_bytes of them and 64 readable bytes behind, at a multiple
 * of 64. They stay the caller's, and must outlive the network. */
GRAPHOPT_EXPORT graphopt_network* graphopt_create_from_memory(const void* weights, size_t bytes, int threads);

GRAPHOPT_EXPORT int graphopt_threads(const graphopt_network* network);

/* Computes the outputs. Returns a status. */
GRAPHOPT_EXPORT int graphopt_run(graphopt_network* network, const void* const* inputs, void* const* outputs);

/* The same, and the seconds that each of graphopt_step_count steps took. */
GRAPHOPT_EXPORT int graphopt_run_timed(graphopt_network* network, const void* const* inputs, void* const* outputs, double* seconds);

/* Ends the threads and frees the memory. No run may be going on. NULL is allowed. */
GRAPHOPT_EXPORT void graphopt_destroy(graphopt_network* network);

/* What went wrong in the last call of this thread that failed; and the step it was in, or -1. */
GRAPHOPT_EXPORT const char* graphopt_error(void);
GRAPHOPT_EXPORT int graphopt_error_step(void);

#ifdef __cplusplus
}
#endif

#endif
