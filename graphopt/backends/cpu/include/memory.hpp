// Memory of an instance: zeroed pages for what it computes, a file as it lies on the disk for its weights.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace graphopt {

constexpr size_t HUGE_PAGE = size_t{1} << 21;
constexpr size_t SLACK = 64;  // readable bytes behind every block, for vectors that are loaded at a tail

// A block of memory; `data` is null where there is none.
struct Memory {
  unsigned char* data = nullptr;
  void* mapping = nullptr;  // what munmap wants, null where free does
  size_t mapped = 0;
};

// `bytes` zeros and SLACK behind them. From 2 MiB on they start at a huge page and ask for huge pages: an
// arena is read and written at many places, and there are few entries in a TLB.
inline Memory allocate(size_t bytes) {
  Memory memory;
  const size_t size = bytes + SLACK;
#if !defined(__SANITIZE_ADDRESS__) && !defined(GRAPHOPT_PLAIN_MEMORY)
  if (size >= HUGE_PAGE) {
    const size_t mapped = size + HUGE_PAGE;
    void* found = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return memory;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(found) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    memory.data = reinterpret_cast<unsigned char*>(start);
    memory.mapping = found;
    memory.mapped = mapped;
#if defined(MADV_HUGEPAGE)
    madvise(memory.data, size, MADV_HUGEPAGE);  // a wish: small pages work too
#endif
    return memory;
  }
#endif
  void* found = nullptr;
  if (posix_memalign(&found, 128, size) != 0) return memory;
  memset(found, 0, size);
  memory.data = static_cast<unsigned char*>(found);
  return memory;
}

inline void release(Memory& memory) {
  if (memory.mapping != nullptr) {
    munmap(memory.mapping, memory.mapped);
  } else {
    free(memory.data);
  }
  memory = Memory{};
}

// The last 64 bytes of a weights file. They are the SLACK of the numbers before them, too.
struct WeightsTrailer {
  char magic[16];    // "graphopt weights", without a zero
  uint32_t version;  // 1
  uint32_t reserved;
  uint64_t bytes;  // of the numbers
  uint64_t id;     // of the export that the file belongs to
  char padding[24];
};
static_assert(sizeof(WeightsTrailer) == SLACK, "the file's format");

// Maps a weights file for reading. Returns what is wrong with it, or null. `id` 0 is any.
inline const char* map_weights(const char* path, size_t bytes, uint64_t id, Memory& memory) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return strerror(errno);
  struct stat status;
  const char* wrong = nullptr;
  if (fstat(file, &status) != 0) {
    wrong = strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    wrong = "not a plain file";
  } else if (static_cast<uint64_t>(status.st_size) != bytes + sizeof(WeightsTrailer)) {
    wrong = "not the size that this network's weights have";
  }
  if (wrong == nullptr) {
    const size_t mapped = bytes + sizeof(WeightsTrailer);
    void* found = mmap(nullptr, mapped, PROT_READ, MAP_PRIVATE, file, 0);
    if (found == MAP_FAILED) {
      wrong = strerror(errno);
    } else {
      memory.data = static_cast<unsigned char*>(found);
      memory.mapping = found;
      memory.mapped = mapped;
      WeightsTrailer trailer;
      memcpy(&trailer, memory.data + bytes, sizeof trailer);
      if (memcmp(trailer.magic, "graphopt weights", sizeof trailer.magic) != 0 || trailer.version != 1 || trailer.bytes != bytes) {
        wrong = "no weights file of this version";
      } else if (id != 0 && trailer.id != id) {
        wrong = "the weights of another network";
      }
    }
  }
  close(file);
  if (wrong != nullptr && memory.data != nullptr) release(memory);
  return wrong;
}

}  // namespace graphopt
