// What a kernel sees of the world: its worker, the memory of a run, and strides.
//
// Includes are few on purpose: every unit of a network reads them, and <immintrin.h> alone costs half a second.
#pragma once

#include <sched.h>
#include <time.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace graphopt {

// [begin, end)
struct Range {
  long begin, end;
};

// Tells the processor that this thread only waits.
GRAPHOPT_INLINE void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Seconds of a clock that never goes back.
inline double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// All workers of a run meet here. Spins for a while, then gives the core away.
class Barrier {
 public:
  // So many pauses take 3 to 12 microseconds. Yielding after that adds 0.3 microseconds to a long wait when the
  // machine is ours, and when it is not, or two workers share a core, saves the time until the scheduler notices.
  static constexpr int SPINS = 256;

  explicit Barrier(int count, int spins = SPINS) : count_(count), spins_(spins) {}

  void wait() {
    if (count_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
      if (spin < spins_) {
        pause();
      } else {
        sched_yield();
      }
    }
  }

 private:
  const int count_;
  const int spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

// The first thing that went wrong in a run. The run goes on to its end, so that nobody waits in vain at a
// barrier, and then returns an error.
struct Failure {
  std::atomic<const char*> text{nullptr};
  int step = -1;

  void report(int where, const char* what) {
    const char* none = nullptr;
    if (text.compare_exchange_strong(none, what, std::memory_order_relaxed)) step = where;
  }
};

// One thread of a run. `index` is 0 to count - 1; `scratch` is memory of this worker alone.
struct Worker {
  int index;
  int count;
  float* scratch;
  Barrier* barrier;
  double* times;  // seconds at the end of each step, where someone profiles; else null
  Failure* failure;
  mutable int step = 0;  // what is being computed

  // Everyone waits for everyone: what was written before can be read after.
  void wait() const { barrier->wait(); }

  // The end of a step.
  void done(int number) const {
    barrier->wait();
    if (times != nullptr && index == 0) times[number] = now();
    step = number + 1;
  }

  // The input is not what this step can work on, such as an index out of range. `what` is a literal. The
  // kernel carries on without reading or writing anything that is not its own.
  void fail(const char* what) const { failure->report(step, what); }

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
  const char* name = nullptr;
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
