// The operator `fxquant::cpu_weight_scales`: from what the scale of a weight is trained, see `fxquant.numerics.learned_step`.
#include <cmath>

#include "check.h"
#include "learned_step.h"
#include "operator_list.h"

namespace {

using namespace fxquant;

constexpr int64_t WIDEST = 24, LONGEST = 1'000'000;  // bits that float32 holds; turns of a search

// Codes and scale take turns until the scale changes by less than `tolerance` of itself.
float fit(const float* weight, int64_t size, int64_t bits, float tolerance, int64_t rounds) {
  const float low = -std::ldexp(1.0f, static_cast<int>(bits) - 1), high = -low - 1;
  float scale = 0;
  for (int64_t i = 0; i < size; ++i) scale = std::max(scale, std::fabs(weight[i]));
  scale /= high;
  for (bool settled = !(scale > 0); !settled && rounds > 0; --rounds) {
    const Step step{all(scale), all(0), all(low), all(high)};
    Sum with_weights, with_codes;  // of the codes
    each_register(size, [&](int64_t j, auto which) {
      const Floats values = load(weight + j, which);
      const Floats codes = round_even(clamp(steps_of<false>(values, step), step));
      with_weights.add(values, codes);
      with_codes.add(codes, codes);
    });
    const float next = static_cast<float>(with_weights.total() / std::max(with_codes.total(), 1.0));
    settled = !(std::fabs(next - scale) >= tolerance * scale);  // what is no number stays none
    scale = next;
  }
  return scale;
}

// One for each of the widths, int64: these are what threads share, as they need not wait for each other.
Tensor weight_scales(Tensor weight, Tensor widths, double tolerance, int64_t rounds) {
  if (weight.scalar_type() != ScalarType::Float || weight.numel() == 0)
    refuse("expected a weight in float32 that is not empty, found ", show(weight));
  check_memory(weight, "the weight");
  weight = whole(weight);
  widths = read(widths, "widths", ScalarType::Long, {ANY});
  for (int64_t n = 0; n < widths.numel(); ++n) check_within(pointer<int64_t>(widths)[n], "a width", 2, WIDEST);
  const float least = read_float(tolerance, "the tolerance", 0);
  check_within(rounds, "rounds", 0, LONGEST);
  Tensor scales = make(weight, {widths.numel()}, ScalarType::Float);
  const float* values = pointer<float>(weight);
  const int64_t *bits = pointer<int64_t>(widths), size = weight.numel(), last = widths.numel() - 1;
  float* to = writable<float>(scales);
  share(last + 1, [&] {
    // The widest, which take the longest, come first.
    return [&](int64_t task) { to[last - task] = fit(values, size, bits[last - task], least, rounds); };
  });
  return scales;
}

}  // namespace

namespace fxquant {

const Boxed boxed_weight_scales = TORCH_BOX(&weight_scales);

}  // namespace fxquant
