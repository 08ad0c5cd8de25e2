// y = epilogue(a b) for a batch of matrices of any strides: y [n, h, rows, columns], lanes along the columns.
//
// An item of work is a block of rows and a group of columns of one matrix. The group's columns of b are packed once
// as panels [depth][vectors] that stay in L2, one panel at a time in L1, unless b lies well as it is. a is broadcast
// from where it lies, unless its strides would put all of a tile into the same few lines of L1; then its tiles are
// packed as [depth][16].
#pragma once

#include "epilogue.hpp"
#include "multiply.hpp"
#include "runtime.hpp"
#include "transpose.hpp"

namespace graphopt {

// Element (row, column) at row * ROW + column * COLUMN of every matrix (n, h) at n * N + h * H.
struct MatrixStrides {
  long n, h, row, column;
};

namespace matmul_parts {

// `count` (at most 16) columns of x to packed[k][width], lanes without a column 0; STEP between steps of k.
template <long STEP, long COLUMN> __attribute__((noinline)) void pack_columns(const float* x, int depth, int count, float* packed, long width) {
  if constexpr (COLUMN == 1) {
    for (int k = 0; k < depth; ++k) store(packed + k * width, load_first(x + k * STEP, count));
  } else if constexpr (STEP == 1) {
    for (int k = 0; k < depth; k += LANES) {
      const int steps = depth - k < LANES ? depth - k : LANES;
      Vec block[LANES];
      GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) block[i] = i < count ? load_first(x + i * COLUMN + k, steps) : zero();
      transpose16(block);
      GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i)
          if (i < steps) store(packed + (k + i) * width, block[i]);
    }
  } else {
    for (int k = 0; k < depth; ++k)
      for (int i = 0; i < LANES; ++i) packed[k * width + i] = i < count ? x[k * STEP + i * COLUMN] : 0.0f;
  }
}

}  // namespace matmul_parts

// S has OUTER and INNER (the batch is n of OUTER, h of INNER), ROWS, COLUMNS, DEPTH; MatrixStrides A, B, Y; the most
// COLUMN_GROUP columns and ROW_TILES register tiles of an item; PACK_A, PACK_B; SCRATCH, the floats that are there.
template <class S> struct BatchedMatmul {
  static constexpr int VECTORS_OF_Y = (S::COLUMNS + LANES - 1) / LANES;
  static constexpr int WANTED = S::ROWS == 1 ? 8 : S::ROWS <= 3 ? 4 : VECTORS_OF_Y == 3 ? 3 : 2;
  static constexpr int VECTORS = REGISTERS >= 16 ? WANTED : S::ROWS == 1 ? 2 : 1;
  static constexpr Pieces ROW_TILES{S::ROWS, tile_rows(VECTORS)};
  static constexpr Pieces ROW_BLOCKS{ROW_TILES.count, S::ROW_TILES};
  static constexpr int GROUP = (S::COLUMN_GROUP / LANES + VECTORS - 1) / VECTORS * VECTORS;  // vectors of a group of columns, whole panels
  static constexpr int GROUPS = (VECTORS_OF_Y + GROUP - 1) / GROUP;
  static constexpr long A_ROW = S::PACK_A ? 1 : S::A.row, A_STEP = S::PACK_A ? LANES : S::A.column;
  static constexpr long ITEMS = static_cast<long>(S::OUTER) * S::INNER * GROUPS * ROW_BLOCKS.count;
  static constexpr long PACKED_B = S::PACK_B ? static_cast<long>(S::DEPTH) * (GROUP < VECTORS_OF_Y ? GROUP : VECTORS_OF_Y) * LANES : 0;
  static constexpr long PACKED_A = S::PACK_A ? static_cast<long>(ROW_BLOCKS.size) * S::DEPTH * LANES : 0;
  static_assert(PACKED_A + PACKED_B <= S::SCRATCH, "scratch is too small");

  static GRAPHOPT_INLINE long offset(MatrixStrides strides, int n, int h) { return n * strides.n + h * strides.h; }

  static inline void pack_b(const float* b, int first, int count, float* panels) {
    for (int j = 0; j < count; ++j) {
      // vectors of a panel lie side by side
      const int panel = j / VECTORS * VECTORS, vectors = count - panel < VECTORS ? count - panel : VECTORS;
      const int column = (first + j) * LANES;
      matmul_parts::pack_columns<S::B.row, S::B.column>(b + column * S::B.column, S::DEPTH, S::COLUMNS - column < LANES ? S::COLUMNS - column : LANES,
                                                       panels + static_cast<long>(panel) * LANES * S::DEPTH + (j - panel) * LANES, vectors * LANES);
    }
  }

  // Tiles `begin` to `end` of rows.
  static inline void pack_a(const float* a, int begin, int end, float* packed) {
    for (int tile = begin; tile < end; ++tile, packed += static_cast<long>(S::DEPTH) * LANES) {
      const int row = ROW_TILES.start(tile);
      matmul_parts::pack_columns<S::A.column, S::A.row>(a + row * S::A.row, S::DEPTH, ROW_TILES.start(tile + 1) - row, packed, LANES);
    }
  }

  // One panel of V vectors, from vector `first` of y on, by the tiles `begin` to `end` of rows.
  template <int V, long B_STEP, class Epilogue>
  static inline void panel(const float* a, const float* b, float* y, int first, int begin, int end, int n, int h, const Epilogue& epilogue) {
    const float* packed = a;
    for_pieces<S::ROWS, tile_rows(VECTORS)>(begin, end, [&](auto size, int row) {
      Tile<size(), V> tile;
      tile.clear();
      tile.template multiply<A_ROW, A_STEP, B_STEP>(S::PACK_A ? packed : a + row * A_ROW, b, S::DEPTH);
      packed += static_cast<long>(S::DEPTH) * LANES;
      tile.for_each([&](Vec v, int i, int j) __attribute__((always_inline)) {
        const int c = (first + j) * LANES;
        v = epilogue(v, n, c, h, row + i);
        float* to = y + (row + i) * S::Y.row + c;
        if (S::COLUMNS % LANES == 0 || c + LANES <= S::COLUMNS) store(to, v);
        else store_first(to, v, S::COLUMNS % LANES);
      });
    });
  }
};

