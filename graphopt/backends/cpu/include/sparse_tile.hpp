// Tiles of x as sparse kernels read them: [inputs of a chunk][pixels of y], from any layout of x.
//
// An input is a channel and a tap, a pixel is one of y's: the tile holds what that tap sees from there. Vectors
// run along pixels. From planes rows are copied, shifted by the tap, with zeros outside the image; from 16
// channels side by side 16 x 16 numbers at a time are turned, and padding is read from x's halo.
//
// Inputs are in the order [c][kh][kw] for planes, [c / 16][kh][kw][c % 16] otherwise. Pixels of y are counted
// along its rows, from the first to the last of an image, or of all images where these are joined.
#pragma once

#include "microkernel.hpp"
#include "runtime.hpp"
#include "sparse_transpose.hpp"

namespace graphopt {

template <class S> struct SparseShape {
  static constexpr int TAPS = S::KERNEL_H * S::KERNEL_W;
  static constexpr int IMAGE = S::OUT_HEIGHT * S::OUT_WIDTH;
  static constexpr int PIXELS = S::JOINED ? S::IMAGES * IMAGE : IMAGE;  // of a stretch that tiles are taken of
  static constexpr int STRETCHES = S::JOINED ? 1 : S::IMAGES;
  static constexpr int DEPTH = (S::X_PLANES ? S::IN_CHANNELS : ceil_div(S::IN_CHANNELS, LANES) * LANES) * TAPS;
  static constexpr int CHUNKS = ceil_div(DEPTH, S::CHUNK);
  static constexpr int WIDTH = S::VECTORS * LANES;
  // Pixels of y and x are the same, one after the other.
  static constexpr bool FLAT = TAPS == 1 && S::STRIDE_H == 1 && S::STRIDE_W == 1 && S::PADDING_H == 0 && S::PADDING_W == 0 &&
                               (S::OUT_HEIGHT == 1 || S::X.h == S::OUT_WIDTH * S::X.w);
};

// The numbers of x at every STRIDE-th place from p, `count` of them.
template <int STRIDE> GRAPHOPT_INLINE void copy_pixels(float* to, const float* p, int count) {
  if constexpr (STRIDE == 1) {
    for (; count >= LANES; count -= LANES, p += LANES, to += LANES) store(to, load(p));
    if (count > 0) store_first(to, load_first(p, count), count);
  } else if constexpr (STRIDE == 2) {
    for (; count > 0; count -= LANES, p += 2 * LANES, to += LANES) {
      const int floats = 2 * count - 1;
      const Vec low = load_first(p, floats < LANES ? floats : LANES), high = load_first(p + LANES, floats < LANES ? 0 : floats < 2 * LANES ? floats - LANES : LANES);
      store_first(to, even_lanes(low, high), count < LANES ? count : LANES);
    }
  } else {
    for (int i = 0; i < count; ++i) to[i] = p[static_cast<long>(i) * STRIDE];
  }
}

GRAPHOPT_INLINE void clear(float* to, int count) {
  for (; count >= LANES; count -= LANES, to += LANES) store(to, zero());
  if (count > 0) store_first(to, zero(), count);
}

// Planes of channels: X.block is the distance of two, X.w is 1.
template <class S, int VECTORS, bool PLANES> class SparseTile {
  using D = SparseShape<S>;
  static constexpr int COUNT = VECTORS * LANES;
  static constexpr int WINDOW_H = S::IN_HEIGHT + S::HALO_H, WINDOW_W = S::IN_WIDTH + S::HALO_W;

 public:
  // x is the image, `pixel` the first one of y.
  SparseTile(const float* x, int pixel) : x_(x), pixel_(pixel), left_(D::PIXELS - pixel < COUNT ? D::PIXELS - pixel : COUNT) {}

  // Inputs `begin` to `end` of the band whose first channel is `channel`.
  void load(int channel, int begin, int end, float* tile) const {
    if constexpr (D::FLAT) {
      for (int k = begin; k < end; ++k, tile += D::WIDTH) flat(x_ + (channel + k) * S::X.block + pixel_, tile);
    } else {
      for (int tap = 0; tap < D::TAPS; ++tap) {
        const int first = begin + (tap - begin % D::TAPS + D::TAPS) % D::TAPS;  // of this tap
        if (first < end) taps(channel, tap, first, end, tile + static_cast<long>(first - begin) * D::WIDTH);
      }
    }
  }

 private:
  GRAPHOPT_INLINE void flat(const float* from, float* to) const {
    if (left_ == COUNT) {
      GRAPHOPT_UNROLL for (int v = 0; v < VECTORS; ++v) store(to + v * LANES, graphopt::load(from + v * LANES));
    } else {
      copy_pixels<1>(to, from, left_);
      clear(to + left_, COUNT - left_);
    }
  }

  // Stretches of a tile that are one row of x each, as a tap sees it.
  void taps(int channel, int tap, int first, int end, float* tile) const {
    struct Stretch {
      int at, count;
      long from;
    };
    Stretch stretches[COUNT];
    int count = 0, filled = 0;
    const int down = tap / S::KERNEL_W * S::DILATION_H - S::PADDING_H, right = tap % S::KERNEL_W * S::DILATION_W - S::PADDING_W;
    for (int at = 0, row = pixel_ / S::OUT_WIDTH, column = pixel_ % S::OUT_WIDTH; at < left_; ++row, column = 0) {
      const int length = S::OUT_WIDTH - column < left_ - at ? S::OUT_WIDTH - column : left_ - at;
      const int y = row * S::STRIDE_H + down, x = column * S::STRIDE_W + right;
      if (y >= -S::HALO_H && y < WINDOW_H) {
        const int lowest = -S::HALO_W - x, beyond = WINDOW_W - x;  // of columns of x, from that of the first pixel
        const int low = lowest > 0 ? ceil_div(lowest, S::STRIDE_W) : 0;
        const int high = beyond <= 0 ? 0 : ceil_div(beyond, S::STRIDE_W) < length ? ceil_div(beyond, S::STRIDE_W) : length;
        if (low < high) {
          stretches[count++] = {at + low, high - low, y * S::X.h + x + low * S::STRIDE_W};
          filled += high - low;
        }
      }
      at += length;
    }
    for (int k = first; k < end; k += D::TAPS, tile += static_cast<long>(D::TAPS) * D::WIDTH) {
      const float* plane = x_ + (channel + k / D::TAPS) * S::X.block;
      if (filled < COUNT) clear(tile, COUNT);
      for (int i = 0; i < count; ++i) copy_pixels<S::STRIDE_W>(tile + stretches[i].at, plane + stretches[i].from, stretches[i].count);
    }
  }

  const float* x_;
  int pixel_, left_;
};

// 16 channels side by side. `channel` is a multiple of 16.
template <class S, int VECTORS> class SparseTile<S, VECTORS, false> {
  using D = SparseShape<S>;
  static constexpr int COUNT = VECTORS * LANES;

 public:
  SparseTile(const float* x, int pixel) : x_(x) {
    long image = pixel / D::IMAGE;
    int row = pixel % D::IMAGE / S::OUT_WIDTH, column = pixel % S::OUT_WIDTH;
    for (int i = 0; i < COUNT; ++i) {
      at_[i] = image * S::X.n + row * S::STRIDE_H * S::X.h + column * S::STRIDE_W * S::X.w - S::PADDING_H * S::X.h - S::PADDING_W * S::X.w;
      if (pixel + i + 1 >= D::PIXELS) continue;  // behind the last pixel the last one again
      if (++column < S::OUT_WIDTH) continue;
      column = 0;
      if (++row == S::OUT_HEIGHT) row = 0, ++image;
    }
  }

  void load(int channel, int begin, int end, float* tile) const {
    for (int k = begin; k < end; k += LANES, tile += LANES * D::WIDTH) {
      const float* x = unit(channel, k);
      // Rows of features: the next 16 channels are the next line of each, and no prefetcher follows so many rows.
      if constexpr (D::TAPS == 1 && S::X.w != LANES)
        for (int i = 0; i < COUNT; ++i) prefetch_near(x + S::X.block + at_[i]);
      constexpr int TAIL = S::IN_CHANNELS % LANES;
      if (TAIL != 0 && !S::X_PADDED && (k / LANES / D::TAPS + 1) * LANES > S::IN_CHANNELS) {
        for (int i = 0; i < COUNT; i += LANES) narrow<TAIL == 0 ? 1 : TAIL>(x, at_ + i, tile + i);
      } else {
        for (int i = 0; i < COUNT; i += LANES) transpose_rows([&](int pixel) { return x + at_[i + pixel]; }, [&](int c, Vec v) { store(tile + c * D::WIDTH + i, v); });
      }
    }
  }

 private:
  // 16 channels under a tap: those of input k.
  GRAPHOPT_INLINE const float* unit(int channel, int k) const {
    const int group = k / LANES / D::TAPS, tap = k / LANES % D::TAPS;
    return x_ + (channel / LANES + group) * S::X.block + tap / S::KERNEL_W * S::DILATION_H * S::X.h + tap % S::KERNEL_W * S::DILATION_W * S::X.w;
  }

  // The last channels, behind which there may be no memory.
  template <int CHANNELS> static void narrow(const float* x, const long* at, float* to) {
    Vec rows[LANES];
    GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) rows[i] = load_first(x + at[i], CHANNELS);
    transpose16(rows);
    GRAPHOPT_UNROLL for (int i = 0; i < LANES; ++i) store(to + i * D::WIDTH, rows[i]);
  }

  const float* x_;
  long at_[COUNT];
};

}  // namespace graphopt
