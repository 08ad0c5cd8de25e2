// How many cores this process may use.
#pragma once

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace graphopt {

// `processors`: logical ones that the scheduler may give us. `cores`: physical ones among them (two threads of
// one core share its arithmetic units), and no more than a container's share of time.
struct Cores {
  int processors;
  int cores;
};

#if defined(__linux__)

// The quota of a control group in whole processors, or 0: none. Version 2 has "200000 100000" or "max 100000".
inline int quota_of(const char* file) {
  long long quota = 0, period = 0;
  if (FILE* stream = fopen(file, "re")) {
    if (fscanf(stream, "%lld %lld", &quota, &period) != 2) quota = 0;
    fclose(stream);
  }
  if (quota <= 0 || period <= 0) return 0;
  return quota < period ? 1 : static_cast<int>(quota / period);
}

inline int smaller_quota(int left, int right) { return left == 0 || (right != 0 && right < left) ? right : left; }

// The smallest quota of our control group and those above it.
inline int quota() {
  int found = quota_of("/sys/fs/cgroup/cpu.max");
  char line[1024];
  if (FILE* stream = fopen("/proc/self/cgroup", "re")) {
    while (fgets(line, sizeof line, stream) != nullptr) {
      if (strncmp(line, "0::/", 4) != 0) continue;
      char* group = line + 3;
      group[strcspn(group, "\n")] = 0;
      while (*group != 0) {
        char file[1100];
        snprintf(file, sizeof file, "/sys/fs/cgroup%s/cpu.max", group);
        found = smaller_quota(found, quota_of(file));
        *strrchr(group, '/') = 0;
      }
    }
    fclose(stream);
  }
  return found;
}

// The processor that stands for the core of `processor`: the first of its siblings.
inline int first_sibling(int processor) {
  char file[128];
  snprintf(file, sizeof file, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", processor);
  int first = processor;
  if (FILE* stream = fopen(file, "re")) {
    if (fscanf(stream, "%d", &first) != 1) first = processor;
    fclose(stream);
  }
  return first;
}

inline Cores available_cores() {
  constexpr int MOST = 8192;
  unsigned long mask[MOST / 8 / sizeof(unsigned long)] = {};
  Cores found{0, 0};
  if (sched_getaffinity(0, sizeof mask, reinterpret_cast<cpu_set_t*>(mask)) == 0) {
    constexpr int WORD = 8 * sizeof(unsigned long);
    unsigned long firsts[MOST / WORD] = {};
    for (int processor = 0; processor < MOST; ++processor) {
      if ((mask[processor / WORD] >> (processor % WORD) & 1) == 0) continue;
      ++found.processors;
      const int first = first_sibling(processor);
      if (first < 0 || first >= MOST) continue;
      unsigned long& word = firsts[first / WORD];
      const unsigned long bit = 1ul << (first % WORD);
      if ((word & bit) == 0) ++found.cores;
      word |= bit;
    }
  }
  if (found.processors == 0) found.processors = 1;
  if (found.cores == 0) found.cores = found.processors;
  const int limit = quota();
  if (limit != 0 && limit < found.cores) found.cores = limit;
  if (limit != 0 && limit < found.processors) found.processors = limit;
  return found;
}

#else

inline Cores available_cores() {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  const int cores = count < 1 ? 1 : static_cast<int>(count);
  return {cores, cores};
}

#endif

}  // namespace graphopt
