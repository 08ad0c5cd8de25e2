// Group norm (instance norm: one channel per group): y = (x - mean) / sqrt(variance + eps) * weight + bias, with mean and
// variance over the channels of a group and all positions of an image.
//
//   group_norm_channels   16 channels side by side: sums are kept per channel, then added up by group
//   group_norm_planes     16 neighbours along w side by side
//
// Two passes in partial sums of at most 256 terms: a mean, then with d = x - mean the sums of d^2 and of d, which corrects
// the mean (Chan, Golub and LeVeque, "Algorithms for computing the sample variance"). Where there are too few groups
// for several workers a group is cut into CHUNKS (a number that does not depend on how many workers there are), whose
// sums are added up in order.
#pragma once

#include "epilogue.hpp"
#include "math.hpp"
#include "runtime.hpp"

namespace graphopt {

namespace group_norm_parts {

constexpr long SEGMENT = 256;  // terms of a partial sum of one lane

// NormSums of vectors, or of their distances from `mean` and the squares of those.
struct NormSums {
  Vec of, squares;
};

// Adds `count` vectors `step` floats apart.
template <bool SQUARES> GRAPHOPT_INLINE void add_up(const float* x, long step, long count, Vec mean, NormSums& total) {
  Vec sums[4] = {zero(), zero(), zero(), zero()}, squares[4] = {zero(), zero(), zero(), zero()};
  const auto add = [&](const float* p, int j) __attribute__((always_inline)) {
    const Vec d = SQUARES ? load(p) - mean : load(p);
    sums[j] += d;
    if (SQUARES) squares[j] = fma(d, d, squares[j]);
  };
  long i = 0;
  for (; i + 4 <= count; i += 4) {
    add(x + i * step, 0);
    add(x + (i + 1) * step, 1);
    add(x + (i + 2) * step, 2);
    add(x + (i + 3) * step, 3);
  }
  for (; i < count; ++i) add(x + i * step, 0);
  total.of += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  if (SQUARES) total.squares += (squares[0] + squares[1]) + (squares[2] + squares[3]);
}

// The same for `lanes` lanes of one vector; the others stay 0.
template <bool SQUARES> GRAPHOPT_INLINE void add_first(const float* x, int lanes, float mean, NormSums& total) {
  const Vec d = SQUARES ? load_first(x, lanes, mean) - splat(mean) : load_first(x, lanes);
  total.of += d;
  if (SQUARES) total.squares = fma(d, d, total.squares);
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

  // NormSums per channel: of x, or of distances from `means` and, PADDED further, of their squares. Lanes behind the last
  // channel are junk.
  template <bool SQUARES> static void sum(const Unit& of, Range range, const float* means, float* sums) {
    using namespace group_norm_parts;
    for (int c = 0; c < of.channels; c += LANES) {
      const float* x = of.x + c / LANES * S::X.block;
      const Vec mean = SQUARES ? load(means + c) : zero();
      const bool is_tail = of.channels - c < LANES;  // a whole vector of the last position could lie beyond the memory
      NormSums total{zero(), zero()};
      stretches(range, [&](int h, int w, int count) {
        const float* p = x + h * S::X.h + w * S::X.w;
        if (is_tail) {
          for (int i = 0; i < count; ++i) {
            const Vec d = load_first(p + i * S::X.w, S::CHANNELS % LANES) - mean;
            total.of += d;
            if (SQUARES) total.squares = fma(d, d, total.squares);
          }
        } else {
          add_up<SQUARES>(p, S::X.w, count, mean, total);
        }
      });
      store(sums + c, total.of);
      if (SQUARES) store(sums + PADDED + c, total.squares);
    }
  }

  // Each channel gets the mean over its group: sums of all chunks, `step` apart, added up in order.
  static void spread(const Unit& of, const float* sums, long step, float* means) {
    for (int first = 0; first < of.channels; first += GROUP) {
      float total = 0.0f;
      for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
        float part = 0.0f;
        for (int c = first; c < first + GROUP; ++c) part += sums[chunk * step + c];
        total += part;
      }
      for (int c = first; c < first + GROUP; ++c) means[c] = total / (static_cast<float>(GROUP) * static_cast<float>(POSITIONS));
    }
  }

