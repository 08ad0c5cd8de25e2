// M = U V: for every frequency a matrix product of output channels x input channels x tiles.
#pragma once

#include "multiply.hpp"
#include "winograd_errands.hpp"

namespace graphopt {

// Input channels that are summed before they are added to the sums so far. Most of the error of a Winograd
// convolution comes from this sum, and it grows with the length of a run.
constexpr int WINOGRAD_RUN = 64;
static_assert(WINOGRAD_RUN % LANES == 0, "runs end with whole groups of channels");

// Adds to M of TILES tiles and VECTORS of the WIDTH output groups of u, at one frequency, the products of `channels`
// input channels; M is not read where they are the first ones. Fetched meanwhile, into L1: as many channels of v from
// next_v on, where the next call reads, and AHEAD lines per channel from `ahead` on. Into L2: the errands.
template <class S, int TILES, int VECTORS, int WIDTH, int AHEAD>
GRAPHOPT_INLINE void winograd_multiply_tile(const float* v, const float* next_v, const float* u, const float* ahead, float* m, int channels, bool first, const WinogradLines* errand) {
  using W = WinogradShape<S>;
  Tile<TILES, VECTORS> sums;
  sums.clear();
  for (int channel = 0; channel < channels; channel += LANES, v += W::V_GROUP, next_v += W::V_GROUP) {
    const int lanes = channels - channel < LANES ? channels - channel : LANES;
    const WinogradLines aside = *errand++;
    for (int lane = 0; lane < lanes; ++lane) {
      prefetch(aside.first + lane * aside.step);
      prefetch_near(next_v + lane * LANES);
      GRAPHOPT_UNROLL for (int line = 0; line < AHEAD; ++line) prefetch_near(ahead + line * LANES);
      sums.template multiply<LANES, 1, WIDTH * LANES>(v + lane, u, 1);
      u += WIDTH * LANES;
      ahead += AHEAD * LANES;
    }
  }
  sums.for_each([&](Vec sum, int i, int j) {
    float* to = m + i * W::M_TILE + j * LANES;
    store(to, first ? sum : load(to) + sum);
  });
}

// M of a block at one frequency, of WIDTH output groups whose weights lie side by side: a run of weights stays in L1
// while all tiles are multiplied with it.
template <class S, int WIDTH> __attribute__((noinline)) void winograd_multiply(const float* v, const float* u, float* m, const WinogradLines*& errand) {
  using W = WinogradShape<S>;
  constexpr int VECTORS = tile_vectors(WIDTH), MOST = tile_rows(VECTORS);
  // each call asks for a part of the weights that follow these
  constexpr int CALLS = Pieces(S::BLOCK, MOST).count * (WIDTH / VECTORS), AHEAD = ceil_div(WIDTH, CALLS);
  for (int first = 0; first < S::IN_CHANNELS; first += WINOGRAD_RUN) {
    const int channels = S::IN_CHANNELS - first < WINOGRAD_RUN ? S::IN_CHANNELS - first : WINOGRAD_RUN;
    const float* next_run = first + WINOGRAD_RUN < S::IN_CHANNELS ? v + WINOGRAD_RUN / LANES * W::V_GROUP : v + (W::V_FREQUENCY - first / LANES * W::V_GROUP);
    const float* ahead = u + channels * WIDTH * LANES;
    for_pieces<S::BLOCK, MOST>([&](auto tiles, int tile) {
      const float* next = tile + tiles < S::BLOCK ? v + (tile + tiles) * LANES : next_run;
      for (int j = 0; j < WIDTH; j += VECTORS) {
        winograd_multiply_tile<S, tiles, VECTORS, WIDTH, AHEAD>(v + tile * LANES, next, u + j * LANES, ahead, m + tile * W::M_TILE + j * LANES, channels, first == 0, errand);
        errand += ceil_div(channels, LANES);
        ahead += channels * AHEAD * LANES;
      }
    });
    u += channels * WIDTH * LANES;
    v += WINOGRAD_RUN / LANES * W::V_GROUP;
  }
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
