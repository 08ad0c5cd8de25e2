// M = U V: for every frequency a matrix product of output channels x input channels x tiles.
#pragma once

#include "multiply.hpp"
#include "winograd_errands.hpp"

namespace graphopt {

// Input channels that are summed before they are added to the sums so far. Most of the error of a Winograd
// convolution comes from this sum, and it grows with the length of a run.
constexpr int WINOGRAD_RUN = 64;

// M of TILES tiles and VECTORS of the WIDTH output groups of u, at one frequency. What the next 16 channels need
// is fetched into L1, at the end the next call's; AHEAD lines per channel from `ahead` on, and errands, into L2.
template <class S, int TILES, int VECTORS, int WIDTH, int AHEAD>
GRAPHOPT_INLINE void winograd_multiply_tile(const float* v, const float* next_v, const float* u, const float* ahead, float* m, const WinogradLines* errand) {
  using W = WinogradShape<S>;
  for (int first = 0; first < S::IN_CHANNELS; first += WINOGRAD_RUN) {
    Tile<TILES, VECTORS> sums;
    sums.clear();
    const int last = first + WINOGRAD_RUN < S::IN_CHANNELS ? first + WINOGRAD_RUN : S::IN_CHANNELS;
    for (int channel = first; channel < last; channel += LANES) {
      const int lanes = last - channel < LANES ? last - channel : LANES;
      const float* from = v + channel / LANES * W::V_GROUP;
      const float* soon = channel + LANES < S::IN_CHANNELS ? from + W::V_GROUP : next_v;
      const WinogradLines aside = *errand++;
      for (int lane = 0; lane < lanes; ++lane) {
        prefetch(aside.first + lane * aside.step);
        GRAPHOPT_UNROLL for (int line = 0; line < AHEAD; ++line) prefetch(ahead + line * LANES);
        GRAPHOPT_UNROLL for (int j = 0; j < VECTORS; ++j) prefetch_near(u + (LANES * WIDTH + j) * LANES);
        prefetch_near(soon + lane * LANES);
        sums.template multiply<LANES, 1, WIDTH * LANES>(from + lane, u, 1);
        u += WIDTH * LANES;
        ahead += AHEAD * LANES;
      }
    }
    sums.for_each([&](Vec sum, int i, int j) {
      float* to = m + i * W::M_TILE + j * LANES;
      store(to, first == 0 ? sum : load(to) + sum);
    });
  }
}

// M of a block at one frequency, of WIDTH output groups whose weights lie side by side.
template <class S, int WIDTH> __attribute__((noinline)) void winograd_multiply(const float* v, const float* u, float* m, const WinogradLines*& errand) {
  constexpr int VECTORS = tile_vectors(WIDTH), MOST = tile_rows(VECTORS);
  // each call asks for a part of the weights that follow these
  constexpr int CALLS = Pieces(S::BLOCK, MOST).count * (WIDTH / VECTORS), AHEAD = ceil_div(WIDTH, CALLS);
  const float* ahead = u + S::IN_CHANNELS * WIDTH * LANES;
  for_pieces<S::BLOCK, MOST>([&](auto tiles, int tile) {
    const float* next = v + (tile + tiles < S::BLOCK ? (tile + tiles) * LANES : WinogradShape<S>::V_FREQUENCY);
    for (int j = 0; j < WIDTH; j += VECTORS) {
      winograd_multiply_tile<S, tiles, VECTORS, WIDTH, AHEAD>(v + tile * LANES, next, u + j * LANES, ahead, m + tile * WinogradShape<S>::M_TILE + j * LANES, errand);
      errand += WinogradShape<S>::IN_GROUPS;
      ahead += S::IN_CHANNELS * AHEAD * LANES;
    }
  });
}

// M of a block and the `groups` output groups of a panel, at all frequencies.
template <class S> void winograd_multiply_panel(const float* v, const float* u, float* m, int groups, WinogradErrands<S> errands) {
  using W = WinogradShape<S>;
  constexpr int REST = W::OUT_GROUPS % S::VECTORS;
  for (int frequency = 0; frequency < W::FREQUENCIES; ++frequency) {
    const WinogradLines* errand = errands.at(frequency);
    for (int group = 0; group + S::VECTORS <= groups; group += S::VECTORS) {
      winograd_multiply<S, S::VECTORS>(v, u, m + group * LANES, errand);
      u += S::IN_CHANNELS * S::VECTORS * LANES;
    }
    if constexpr (REST != 0)
      if (groups % S::VECTORS != 0) {
        winograd_multiply<S, REST>(v, u, m + (groups - REST) * LANES, errand);
        u += S::IN_CHANNELS * REST * LANES;
      }
    v += W::V_FREQUENCY;
    m += W::M_FREQUENCY;
  }
}

}  // namespace graphopt
