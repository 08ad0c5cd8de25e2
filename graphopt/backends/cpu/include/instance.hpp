// A network that can run: its memory, its threads, and one run at a time.
#pragma once

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#include <new>

#include "cores.hpp"
#include "memory.hpp"
#include "pool.hpp"
#include "runtime.hpp"
#include "variant.hpp"

namespace graphopt {

// What an instance needs to know of its network.
struct Description {
  size_t arena_bytes, weights_bytes, scratch_floats, shared_floats;
  int step_count;
  void (*steps)(const Run& run, const Worker& worker);
};

// Fills in what went wrong; returns the status.
__attribute__((format(printf, 3, 4))) inline int fail(graphopt_failure& failure, int status, const char* format, ...) {
  failure.status = status;
  failure.step = -1;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure.text, sizeof failure.text, format, arguments);
  va_end(arguments);
  return status;
}

class Instance {
 public:
  // An instance, or null and the error. `threads` 0 is one for each core. `weights` becomes the instance's own.
  static Instance* create(const Description& network, Memory weights, bool owns_weights, int threads, graphopt_failure& failure) {
    void* place = nullptr;
    if (posix_memalign(&place, alignof(Instance), sizeof(Instance)) != 0) {
      if (owns_weights) release(weights);
      fail(failure, GRAPHOPT_NO_MEMORY, "no memory for the instance");
      return nullptr;
    }
    const Cores cores = available_cores();
    if (threads == 0) threads = cores.cores;
    Instance* made = new (place) Instance(network, weights, owns_weights, threads, threads > cores.processors);
    if (made->prepare(failure)) return made;
    destroy(made);
    return nullptr;
  }

  static void destroy(Instance* instance) {
    instance->~Instance();
    free(instance);
  }

  int threads() const { return threads_; }

  // Runs once; `times` gets the seconds of each step, where it is not null. A second caller waits for the first.
  int run(const void* const* inputs, void* const* outputs, double* times, graphopt_failure& failure) {
    if (!adopt(failure)) return failure.status;
    pthread_mutex_lock(&running_);
    run_ = Run{arena_.data, weights_.data, inputs, outputs, reinterpret_cast<float*>(shared_.data)};
    times_ = times;
    failure_.text.store(nullptr, std::memory_order_relaxed);
    const double start = times != nullptr ? now() : 0.0;
    {
      const PlainArithmetic plain;
      pool_.run();
    }
    const char* failed = failure_.text.load(std::memory_order_relaxed);
    const int step = failure_.step;
    pthread_mutex_unlock(&running_);
    if (times != nullptr) {
      for (int i = network_.step_count - 1; i >= 0; --i) times[i] -= i > 0 ? times[i - 1] : start;
    }
    if (failed == nullptr) return GRAPHOPT_OK;
    fail(failure, GRAPHOPT_BAD_INPUT, "step %d: %s", step, failed);
    failure.step = step;
    return GRAPHOPT_BAD_INPUT;
  }

 private:
  Instance(const Description& network, Memory weights, bool owns_weights, int threads, bool crowded)
      : network_(network),
        weights_(weights),
        owns_weights_(owns_weights),
        threads_(threads),
        crowded_(crowded),
        barrier_(threads, crowded ? 0 : Barrier::SPINS),
        owner_(getpid()) {
    running_ = PTHREAD_MUTEX_INITIALIZER;
  }

  ~Instance() {
    if (owner_.load(std::memory_order_acquire) == getpid()) {
      pool_.stop();
    } else {
      pool_.abandon();
    }
    release(arena_);
    release(shared_);
    release(scratch_);
    if (owns_weights_) release(weights_);
  }

  bool prepare(graphopt_failure& failure) {
    arena_ = allocate(network_.arena_bytes);
    shared_ = allocate(network_.shared_floats * sizeof(float));
    scratch_ = allocate(scratch_stride() * static_cast<size_t>(threads_));
    if (arena_.data == nullptr || shared_.data == nullptr || scratch_.data == nullptr) {
      fail(failure, GRAPHOPT_NO_MEMORY, "no memory: the arena takes %zu bytes, scratch %zu for each of %d threads", network_.arena_bytes, scratch_stride(), threads_);
      return false;
    }
    return start(failure);
  }

  bool start(graphopt_failure& failure) {
    const int problem = pool_.start(threads_, crowded_, &Instance::work, this);
    if (problem != 0) fail(failure, GRAPHOPT_NO_THREADS, "can't start %d threads: %s", threads_ - 1, strerror(problem));
    return problem == 0;
  }

  // After fork() the child has a copy of the memory but none of the threads, and another thread of the parent
  // may have held the lock for ever. The first run in the child makes both anew.
  bool adopt(graphopt_failure& failure) {
    const pid_t me = getpid();
    for (;;) {
      pid_t owner = owner_.load(std::memory_order_acquire);
      if (owner == me) return true;
      if (owner != -me && owner_.compare_exchange_strong(owner, -me, std::memory_order_acq_rel)) {
        running_ = PTHREAD_MUTEX_INITIALIZER;
        new (&barrier_) Barrier(threads_, crowded_ ? 0 : Barrier::SPINS);
        pool_.abandon();
        const bool started = start(failure);
        owner_.store(started ? me : 0, std::memory_order_release);
        if (!started) return false;
      }
      sched_yield();
    }
  }

  static void work(void* context, int index) {
    Instance& self = *static_cast<Instance*>(context);
    float* scratch = reinterpret_cast<float*>(self.scratch_.data + self.scratch_stride() * static_cast<size_t>(index));
    const Worker worker{index, self.threads_, scratch, &self.barrier_, self.times_, &self.failure_};
    self.network_.steps(self.run_, worker);
  }

  // Scratch of two workers never shares a cache line, nor the line beside it that is fetched along.
  size_t scratch_stride() const { return (network_.scratch_floats * sizeof(float) + SLACK + 127) / 128 * 128; }

  const Description& network_;
  Memory weights_, arena_, shared_, scratch_;
  const bool owns_weights_;
  const int threads_;
  const bool crowded_;
  Barrier barrier_;
  Pool pool_;
  pthread_mutex_t running_;
  std::atomic<pid_t> owner_;
  Run run_{};
  double* times_ = nullptr;
  Failure failure_;
};

}  // namespace graphopt
