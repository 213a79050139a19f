// Rounding to learned steps, and its gradients, on sixteen lanes: `fxquant.numerics.learned_step` operation for operation.
#pragma once
#include "vector.h"

namespace fxquant {

// What the values of one group are rounded by.
struct Step {
  Floats scale, zero_point, low, high;
};

// x / scale + zero_point
template <bool AFFINE>
inline Floats steps_of(Floats x, const Step& s) {
  const Floats steps = x / s.scale;
  return AFFINE ? steps + s.zero_point : steps;
}

// Of two values, one NaN, minimum and maximum are the second: NaN stays.
inline Floats clamp(Floats steps, const Step& s) { return minimum(s.high, maximum(s.low, steps)); }

// 1 where `strictly` holds, else 0.5 where `at_least` does, else 0.
inline Floats beyond(Mask strictly, Mask at_least) { return select(strictly, all(1), select(at_least, all(0.5f), all(0))); }

inline Floats below(Floats steps, const Step& s) { return beyond(less(steps, s.low), at_most(steps, s.low)); }
inline Floats above(Floats steps, const Step& s) { return beyond(less(s.high, steps), at_most(s.high, steps)); }

template <bool AFFINE>
inline Floats fake_quantize(Floats x, const Step& s) {
  Floats codes = round_even(clamp(steps_of<AFFINE>(x, s), s));
  if constexpr (AFFINE) codes = codes - s.zero_point;
  return codes * s.scale;
}

constexpr int SUMS = 4;  // gradients of scale, zero point, low and high

// Return the gradient of x, and add to the sums of one group.
template <bool AFFINE, bool BOUNDS, typename W>
inline Floats step_gradients(Floats x, Floats gradient, W which, const Step& s, Sum (&sums)[SUMS]) {
  const Floats steps = steps_of<AFFINE>(x, s);
  const Floats under = below(steps, s), over = above(steps, s);
  const Floats inside = all(1) - under - over;
  const Floats to_x = gradient * inside;
  Floats change = round_even(clamp(steps, s)), rest = steps;
  if constexpr (AFFINE) {
    change = change - s.zero_point;
    rest = steps - s.zero_point;
    sums[1].add(keep(which, to_x - gradient));
  }
  change = change - inside * rest;
  sums[0].add(gradient, keep(which, change));
  if constexpr (BOUNDS) {
    sums[2].add(gradient, under);
    sums[3].add(gradient, over);
  }
  return to_x;
}

}  // namespace fxquant