template <class S, class Epilogue> void batched_matmul(const Worker& worker, const float* a, const float* b, float* y, Epilogue epilogue) {
  using Parts = BatchedMatmul<S>;
  const Range range = worker.split(Parts::ITEMS);
  float* panels = worker.scratch;
  float* rows = panels + Parts::PACKED_B;
  long packed = -1;
  for (long index = range.begin; index < range.end; ++index) {
    const long at = index / Parts::ROW_BLOCKS.count;  // group of columns of a matrix
    const int block = static_cast<int>(index % Parts::ROW_BLOCKS.count), group = static_cast<int>(at % Parts::GROUPS);
    const int n = static_cast<int>(at / Parts::GROUPS / S::INNER), h = static_cast<int>(at / Parts::GROUPS % S::INNER);
    const int first = group * Parts::GROUP, count = Parts::VECTORS_OF_Y - first < Parts::GROUP ? Parts::VECTORS_OF_Y - first : Parts::GROUP;
    const float *a_here = a + Parts::offset(S::A, n, h), *b_here = b + Parts::offset(S::B, n, h);
    float* y_here = y + Parts::offset(S::Y, n, h);
    if (S::PACK_B && at != packed) Parts::pack_b(b_here, first, count, panels);
    packed = at;
    const int begin = Parts::ROW_BLOCKS.start(block), end = Parts::ROW_BLOCKS.start(block + 1);
    if (S::PACK_A) {
      Parts::pack_a(a_here, begin, end, rows);
      a_here = rows;
    }
    constexpr int V = Parts::VECTORS, REST = Parts::VECTORS_OF_Y % V;
    for (int j = 0; j < count; j += V) {
      const float* b_panel = S::PACK_B ? panels + static_cast<long>(j) * LANES * S::DEPTH : b_here + (first + j) * LANES;
      if (j + V <= count) Parts::template panel<V, S::PACK_B ? V * LANES : S::B.row>(a_here, b_panel, y_here, first + j, begin, end, n, h, epilogue);
      else if constexpr (REST > 0) Parts::template panel<REST, S::PACK_B ? REST * LANES : S::B.row>(a_here, b_panel, y_here, first + j, begin, end, n, h, epilogue);
    }
  }
}

}  // namespace graphopt
