// The threads of an instance: started once, asleep between runs.
//
// The caller of a run is worker 0. After a run the others wait a moment for the next one, spinning, and then
// sleep: an idle network costs no processor time. Plain pthreads, because <thread> and <mutex> take longer to
// compile than most networks.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include <atomic>

#include "runtime.hpp"

namespace graphopt {

// Floating-point control of a thread as C starts it: round to nearest, subnormal numbers kept, no traps. The
// caller's may differ (torch.set_flush_denormal), and then results would depend on who computes what.
class PlainArithmetic {
 public:
#if defined(__SSE__)
  PlainArithmetic() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(0x1f80); }
  ~PlainArithmetic() { __builtin_ia32_ldmxcsr(before_); }

 private:
  const unsigned before_;
#else
  PlainArithmetic() {}
#endif
};

class Pool {
 public:
  using Work = void (*)(void* context, int index);

  Pool() { reset(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts `count - 1` threads. Returns 0 or an error number, and then none runs. `crowded` says that there are
  // more threads than processors: then nobody spins.
  int start(int count, bool crowded, Work work, void* context) {
    work_ = work;
    context_ = context;
    patience_ = crowded ? 0.0 : PATIENCE;
    members_ = static_cast<Member*>(calloc(static_cast<size_t>(count), sizeof(Member)));
    if (members_ == nullptr) return ENOMEM;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, size_t{8} << 20);
    sigset_t all, before;  // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (started_ < count - 1 && error == 0) {
      Member& member = members_[started_];
      member = {this, started_ + 1, {}};
      error = pthread_create(&member.thread, &attributes, serve, &member);
      if (error == 0) ++started_;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0) stop();
    return error;
  }

  // Ends the threads.
  void stop() {
    stop_.store(true, std::memory_order_seq_cst);
    wake();
    for (int i = 0; i < started_; ++i) pthread_join(members_[i].thread, nullptr);
    abandon();
  }

  // Forgets the threads without ending them: in a child of fork() there are none.
  void abandon() {
    free(members_);
    reset();
  }

  // Lets every thread do its share once. Whoever calls it does share 0 and knows when the others are done.
  void run() {
    generation_.fetch_add(1, std::memory_order_seq_cst);
    wake();
    work_(context_, 0);
  }

 private:
  struct Member {
    Pool* pool;
    int index;
    pthread_t thread;
  };

  static constexpr double PATIENCE = 100e-6;  // seconds of spinning before a thread sleeps

  void reset() {
    members_ = nullptr;
    started_ = 0;
    stop_.store(false, std::memory_order_relaxed);
    sleepers_.store(0, std::memory_order_relaxed);
    generation_.store(0, std::memory_order_relaxed);
    mutex_ = PTHREAD_MUTEX_INITIALIZER;
    condition_ = PTHREAD_COND_INITIALIZER;
  }

  void wake() {
    // A thread counts itself as a sleeper, then looks at the generation; we changed that and look at the
    // sleepers. In sequential consistency one of the two sees the other.
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    pthread_mutex_lock(&mutex_);
    pthread_cond_broadcast(&condition_);
    pthread_mutex_unlock(&mutex_);
  }

  bool idle(unsigned seen) const {
    return generation_.load(std::memory_order_seq_cst) == seen && !stop_.load(std::memory_order_seq_cst);
  }

  void wait(unsigned seen) {
    const double end = now() + patience_;
    for (int spin = 0; spin < Barrier::SPINS && patience_ > 0.0 && idle(seen); ++spin) pause();
    while (idle(seen)) {
      if (now() < end) {
        sched_yield();
        continue;
      }
      pthread_mutex_lock(&mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      while (idle(seen)) pthread_cond_wait(&condition_, &mutex_);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      pthread_mutex_unlock(&mutex_);
    }
  }

  static void* serve(void* given) {
    const Member& member = *static_cast<Member*>(given);
    Pool& pool = *member.pool;
    const PlainArithmetic plain;
    for (unsigned seen = 0;;) {
      pool.wait(seen);
      if (pool.stop_.load(std::memory_order_seq_cst)) return nullptr;
      ++seen;  // runs are never skipped: each ends with a barrier for all
      pool.work_(pool.context_, member.index);
    }
  }

  Work work_ = nullptr;
  void* context_ = nullptr;
  Member* members_ = nullptr;
  int started_ = 0;
  double patience_ = PATIENCE;
  pthread_mutex_t mutex_;
  pthread_cond_t condition_;
  std::atomic<bool> stop_;
  alignas(64) std::atomic<unsigned> generation_;
  alignas(64) std::atomic<int> sleepers_;
};

}  // namespace graphopt
