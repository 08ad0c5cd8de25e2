// Group norm (instance norm: one channel per group): y = (x - mean) / sqrt(variance + eps) * weight + bias, with mean and
// variance over the channels of a group and all positions of an image.
//
//   group_norm_channels   16 channels side by side: sums are kept per channel, then added up by group
//   group_norm_planes     16 neighbours along w side by side
//
// Mean and variance in two passes, in partial sums of at most 256 terms. Where there are too few groups for several
// workers a group is cut into CHUNKS (a number that does not depend on how many workers there are), whose sums are
// added up in order.
#pragma once

#include "epilogue.hpp"
#include "math.hpp"
#include "runtime.hpp"

namespace graphopt {

namespace group_norm_parts {

constexpr long SEGMENT = 256;  // terms of a partial sum of one lane

struct Same {
  GRAPHOPT_INLINE Vec operator()(Vec v) const { return v; }
};
struct SquaredDistance {
  Vec mean;
  GRAPHOPT_INLINE Vec operator()(Vec v) const { return (v - mean) * (v - mean); }
};

// Sum of f(vector) over `count` vectors `step` floats apart.
template <class F> GRAPHOPT_INLINE Vec sum_of(const float* x, long step, long count, F f) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  long i = 0;
  for (; i + 4 <= count; i += 4)
    GRAPHOPT_UNROLL for (int j = 0; j < 4; ++j) sums[j] += f(load(x + (i + j) * step));
  for (; i < count; ++i) sums[0] += f(load(x + i * step));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace group_norm_parts

// ---- channels side by side -----------------------------------------------------------------------------------

// S has IMAGES, HEIGHT, WIDTH, CHANNELS, GROUPS; Strides X, Y; UNIT, the channels of a piece of work: whole groups in
// whole vectors, or all; CHUNKS of the positions; IS_PADDED, where y may be stored in whole vectors.
template <class S> struct GroupNormChannels {
  static constexpr int UNITS = (S::CHANNELS + S::UNIT - 1) / S::UNIT;
  static constexpr int VECTORS = (S::UNIT + LANES - 1) / LANES, PADDED = VECTORS * LANES;
  static constexpr int GROUP = S::CHANNELS / S::GROUPS;
  static constexpr long POSITIONS = static_cast<long>(S::HEIGHT) * S::WIDTH;
  static constexpr long SHARED = static_cast<long>(S::IMAGES) * UNITS * S::CHUNKS * PADDED;  // floats of one kind of sums

  struct Unit {
    int image, channel, channels;  // of the first channel, and how many there are
    const float* x;
    float* y;
  };

  static Unit unit(long index, const float* x, float* y) {
    const int image = static_cast<int>(index / UNITS), channel = static_cast<int>(index % UNITS) * S::UNIT;
    return {image, channel, S::CHANNELS - channel < S::UNIT ? S::CHANNELS - channel : S::UNIT, x + image * S::X.n + channel / LANES * S::X.block,
            y + image * S::Y.n + channel / LANES * S::Y.block};
  }

  // Positions of a chunk.
  static Range positions(int chunk) { return {POSITIONS * chunk / S::CHUNKS, POSITIONS * (chunk + 1) / S::CHUNKS}; }

  // f(h, w, how many) for stretches of a row of positions.
  template <class F> static GRAPHOPT_INLINE void stretches(Range range, F f) {
    for (long p = range.begin; p < range.end;) {
      const long w = p % S::WIDTH;
      long count = S::WIDTH - w < range.end - p ? S::WIDTH - w : range.end - p;
      if (count > group_norm_parts::SEGMENT) count = group_norm_parts::SEGMENT;
      f(static_cast<int>(p / S::WIDTH), static_cast<int>(w), static_cast<int>(count));
      p += count;
    }
  }

  // Sums per channel, of squared distances where `means` are given. Lanes behind the last channel are junk.
  static void sum(const Unit& of, Range range, const float* means, float* sums) {
    using namespace group_norm_parts;
    for (int c = 0; c < of.channels; c += LANES) {
      const float* x = of.x + c / LANES * S::X.block;
      const bool is_tail = of.channels - c < LANES;  // a whole vector of the last position could lie beyond the memory
      Vec total = zero();
      stretches(range, [&](int h, int w, int count) {
        const float* p = x + h * S::X.h + w * S::X.w;
        if (is_tail) {
          const Vec mean = means == nullptr ? zero() : load(means + c);
          for (int i = 0; i < count; ++i) {
            const Vec v = load_first(p + i * S::X.w, S::CHANNELS % LANES) - mean;
            total += means == nullptr ? v : v * v;
          }
        } else {
          total += means == nullptr ? sum_of(p, S::X.w, count, Same{}) : sum_of(p, S::X.w, count, SquaredDistance{load(means + c)});
        }
      });
      store(sums + c, total);
    }
  }

  // Each channel gets the mean of its group: sums of all chunks, PADDED apart, added up in order.
  static void spread(const Unit& of, const float* sums, float* means) {
    for (int first = 0; first < of.channels; first += GROUP) {
      float total = 0.0f;
      for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
        float part = 0.0f;
        for (int c = first; c < first + GROUP; ++c) part += sums[chunk * PADDED + c];
        total += part;
      }
      for (int c = first; c < first + GROUP; ++c) means[c] = total / (static_cast<float>(GROUP) * static_cast<float>(POSITIONS));
    }
  }

