// The C interface of a network: made once, run many times.
#pragma once

#include <sched.h>
#include <stdlib.h>

#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "runtime.hpp"

namespace graphopt {

void Barrier::yield() { sched_yield(); }

class Instance {
 public:
  Instance(const unsigned char* weights, int threads) : weights_(weights), threads_(threads), barrier_(threads) {
    arena_ = memory(network::arena_bytes);
    shared_ = memory(network::shared_floats * 4 + 64);
    for (int i = 0; i < threads; ++i) scratch_.push_back(memory(network::scratch_floats * 4 + 64));
    for (int i = 1; i < threads; ++i) pool_.emplace_back([this, i] { serve(i); });
  }
  ~Instance() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : pool_) thread.join();
    free(arena_);
    free(shared_);
    for (void* p : scratch_) free(p);
  }

  void run(const void* const* inputs, void* const* outputs, double* times) {
    std::lock_guard<std::mutex> one(running_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      run_ = Run{static_cast<unsigned char*>(arena_), weights_, inputs, outputs, static_cast<float*>(shared_)};
      times_ = times;
      ++generation_;
    }
    wake_.notify_all();
    work(0);
  }

 private:
  static void* memory(size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, bytes + 64) != 0) throw std::bad_alloc();
    memset(p, 0, bytes + 64);
    return p;
  }
  void work(int index) {
    const Worker worker{index, threads_, static_cast<float*>(scratch_[index]), &barrier_, times_};
    network::steps(run_, worker);
  }
  void serve(int index) {
    long seen = 0;
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
        if (stop_) return;
        seen = generation_;
      }
      work(index);
    }
  }

  const unsigned char* weights_;
  int threads_;
  Barrier barrier_;
  void* arena_;
  void* shared_;
  std::vector<void*> scratch_;
  std::vector<std::thread> pool_;
  std::mutex mutex_, running_;
  std::condition_variable wake_;
  bool stop_ = false;
  long generation_ = 0;
  Run run_{};
  double* times_ = nullptr;
};

}  // namespace graphopt

extern "C" {
void* graphopt_create(const void* weights, int threads) {
  return new graphopt::Instance(static_cast<const unsigned char*>(weights), threads);
}
void graphopt_run(void* instance, const void* const* inputs, void* const* outputs, double* times) {
  static_cast<graphopt::Instance*>(instance)->run(inputs, outputs, times);
}
void graphopt_destroy(void* instance) { delete static_cast<graphopt::Instance*>(instance); }
}
