// What a kernel sees of the world: its worker, the memory of a run, and strides.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "simd.hpp"

namespace graphopt {

// [begin, end)
struct Range {
  long begin, end;
};

// All workers of a run meet here. Spins for a while, then gives the core away.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void wait() {
    if (count_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
      if (spin < 4096) pause();
      else yield();
    }
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
  }
  static void yield();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

// One thread of a run. `index` is 0 to count - 1; `scratch` is memory of this worker alone.
struct Worker {
  int index;
  int count;
  float* scratch;
  Barrier* barrier;

  double* times;  // seconds at the end of each step, where someone profiles; else null

  // Everyone waits for everyone: what was written before can be read after.
  void wait() const { barrier->wait(); }

  // The end of a step.
  void done(int step) const {
    barrier->wait();
    if (times != nullptr && index == 0) times[step] = now();
  }

  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  // This worker's share of `total` pieces of work, in whole units. What a piece computes must never
  // depend on which worker does it: results are the same for any number of threads.
  Range split(long total, long unit = 1) const {
    const long units = (total + unit - 1) / unit;
    const long begin = units * index / count * unit, end = units * (index + 1) / count * unit;
    return {begin < total ? begin : total, end < total ? end : total};
  }
};

// A pointer `bytes` behind `base`.
template <class T> GRAPHOPT_INLINE T* at(const void* base, long bytes) {
  return reinterpret_cast<T*>(const_cast<unsigned char*>(static_cast<const unsigned char*>(base)) + bytes);
}

// Type and shape of an input or output.
struct Tensor {
  const char* dtype;
  int rank;
  const int64_t* shape;
};

// The memory of one run. Buffers lie in `arena`, 64-byte aligned and with 64 readable bytes behind them.
struct Run {
  unsigned char* arena;
  const unsigned char* weights;
  const void* const* inputs;
  void* const* outputs;
  float* shared;  // scratch that all workers of a step share
};

// Distance in elements of neighbours along each axis of a value [n, c, h, w] of which 16 channels lie side by
// side: channel c is at (c / 16) * block + c % 16. NCHWc16 has w = 16; channels-last has block = 16, w = C.
// Rows of features [m, c] are h = 1 with w the distance of two rows.
struct Strides {
  long n, block, h, w;
};

}  // namespace graphopt