  template <class Epilogue>
  static void apply(const Unit& of, Range range, const float* means, const float* scales, const float* bias, const Epilogue& epilogue) {
    for (int c = 0; c < of.channels; c += LANES) {
      const float* x = of.x + c / LANES * S::X.block;
      float* y = of.y + c / LANES * S::Y.block;
      const int count_here = of.channels - c;
      const Vec mean = load(means + c), scale = load(scales + c), shift = load(bias + of.channel + c);
      stretches(range, [&](int h, int w, int count) {
        for (int i = 0; i < count; ++i) {
          const float* p = x + h * S::X.h + (w + i) * S::X.w;
          float* to = y + h * S::Y.h + (w + i) * S::Y.w;
          const Vec v = count_here >= LANES ? load(p) : load_first(p, S::CHANNELS % LANES);
          const Vec result = epilogue(fma(v - mean, scale, shift), of.image, of.channel + c, h, w + i);
          if (S::IS_PADDED || count_here >= LANES) store(to, result);
          else store_first(to, result, S::CHANNELS % LANES);
        }
      });
    }
  }
};

// weight and bias are padded to whole vectors. scratch: 3 * PADDED floats; shared: 2 * SHARED where there are chunks.
template <class S, class Epilogue>
void group_norm_channels(const Worker& worker, const float* x, float* y, const float* weight, const float* bias, float eps, float* shared, Epilogue epilogue) {
  using Parts = GroupNormChannels<S>;
  constexpr int PADDED = Parts::PADDED;
  constexpr long UNITS = static_cast<long>(S::IMAGES) * Parts::UNITS;
  float *sums = worker.scratch, *means = sums + PADDED, *scales = means + PADDED;
  const Range range = worker.split(UNITS * S::CHUNKS);
  // sums of chunks, then of their squared distances
  float *first = S::CHUNKS > 1 ? shared : sums, *second = S::CHUNKS > 1 ? shared + Parts::SHARED : sums;
  const auto place = [](long index) { return S::CHUNKS > 1 ? index * PADDED : 0; };
  if (S::CHUNKS > 1) {
    for (long index = range.begin; index < range.end; ++index)
      Parts::sum(Parts::unit(index / S::CHUNKS, x, y), Parts::positions(static_cast<int>(index % S::CHUNKS)), nullptr, first + place(index));
    worker.wait();
    for (long index = range.begin; index < range.end; ++index) {
      const auto unit = Parts::unit(index / S::CHUNKS, x, y);
      Parts::spread(unit, first + place(index / S::CHUNKS * S::CHUNKS), means);
      Parts::sum(unit, Parts::positions(static_cast<int>(index % S::CHUNKS)), means, second + place(index));
    }
    worker.wait();
  }
  for (long index = range.begin; index < range.end; ++index) {
    const auto unit = Parts::unit(index / S::CHUNKS, x, y);
    const Range positions = Parts::positions(static_cast<int>(index % S::CHUNKS));
    const long start = place(index / S::CHUNKS * S::CHUNKS);
    if (S::CHUNKS == 1) Parts::sum(unit, positions, nullptr, first);
    Parts::spread(unit, first + start, means);
    if (S::CHUNKS == 1) Parts::sum(unit, positions, means, second);
    Parts::spread(unit, second + start, scales);
    for (int c = 0; c < unit.channels; c += LANES) store(scales + c, rsqrt(load(scales + c) + splat(eps)) * load(weight + unit.channel + c));
    Parts::apply(unit, positions, means, scales, bias, epilogue);
  }
}

// ---- neighbours along w side by side -------------------------------------------------------------------------

// Distances of images, channels and rows.
struct PlaneStrides {
  long n, c, h;
};

// S has IMAGES, HEIGHT, WIDTH, CHANNELS, GROUPS; PlaneStrides X, Y; CHUNKS of the channels of a group.
template <class S> struct GroupNormPlanes {
  static constexpr int GROUP = S::CHANNELS / S::GROUPS;
  static constexpr int TAIL = S::WIDTH % LANES, VECTORS = S::WIDTH / LANES;  // of a row

  static Range channels(int group, int chunk) { return {group * GROUP + GROUP * static_cast<long>(chunk) / S::CHUNKS, group * GROUP + GROUP * (chunk + 1L) / S::CHUNKS}; }

  template <class F> static float sum(const float* x, Range channels, float fill, F f) {
    using namespace group_norm_parts;
    Vec total = zero();
    for (long c = channels.begin; c < channels.end; ++c) {
      Vec plane = zero();
      for (int h = 0; h < S::HEIGHT; ++h) {
        const float* row = x + c * S::X.c + h * S::X.h;
        for (long w = 0; w < VECTORS; w += SEGMENT) plane += sum_of(row + w * LANES, LANES, VECTORS - w < SEGMENT ? VECTORS - w : SEGMENT, f);
        if (TAIL) plane += f(load_first(row + VECTORS * LANES, TAIL, fill));
      }
      total += plane;
    }
    return sum_lanes(total);
  }

  static float mean(const float* sums) {
    float total = 0.0f;
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) total += sums[chunk];
    return total / (static_cast<float>(GROUP) * static_cast<float>(S::HEIGHT) * static_cast<float>(S::WIDTH));
  }

