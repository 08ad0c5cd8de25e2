// Timing one step alone, as it would find the caches inside a network.
#pragma once

#include <initializer_list>

#include "runtime.hpp"

namespace graphopt {

// Memory of the arena that nobody else uses.
struct Cold {
  long offset, bytes;
};

// Reads a piece of memory, which brings it into the caches and pushes out what was there.
inline void touch(const Worker& worker, const unsigned char* memory, long bytes) {
  const Range range = worker.split(bytes / 64);
  long sum = 0;
  for (long line = range.begin; line < range.end; ++line) sum += memory[line * 64];
  asm volatile("" : : "r"(sum));
}

// Calls a step `repeats` times and stores the seconds of each call. Its weights are cold, as other memory has been
// read since; what it reads of the arena (`warm`) is in the caches, as the step before would have left it.
template <class Step>
void time_step(const Run& run, const Worker& worker, Step step, std::initializer_list<Cold> warm, Cold cold, int repeats, double* seconds) {
  for (int repeat = 0; repeat < repeats; ++repeat) {
    touch(worker, run.arena + cold.offset, cold.bytes);
    for (const Cold& piece : warm) touch(worker, run.arena + piece.offset, piece.bytes);
    worker.wait();
    const double start = now();
    worker.wait();
    step(run, worker);
    worker.wait();
    if (worker.index == 0) seconds[repeat] = now() - start;
  }
}

}  // namespace graphopt
