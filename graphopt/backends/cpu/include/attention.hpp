// Attention: y = softmax(q k^T * scale + masks) v, streaming over blocks of keys.
//
// Lanes run along *queries*: a block of 16 * V queries is transposed once, then
//
//   scores [key][query]     = k (broadcast)      * q^T (lanes)      tiles of keys x query vectors
//   maximum, exp, sum       over keys, lane by lane: no reduction across lanes
//   output [query][feature] += scores (broadcast) * v (lanes)       tiles of queries x feature vectors
//
// so neither keys nor probabilities are ever transposed, keys need no padding, and all of a block of keys stays in
// L1. When a block raises the maximum of a query, what was summed before is scaled down (Milakov and Gimelshein,
// "Online normalizer calculation for softmax"; Dao et al., "FlashAttention"). Up to 4 queries that would leave a
// block's lanes nearly empty are done one by one. The order is the same for any number of workers.
#pragma once

#include "attention_parts.hpp"
#include "attention_row.hpp"
#include "multiply.hpp"

namespace graphopt {

// A mask of floats that are added, or of bools that say what to keep. Element (query, key) of batch item b is at
// batch_offset(M::BATCH) + query * M::ROW + key * M::STEP.
template <class M, class T> struct AttentionMask {
  const T* data;

  template <int RANK> GRAPHOPT_INLINE const T* at(const long (&sizes)[RANK], long item, int query, int key) const {
    return data + batch_offset(sizes, M::BATCH, item) + query * M::ROW + key * M::STEP;
  }
  template <class Tile> GRAPHOPT_INLINE static void begin(Tile&, const T*) {}
  inline static void add(const T* p, int queries, int keys, float* scores, long width) {
    attention_parts::add_masks(p, M::ROW, M::STEP, queries, keys, scores, width);
  }
  inline static void add_row(const T* p, int keys, float* scores) { attention_parts::add_mask_row(p, M::STEP, keys, LOG2_E, scores); }
};

// A mask that was packed beforehand: as [key][query] in units of log2, rows of whole vectors. Scores begin as the mask.
template <class M> struct AttentionMask<M, attention_parts::PackedScores> {
  const float* data;

  template <int RANK> GRAPHOPT_INLINE const float* at(const long (&sizes)[RANK], long item, int query, int key) const {
    return data + batch_offset(sizes, M::BATCH, item) + query + key * M::STEP;
  }
  template <class Tile> GRAPHOPT_INLINE static void begin(Tile& tile, const float* p) { tile.add_from(p, M::STEP); }
  inline static void add(const float*, int, int, float*, long) {}
  inline static void add_row(const float* p, int keys, float* scores) { attention_parts::add_mask_row(p, M::STEP, keys, 1.0f, scores); }
};

template <class M, class T> GRAPHOPT_INLINE AttentionMask<M, T> attention_mask(const T* data) { return {data}; }
template <class M> GRAPHOPT_INLINE AttentionMask<M, attention_parts::PackedScores> packed_attention_mask(const float* data) { return {data}; }

// S has the shapes QUERIES, KEYS, FEATURES (of q and k), VALUES (features of v and y); BATCH[] and the strides
// Q_BATCH[], Q_ROW, Q_STEP, the same for K, V and Y; SCALE, CAUSAL; QUERY_VECTORS of a block of queries, KEY_BLOCK, the
// keys of a block, and SCRATCH, the floats that are there.
template <class S> class Attention {
 public:
  static constexpr int ALONE = S::QUERIES % LANES <= 4 ? S::QUERIES % LANES : 0;  // the last queries, done one by one
  static constexpr Pieces QUERY_PIECES{attention_parts::vectors_of(S::QUERIES - ALONE), S::QUERY_VECTORS};
  static constexpr int ITEMS = QUERY_PIECES.count + (ALONE > 0);  // pieces of work per batch item

  explicit Attention(float* scratch)
      : keys(scratch), values(keys + KEY_FLOATS), queries(values + VALUE_FLOATS), scores(queries + FEATURE_WIDTH * WIDTH), outputs(scores + SCORE_FLOATS),
        scales(outputs + VALUE_WIDTH * WIDTH), maxima(scales + WIDTH), sums(maxima + WIDTH) {
    static_assert(KEY_FLOATS + VALUE_FLOATS + SCORE_FLOATS + (FEATURE_WIDTH + VALUE_WIDTH + 3) * WIDTH <= S::SCRATCH, "scratch is too small");
  }

  // Keys and values of a batch item come; those of the next one are fetched from memory meanwhile.
  void start(const float* k, const float* v, const float* next_q, const float* next_k, const float* next_v) {
    k_ = k;
    v_ = v;
    if constexpr (PACK_K) {
      attention_parts::pack_rows<S::K_STEP>(k, S::K_ROW, S::KEYS, S::FEATURES, keys);
      k_ = keys;
    }
    if constexpr (PACK_V) {
      attention_parts::pack_rows<S::V_STEP>(v, S::V_ROW, S::KEYS, S::VALUES, values);
      v_ = values;
    }
    ahead.clear();
    if (next_q != nullptr) {
      if (PACK_K && S::K_STEP == 1) ahead.add(next_k, S::K_ROW, S::KEYS);
      if (PACK_V && S::V_STEP == 1) ahead.add(next_v, S::V_ROW, S::KEYS);
      if (S::Q_STEP == 1) ahead.add(next_q, S::Q_ROW, S::QUERIES);
    }
  }

  // Piece `piece` of the queries of a batch item.
  template <class... Masks> inline void run(long item, int piece, const float* q, float* y, const Masks&... masks) {
    constexpr Pieces pieces = QUERY_PIECES;
    constexpr bool IS_LAST_LARGE = pieces.large == pieces.count;
    constexpr int LAST = IS_LAST_LARGE ? pieces.size : pieces.size - 1;  // vectors of the last block, which may be incomplete
    constexpr int LAST_ROWS = S::QUERIES - ALONE - pieces.start(pieces.count - 1) * LANES;
    constexpr int LARGE = pieces.large - IS_LAST_LARGE, SMALL = pieces.count - pieces.large - !IS_LAST_LARGE;
    if (piece == pieces.count) {
      if constexpr (ALONE > 0)
        for (int query = S::QUERIES - ALONE; query < S::QUERIES; ++query) single(item, query, q, y, masks...);
    } else if (piece == pieces.count - 1) {
      if constexpr (pieces.count > 0) block<LAST, LAST_ROWS>(item, pieces.start(piece) * LANES, q, y, masks...);
    } else if (piece < pieces.large) {
      if constexpr (LARGE > 0) block<pieces.size, pieces.size * LANES>(item, pieces.start(piece) * LANES, q, y, masks...);
    } else {
      if constexpr (SMALL > 0) block<pieces.size - 1, (pieces.size - 1) * LANES>(item, pieces.start(piece) * LANES, q, y, masks...);
    }
  }

 private:
  static constexpr int SCORE_VECTORS = tile_vectors(S::QUERY_VECTORS == 3 ? 3 : 2);
  static constexpr int SCORE_ROWS = tile_rows(SCORE_VECTORS);
  static constexpr int FEATURE_WIDTH = attention_parts::vectors_of(S::FEATURES) * LANES;
  static constexpr int VALUE_WIDTH = attention_parts::vectors_of(S::VALUES) * LANES;
  static constexpr int KEY_WIDTH = attention_parts::vectors_of(S::KEYS) * LANES;
  static constexpr int VALUE_VECTORS = tile_vectors(VALUE_WIDTH / LANES % 4 == 0 ? 4 : VALUE_WIDTH / LANES % 3 == 0 ? 3 : 2);
  static constexpr Pieces KEY_PIECES{S::KEYS, SCORE_ROWS};
  // Packed rows lie densely in whole vectors; single queries alone do not repay the packing.
  static constexpr bool HAS_BLOCKS = QUERY_PIECES.count > 0;
  static constexpr bool PACK_K = S::K_STEP != 1 || (HAS_BLOCKS && S::K_ROW != S::FEATURES);
  static constexpr bool PACK_V = S::V_STEP != 1 || (HAS_BLOCKS && (S::V_ROW != VALUE_WIDTH || S::VALUES != VALUE_WIDTH));
  static constexpr long K_ROW = PACK_K ? FEATURE_WIDTH : S::K_ROW;
  static constexpr long V_ROW = PACK_V ? VALUE_WIDTH : S::V_ROW;
  static constexpr int WIDTH = HAS_BLOCKS ? S::QUERY_VECTORS * LANES : LANES;
  // Blocks of whole tiles of keys.
  static constexpr Pieces KEY_BLOCKS{KEY_PIECES.count, S::KEY_BLOCK < SCORE_ROWS ? 1 : S::KEY_BLOCK / SCORE_ROWS};
  static constexpr long KEY_FLOATS = PACK_K ? static_cast<long>(S::KEYS) * FEATURE_WIDTH : 0;
  static constexpr long VALUE_FLOATS = PACK_V ? static_cast<long>(S::KEYS) * VALUE_WIDTH : 0;
  static constexpr int BLOCK_FLOATS = HAS_BLOCKS ? KEY_PIECES.size * KEY_BLOCKS.size * WIDTH : 0;
  static constexpr int SCORE_FLOATS = BLOCK_FLOATS > KEY_WIDTH ? BLOCK_FLOATS : KEY_WIDTH;  // a block's, or all of one query
  static constexpr int CHUNK = 16;  // steps of a product between two requests for memory
  static constexpr int chunks(int depth) { return depth < CHUNK ? 1 : depth / CHUNK; }
  // Chunks of one batch item, and the rows that have to be requested in each of them.
  static constexpr int CHUNKS = Pieces(QUERY_PIECES.count * S::QUERY_VECTORS, SCORE_VECTORS).count * KEY_PIECES.count * chunks(S::FEATURES) +
                                Pieces(S::QUERIES, tile_rows(VALUE_VECTORS)).count * Pieces(VALUE_WIDTH / LANES, VALUE_VECTORS).count * chunks(S::KEYS);
  static constexpr int ROWS_AHEAD = (2 * S::KEYS + S::QUERIES + CHUNKS - 1) / CHUNKS;
  static constexpr int AHEAD_BYTES = (S::FEATURES > S::VALUES ? S::FEATURES : S::VALUES) * 4;

  float *keys, *values, *queries, *scores, *outputs, *scales, *maxima, *sums;
  const float *k_, *v_;
  attention_parts::Ahead ahead;

  // A product in chunks, between which a row of the next batch item is requested.
  template <long A_ROW, long A_STEP, long B_STEP, int ROWS, int VECTORS>
  GRAPHOPT_INLINE void multiply(Tile<ROWS, VECTORS>& tile, const float* a, const float* b, int depth) {
    for (; depth > 0; a += CHUNK * A_STEP, b += CHUNK * B_STEP) {
      const int steps = depth < 2 * CHUNK ? depth : CHUNK;
      tile.template multiply<A_ROW, A_STEP, B_STEP>(a, b, steps);
      ahead.step<AHEAD_BYTES>(ROWS_AHEAD);
      depth -= steps;
    }
  }

  // Scores of key tiles `first` to `last`.
  template <int V, class... Masks> inline void score([[maybe_unused]] long item, [[maybe_unused]] int query, int first, int last, const Masks&... masks) {
    float* y = scores - static_cast<long>(KEY_PIECES.start(first)) * V * LANES;
    for_pieces<S::KEYS, SCORE_ROWS>(first, last, [&](auto size, int key) {
      for_pieces<V, SCORE_VECTORS>([&](auto vectors, int j) {
        Tile<size(), vectors()> tile;
        tile.clear();
        (masks.begin(tile, masks.at(S::BATCH, item, query + j * LANES, key)), ...);
        multiply<K_ROW, 1, V * LANES>(tile, k_ + key * K_ROW, queries + j * LANES, S::FEATURES);
        tile.store_to(y + key * (V * LANES) + j * LANES, V * LANES);
      });
    });
  }

  // Scores of keys `begin` to `end` that come after a lane's query become -inf.
  template <int V> inline void cut(int query, int begin, int end) {
    using namespace attention_parts;
    const Vec lane = load(LANE_NUMBERS);
    float* y = scores;
    for (int key = begin; key < end; ++key, y += V * LANES)
      GRAPHOPT_UNROLL for (int j = 0; j < V; ++j) {
        const Vec after = splat(static_cast<float>(key - query - j * LANES)) - lane;  // > 0 where the key is after the query
        store(y + j * LANES, lift([](Part a, Part s) { return a > Part{} ? number(MINUS_INFINITY) : s; }, after, load(y + j * LANES)));
      }
  }

  template <int ROWS, class Mask> inline void add(const Mask& mask, long item, int query, int begin, int end, long width) {
    for (int i = 0; i < ROWS; i += LANES)
      mask.add(mask.at(S::BATCH, item, query + i, begin), ROWS - i < LANES ? ROWS - i : LANES, end - begin, scores + i, width);
  }

  // Outputs of ROWS queries: v weighted by `count` keys' exponentials, divided by their sum after the last block.
  template <int V, int ROWS> inline void weigh(const float* v, int count, bool is_first, bool is_last, float* y) {
    for_pieces<ROWS, tile_rows(VALUE_VECTORS)>([&](auto size, int row) {
      for_pieces<VALUE_WIDTH / LANES, VALUE_VECTORS>([&](auto vectors, int j) {
        Tile<size(), vectors()> tile;
        float* so_far = outputs + row * VALUE_WIDTH + j * LANES;
        if (is_first) {
          tile.clear();
        } else {
          tile.load_from(so_far, VALUE_WIDTH);
          tile.scale_rows(scales + row);
        }
        multiply<1, V * LANES, V_ROW>(tile, scores + row, v + j * LANES, count);
        if (is_last) {
          tile.scale_rows(sums + row);
          tile.for_each([&](Vec x, int i, int l) { write(y + (row + i) * S::Y_ROW, (j + l) * LANES, x); });
        } else {
          tile.store_to(so_far, VALUE_WIDTH);
        }
      });
    });
  }

  GRAPHOPT_INLINE static void write(float* y, int c, Vec v) {
    const int count = S::VALUES - c < LANES ? S::VALUES - c : LANES;
    if constexpr (S::Y_STEP == 1) {
      if (count == LANES) store(y + c, v);
      else store_first(y + c, v, count);
    } else {
      float lanes[LANES];
      store(lanes, v);
      for (int i = 0; i < count; ++i) y[(c + i) * S::Y_STEP] = lanes[i];
    }
  }

  // ROWS queries from `query` in V vectors.
  template <int V, int ROWS, class... Masks>
  __attribute__((noinline)) void block([[maybe_unused]] long item, int query, const float* q, float* y, const Masks&... masks) {
    using namespace attention_parts;
    for (int i = 0; i < V * LANES; i += LANES)
      pack_queries<S::Q_STEP>(q + (query + i) * S::Q_ROW, S::Q_ROW, ROWS - i < LANES ? ROWS - i : LANES, S::FEATURES, S::SCALE * LOG2_E, queries + i, V * LANES);
    const int needed = S::CAUSAL && query + ROWS < S::KEYS ? query + ROWS : S::KEYS;  // keys that some query may see
    for (int number = 0; number < KEY_BLOCKS.count; ++number) {
      const int first = KEY_BLOCKS.start(number), last = KEY_BLOCKS.start(number + 1);
      const int begin = KEY_PIECES.start(first), end = KEY_PIECES.start(last), count = end - begin;
      const bool is_first = number == 0, is_last = end >= needed;
      score<V>(item, query, first, last, masks...);
      if (S::CAUSAL && end > query + 1) cut<V>(query, begin, end);
      (add<ROWS>(masks, item, query, begin, end, V * LANES), ...);
      for (int i = 0; i < V * LANES; i += LANES) exponentiate(scores + i, V * LANES, count, is_first, is_last, maxima + i, sums + i, scales + i);
      weigh<V, ROWS>(v_ + begin * V_ROW, count, is_first, is_last, y + query * S::Y_ROW);
      if (is_last) break;
    }
  }

  // One query.
  template <class... Masks> inline void single([[maybe_unused]] long item, int query, const float* q, float* y, const Masks&... masks) {
    using namespace attention_parts;
    using Row = AttentionRow<S::FEATURES, S::VALUES, K_ROW, V_ROW>;
    for (int c = 0; c < FEATURE_WIDTH; ++c) queries[c] = c < S::FEATURES ? q[query * S::Q_ROW + c * S::Q_STEP] * (S::SCALE * LOG2_E) : 0.0f;
    const int needed = S::CAUSAL && query + 1 < S::KEYS ? query + 1 : S::KEYS;
    Row::score(queries, k_, needed, scores);
    (masks.add_row(masks.at(S::BATCH, item, query, 0), needed, scores), ...);
    const float scale = exponentiate_row(scores, needed);
    Row::weigh(scores, v_, needed, scale, y + query * S::Y_ROW, S::Y_STEP);
  }
};

template <class S, class... Masks>
void attention(const Worker& worker, const float* q, const float* k, const float* v, float* y, const Masks&... masks) {
  using Parts = Attention<S>;
  Parts parts(worker.scratch);
  long items = 1;
  for (long size : S::BATCH) items *= size;
  const Range range = worker.split(items * Parts::ITEMS);
  long started = -1;
  for (long index = range.begin; index < range.end; ++index) {
    const long item = index / Parts::ITEMS, next = item + 1;
    if (item != started) {
      const bool has_next = next * Parts::ITEMS < range.end;
      parts.start(k + batch_offset(S::BATCH, S::K_BATCH, item), v + batch_offset(S::BATCH, S::V_BATCH, item),
                  has_next ? q + batch_offset(S::BATCH, S::Q_BATCH, next) : nullptr, k + batch_offset(S::BATCH, S::K_BATCH, next),
                  v + batch_offset(S::BATCH, S::V_BATCH, next));
      started = item;
    }
    parts.run(item, static_cast<int>(index % Parts::ITEMS), q + batch_offset(S::BATCH, S::Q_BATCH, item), y + batch_offset(S::BATCH, S::Y_BATCH, item), masks...);
  }
}

}  // namespace graphopt