  template <class Epilogue>
  static void apply(const float* x, float* y, int n, Range channels, float mean, float scale, const float* weight, const float* bias, const Epilogue& epilogue) {
    const Vec middle = splat(mean);
    for (long c = channels.begin; c < channels.end; ++c) {
      const Vec factor = splat(scale * weight[c]), shift = splat(bias[c]);
      for (int h = 0; h < S::HEIGHT; ++h) {
        const float* from = x + c * S::X.c + h * S::X.h;
        float* to = y + c * S::Y.c + h * S::Y.h;
        for (int w = 0; w < VECTORS * LANES; w += LANES) store(to + w, epilogue(fma(load(from + w) - middle, factor, shift), n, static_cast<int>(c), h, w));
        if (TAIL) {
          const Vec v = fma(load_first(from + VECTORS * LANES, TAIL) - middle, factor, shift);
          store_first(to + VECTORS * LANES, epilogue(v, n, static_cast<int>(c), h, VECTORS * LANES), TAIL);
        }
      }
    }
  }
};

// One weight and bias per channel; shared: twice images * groups * chunks floats where there are chunks.
template <class S, class Epilogue>
void group_norm_planes(const Worker& worker, const float* x, float* y, const float* weight, const float* bias, float eps, float* shared, Epilogue epilogue) {
  using namespace group_norm_parts;
  using Parts = GroupNormPlanes<S>;
  constexpr long ITEMS = static_cast<long>(S::IMAGES) * S::GROUPS * S::CHUNKS;
  const Range range = worker.split(ITEMS);
  float own[2];
  float *first = S::CHUNKS > 1 ? shared : own, *second = S::CHUNKS > 1 ? shared + ITEMS : own + 1;
  const auto each = [&](auto f) {
    for (long index = range.begin; index < range.end; ++index) {
      const int chunk = static_cast<int>(index % S::CHUNKS), group = static_cast<int>(index / S::CHUNKS % S::GROUPS), n = static_cast<int>(index / S::CHUNKS / S::GROUPS);
      const long start = S::CHUNKS > 1 ? index - chunk : 0;  // of the sums of this group
      f(n, Parts::channels(group, chunk), first + start, second + start, chunk);
    }
  };
  const auto add_up = [&](int n, Range channels, float* sums, float*, int chunk) { sums[chunk] = Parts::sum(x + n * S::X.n, channels, 0.0f, Same{}); };
  const auto add_squares = [&](int n, Range channels, float* sums, float* squares, int chunk) {
    const float mean = Parts::mean(sums);
    squares[chunk] = Parts::sum(x + n * S::X.n, channels, mean, SquaredDistance{splat(mean)});
  };
  if (S::CHUNKS > 1) {
    each(add_up);
    worker.wait();
    each(add_squares);
    worker.wait();
  }
  each([&](int n, Range channels, float* sums, float* squares, int chunk) {
    if (S::CHUNKS == 1) {
      add_up(n, channels, sums, squares, chunk);
      add_squares(n, channels, sums, squares, chunk);
    }
    const float scale = 1.0f / __builtin_sqrtf(Parts::mean(squares) + eps);
    Parts::apply(x + n * S::X.n, y + n * S::Y.n, n, channels, Parts::mean(sums), scale, weight, bias, epilogue);
  });
}

}  // namespace graphopt
