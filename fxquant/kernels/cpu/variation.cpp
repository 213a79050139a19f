// The operator `fxquant::cpu_variation`: the regulariser of one weight and its gradients, in two passes over the weight.
#include <array>
#include <cmath>
#include <tuple>

#include "check.h"
#include "learned_step.h"
#include "operator_list.h"

namespace {

using namespace fxquant;

constexpr int64_t BINS = 256, CHUNK = 16384, TURNS = 4;

// What is known of the weights of one code: how many there are, and sums of their distances from it.
struct Bin {
  double count, first, second;

  void add(const Bin& other) {
    count += other.count;
    first += other.first;
    second += other.second;
  }
};
using Bins = std::array<Bin, BINS>;

// What pulls the weights of each code towards each other: their mean distance, and 1 / (count - 1).
struct Pull {
  std::array<float, BINS> mean, share;
};

struct Clipped {
  Floats steps, clipped, distance;  // distance: from the code, as a weight
  Words bin;
};

Clipped clip(Floats weight, const Step& s) {
  const Floats steps = steps_of<false>(weight, s), clipped = clamp(steps, s), codes = round_even(clipped);
  const Words bin = round_to_words(codes) + all_words(BINS / 2);
  // What is no number has no code: it is kept within the table.
  return {steps, clipped, (clipped - codes) * s.scale, bin & all_words(BINS - 1)};
}

// The bins of the codes that there are.
struct Codes {
  int64_t first, last;
};

Codes codes_between(double low, double high) {
  if (!(low >= -BINS / 2 && low <= 0 && high >= 0 && high < BINS / 2) || low != std::floor(low) || high != std::floor(high))
    refuse("expected whole bounds from ", -BINS / 2, " to 0 and from 0 to ", BINS / 2 - 1, ", found ", low, " and ", high);
  return {static_cast<int64_t>(low) + BINS / 2, static_cast<int64_t>(high) + BINS / 2};
}

// Add the distances of `count` weights to those of their codes, and return the sum of their squares.
double gather(const float* weight, int64_t count, const Step& s, const Codes& codes, Bins& bins) {
  alignas(64) float distances[LANES];
  alignas(64) int32_t places[LANES];
  // Neighbours often have one code: each turn has sums of its own, so that none waits for the one before.
  Bins turns[TURNS];
  for (Bins& turn : turns) std::fill(&turn[codes.first], &turn[codes.last] + 1, Bin{});
  each_register(count, [&](int64_t j, auto which) {
    const Clipped c = clip(load(weight + j, which), s);
    store(distances, Whole{}, c.distance);
    store_words(places, c.bin);
    for (int64_t i = 0; i < std::min(LANES, count - j); ++i) {
      Bin& bin = turns[i % TURNS][places[i]];
      const double distance = distances[i];
      bin.count += 1;
      bin.first += distance;
      bin.second += distance * distance;
    }
  });
  double squares = 0;
  for (int64_t k = codes.first; k <= codes.last; ++k) {
    bins[k] = Bin{};
    for (const Bins& turn : turns) bins[k].add(turn[k]);
    squares += bins[k].second;
  }
  return squares;
}

// Return the sum of the variances of the codes that more than one weight has. published: of those that float32 division
// gives back.
double variances(const Bins& bins, const Codes& codes, float scale, bool published, Pull& pull) {
  double total = 0;
  for (int64_t k = codes.first; k <= codes.last; ++k) {
    pull.mean[k] = pull.share[k] = 0;
    const auto& [count, first, second] = bins[k];
    const float code = static_cast<float>(k - BINS / 2);
    if (count < 2 || (published && code * scale / scale != code)) continue;
    total += (second - first * first / count) / (count - 1);
    pull.mean[k] = static_cast<float>(first / count);
    pull.share[k] = static_cast<float>(1 / (count - 1));
  }
  return total;
}

// Write the gradient of each of `count` weights, of which `size` share the scale, and return that of the scale.
double pull_together(const float* weight, int64_t count, int64_t size, const Step& s, const Pull& pull, float* gradient) {
  const Floats two = all(2), each = all(static_cast<float>(size));
  Sum sum;
  each_register(count, [&](int64_t j, auto which) {
    const Clipped c = clip(load(weight + j, which), s);
    const Floats pulled = (c.distance - gather(pull.mean.data(), c.bin)) * gather(pull.share.data(), c.bin);
    const Floats slope = keep(which, two * c.distance / each + two * pulled);
    const Floats inside = all(1) - below(c.steps, s) - above(c.steps, s);
    store(gradient + j, which, slope * inside);
    sum.add(slope, c.clipped - inside * c.steps);
  });
  return sum.total();
}

Tensor read_weight(const Tensor& weight) {
  if (weight.scalar_type() != ScalarType::Float || weight.numel() == 0 || weight.dim() == 0)
    refuse("expected a weight in float32 with rows that are not empty, found ", show(weight));
  check_memory(weight, "the weight");
  return whole(weight);
}

std::tuple<Tensor, Tensor, Tensor> variation(Tensor weight, Tensor scale, Maybe limits, double low, double high,
                                             bool published) {
  weight = read_weight(weight);
  scale = read(scale, "the scale", ScalarType::Float, {ANY});
  const int64_t groups = scale.numel(), size = weight.numel() / std::max<int64_t>(1, groups);
  if (groups != 1 && (groups == 0 || groups != weight.size(0)))
    refuse("expected one scale or one for each of ", weight.size(0), " rows, found ", groups);
  limits = read(limits, "the limits", ScalarType::Float, {2, groups});
  const float bounds[] = {read_bound(low), read_bound(high)};
  if (!limits.has_value()) codes_between(low, high);
  const int64_t pieces = (size + CHUNK - 1) / CHUNK;
  Tensor value = make(scale, {}, ScalarType::Float), to_weight = torch::stable::empty_like(weight);
  Tensor to_scale = make(scale, {groups}, ScalarType::Float);
  const float *from = pointer<float>(weight), *scales = pointer<float>(scale), *ends = pointer<float>(limits);
  float* to = writable<float>(to_weight);
  std::vector<Bins> bins(pieces);
  std::vector<double> sums(pieces);
  double total = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const float least = ends != nullptr ? ends[g] : bounds[0];
    const float most = ends != nullptr ? ends[groups + g] : bounds[1];
    const Step step{all(scales[g]), all(0), all(least), all(most)};
    const auto each_piece = [&](const auto& work) {
      share(pieces, [&] {
        return [&](int64_t task) {
          const int64_t at = g * size + task * CHUNK, count = std::min(CHUNK, size - task * CHUNK);
          work(task, at, count);
        };
      });
    };
    const Codes codes = codes_between(least, most);
    each_piece([&](int64_t task, int64_t at, int64_t count) {
      sums[task] = gather(from + at, count, step, codes, bins[task]);
    });
    for (int64_t task = 0; task < pieces; ++task) total += sums[task] / size;
    for (int64_t task = 1; task < pieces; ++task)
      for (int64_t k = codes.first; k <= codes.last; ++k) bins[0][k].add(bins[task][k]);
    Pull pull;
    if (pieces > 0) total += variances(bins[0], codes, scales[g], published, pull);
    each_piece([&](int64_t task, int64_t at, int64_t count) {
      sums[task] = pull_together(from + at, count, size, step, pull, to + at);
    });
    double slope = 0;
    for (const double each : sums) slope += each;
    writable<float>(to_scale)[g] = static_cast<float>(slope);
  }
  *writable<float>(value) = static_cast<float>(total);
  return {value, to_weight, to_scale};
}

}  // namespace

namespace fxquant {

const Boxed boxed_variation = TORCH_BOX(&variation);

}  // namespace fxquant