  // Mean distance from the mean, and mean square, to the numbers that a distance is multiplied by and shifted by.
  static void finish(const Unit& of, float* distances, float* squares, const float* weight, const float* bias, float eps) {
    for (int c = 0; c < of.channels; c += LANES) {
      const Vec d = load(distances + c), variance = load(squares + c) - d * d;
      const Vec scale = rsqrt(variance + splat(eps)) * load(weight + of.channel + c);
      store(squares + c, scale);
      store(distances + c, load(bias + of.channel + c) - d * scale);
    }
  }

  template <class Epilogue>
  static void apply(const Unit& of, Range range, const float* means, const float* scales, const float* shifts, const Epilogue& epilogue) {
    for (int c = 0; c < of.channels; c += LANES) {
      const float* x = of.x + c / LANES * S::X.block;
      float* y = of.y + c / LANES * S::Y.block;
      const int count_here = of.channels - c;
      const Vec mean = load(means + c), scale = load(scales + c), shift = load(shifts + c);
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

// weight and bias are padded to whole vectors. scratch: 5 * PADDED floats; shared: 3 * SHARED where there are chunks.
template <class S, class Epilogue>
void group_norm_channels(const Worker& worker, const float* x, float* y, const float* weight, const float* bias, float eps, float* shared, Epilogue epilogue) {
  using Parts = GroupNormChannels<S>;
  constexpr long PADDED = Parts::PADDED, UNITS = static_cast<long>(S::IMAGES) * Parts::UNITS;
  float *means = worker.scratch, *shifts = means + PADDED, *scales = shifts + PADDED;
  const Range range = worker.split(UNITS * S::CHUNKS);
  // sums of chunks, then sums of distances and squares
  float* first = S::CHUNKS > 1 ? shared : scales + PADDED;
  float* second = S::CHUNKS > 1 ? shared + Parts::SHARED : scales + PADDED;
  const auto unit_of = [&](long index) { return Parts::unit(index / S::CHUNKS, x, y); };
  const auto positions_of = [](long index) { return Parts::positions(static_cast<int>(index % S::CHUNKS)); };
  const auto start = [](long index) { return S::CHUNKS > 1 ? index / S::CHUNKS * S::CHUNKS * PADDED : 0; };
  const auto place = [](long index) { return S::CHUNKS > 1 ? index * PADDED : 0; };
  if (S::CHUNKS > 1) {
    for (long index = range.begin; index < range.end; ++index) Parts::template sum<false>(unit_of(index), positions_of(index), nullptr, first + place(index));
    worker.wait();
    for (long index = range.begin; index < range.end; ++index) {
      Parts::spread(unit_of(index), first + start(index), PADDED, means);
      Parts::template sum<true>(unit_of(index), positions_of(index), means, second + 2 * place(index));
    }
    worker.wait();
  }
  for (long index = range.begin; index < range.end; ++index) {
    const auto unit = unit_of(index);
    if (S::CHUNKS == 1) Parts::template sum<false>(unit, positions_of(index), nullptr, first);
    Parts::spread(unit, first + start(index), PADDED, means);
    if (S::CHUNKS == 1) Parts::template sum<true>(unit, positions_of(index), means, second);
    Parts::spread(unit, second + 2 * start(index), 2 * PADDED, shifts);
    Parts::spread(unit, second + 2 * start(index) + PADDED, 2 * PADDED, scales);
    Parts::finish(unit, shifts, scales, weight, bias, eps);
    Parts::apply(unit, positions_of(index), means, scales, shifts, epilogue);
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
  static constexpr long COUNT = S::CHUNKS > 1 ? static_cast<long>(S::IMAGES) * S::GROUPS * S::CHUNKS : 1;  // sums of one kind

  static Range channels(int group, int chunk) { return {group * GROUP + GROUP * static_cast<long>(chunk) / S::CHUNKS, group * GROUP + GROUP * (chunk + 1L) / S::CHUNKS}; }

  // Sum of x to sums[0], or of distances from the mean, and of their squares to sums[COUNT].
  template <bool SQUARES> static void sum(const float* x, Range channels, float mean, float* sums) {
    using namespace group_norm_parts;
    const Vec middle = splat(mean);
    NormSums total{zero(), zero()};
    for (long c = channels.begin; c < channels.end; ++c) {
      NormSums plane{zero(), zero()};
      for (int h = 0; h < S::HEIGHT; ++h) {
        const float* row = x + c * S::X.c + h * S::X.h;
        for (long w = 0; w < VECTORS; w += SEGMENT) add_up<SQUARES>(row + w * LANES, LANES, VECTORS - w < SEGMENT ? VECTORS - w : SEGMENT, middle, plane);
        if (TAIL) add_first<SQUARES>(row + VECTORS * LANES, TAIL, mean, plane);
      }
      total.of += plane.of;
      total.squares += plane.squares;
    }
    sums[0] = sum_lanes(total.of);
    if (SQUARES) sums[COUNT] = sum_lanes(total.squares);
  }

  static float mean(const float* sums) {
    float total = 0.0f;
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) total += sums[chunk];
    return total / (static_cast<float>(GROUP) * static_cast<float>(S::HEIGHT) * static_cast<float>(S::WIDTH));
  }

  template <class Epilogue>
  static void apply(const float* x, float* y, int n, Range channels, float mean, float distance, float scale, const float* weight, const float* bias,
                    const Epilogue& epilogue) {
    const Vec middle = splat(mean);
    for (long c = channels.begin; c < channels.end; ++c) {
      const Vec factor = splat(scale * weight[c]), shift = splat(bias[c] - distance * (scale * weight[c]));
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

// One weight and bias per channel; shared: three times images * groups * chunks floats where there are chunks.
template <class S, class Epilogue>
void group_norm_planes(const Worker& worker, const float* x, float* y, const float* weight, const float* bias, float eps, float* shared, Epilogue epilogue) {
  using Parts = GroupNormPlanes<S>;
  const Range range = worker.split(static_cast<long>(S::IMAGES) * S::GROUPS * S::CHUNKS);
  float own[3];
  float *first = S::CHUNKS > 1 ? shared : own, *distances = first + Parts::COUNT, *squares = distances + Parts::COUNT;
  const auto each = [&](auto f) {
    for (long index = range.begin; index < range.end; ++index) {
      const int chunk = static_cast<int>(index % S::CHUNKS), group = static_cast<int>(index / S::CHUNKS % S::GROUPS);
      f(static_cast<int>(index / S::CHUNKS / S::GROUPS), Parts::channels(group, chunk), S::CHUNKS > 1 ? index - chunk : 0, chunk);
    }
  };
  const auto sum = [&](int n, Range channels, long start, int chunk) { Parts::template sum<false>(x + n * S::X.n, channels, 0.0f, first + start + chunk); };
  const auto sum_squares = [&](int n, Range channels, long start, int chunk) {
    Parts::template sum<true>(x + n * S::X.n, channels, Parts::mean(first + start), distances + start + chunk);
  };
  if (S::CHUNKS > 1) {
    each(sum);
    worker.wait();
    each(sum_squares);
    worker.wait();
  }
  each([&](int n, Range channels, long start, int chunk) {
    if (S::CHUNKS == 1) {
      sum(n, channels, start, chunk);
      sum_squares(n, channels, start, chunk);
    }
    const float distance = Parts::mean(distances + start);
    const float scale = 1.0f / __builtin_sqrtf(Parts::mean(squares + start) - distance * distance + eps);
    Parts::apply(x + n * S::X.n, y + n * S::Y.n, n, channels, Parts::mean(first + start), distance, scale, weight, bias, epilogue);
  });
}

}  // namespace graphopt
