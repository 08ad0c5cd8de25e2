// 3x3 convolutions with stride 1 by Winograd's minimal filtering (winograd_transforms.hpp).
//
//   V = B^T d B of every tile and input channel,  M = U V for every frequency,  y = A^T M A + bias, epilogue
//
// U = G w G^T comes packed, and bias padded to whole groups. Two schedules:
//
//   winograd_by_tiles      a worker takes a block of tiles through all phases; V and M stay in its L2
//   winograd_by_channels   all V, then a worker makes its share of the output channels: each weight is read once
//
// Neither needs a halo: what lies outside the image is zero by the transform of the tiles at its edge.
#pragma once

#include "winograd_multiply.hpp"
#include "winograd_tiles.hpp"

namespace graphopt {

// A panel of output channels of a block, from V to y. `next` is x where another block follows that will read it.
template <class S, class Epilogue>
void winograd_panel(const float* v, const float* u, const float* bias, float* m, float* y, int block, int panel, const float* next, const Epilogue& epilogue) {
  using W = WinogradShape<S>;
  const WinogradErrands<S> errands(next, y, block, panel);
  winograd_multiply_panel<S>(v, u + panel * W::U_PANEL, m, panel == W::PANELS - 1 ? W::LAST_PANEL : S::PANEL, errands);
  winograd_outputs<S>(m, bias, y, block, panel, epilogue);
}

// `scratch` of each worker holds V and M of a block.
template <class S, class Epilogue>
void winograd_by_tiles(const Worker& worker, const float* x, const float* u, const float* bias, float* y, float* scratch, Epilogue epilogue) {
  using W = WinogradShape<S>;
  float *v = scratch, *m = scratch + W::V_BLOCK;
  const Range blocks = worker.split(W::BLOCKS);
  for (long block = blocks.begin; block < blocks.end; ++block) {
    winograd_transform<S>(x, v, static_cast<int>(block), 0, S::BLOCK, 0, W::IN_GROUPS);
    for (int panel = 0; panel < W::PANELS; ++panel) winograd_panel<S>(v, u, bias, m, y, static_cast<int>(block), panel, block + 1 < blocks.end ? x : nullptr, epilogue);
  }
}

// `shared` holds V of all blocks, `scratch` of each worker M of a block.
template <class S, class Epilogue>
void winograd_by_channels(const Worker& worker, const float* x, const float* u, const float* bias, float* y, float* scratch, float* shared, Epilogue epilogue) {
  using W = WinogradShape<S>;
  const Range inputs = worker.split(W::BLOCKS * W::IN_GROUPS);
  for (long i = inputs.begin; i < inputs.end; ++i) {
    const int block = static_cast<int>(i) / W::IN_GROUPS, group = static_cast<int>(i) % W::IN_GROUPS;
    winograd_transform<S>(x, shared + block * W::V_BLOCK, block, 0, S::BLOCK, group, group + 1);
  }
  worker.wait();
  const Range panels = worker.split(W::PANELS * W::BLOCKS);
  for (long i = panels.begin; i < panels.end; ++i) {
    const int panel = static_cast<int>(i) / W::BLOCKS, block = static_cast<int>(i) % W::BLOCKS;
    winograd_panel<S>(shared + block * W::V_BLOCK, u, bias, scratch, y, block, panel, nullptr, epilogue);
  }
}

}  // namespace graphopt
