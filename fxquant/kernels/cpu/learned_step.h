// Rounding to learned steps, and its gradients, on sixteen lanes: `fxquant.numerics.learned_step` operation for operation.
#pragma once
#include "vector.h"

namespace fxquant {

// What the values of one group are rounded by.
struct Step {
  __m512 scale, zero_point, low, high;
};

// x / scale + zero_point
template <bool AFFINE>
inline __m512 steps_of(__m512 x, const Step& s) {
  const __m512 steps = _mm512_div_ps(x, s.scale);
  return AFFINE ? _mm512_add_ps(steps, s.zero_point) : steps;
}

// Of two values, one NaN, min and max return the second: NaN stays.
inline __m512 clamp(__m512 steps, const Step& s) { return _mm512_min_ps(s.high, _mm512_max_ps(s.low, steps)); }

inline __m512 round_even(__m512 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// 1 where `strictly` holds, else 0.5 where `at_most` does, else 0.
inline __m512 beyond(__mmask16 strictly, __mmask16 at_most) {
  const __m512 half = _mm512_set1_ps(0.5f), some = _mm512_maskz_mov_ps(at_most, half);
  return _mm512_mask_add_ps(some, strictly, some, half);
}

inline __m512 below(__m512 steps, const Step& s) {
  return beyond(_mm512_cmp_ps_mask(steps, s.low, _CMP_LT_OQ), _mm512_cmp_ps_mask(steps, s.low, _CMP_LE_OQ));
}

inline __m512 above(__m512 steps, const Step& s) {
  return beyond(_mm512_cmp_ps_mask(steps, s.high, _CMP_GT_OQ), _mm512_cmp_ps_mask(steps, s.high, _CMP_GE_OQ));
}

template <bool AFFINE>
inline __m512 fake_quantize(__m512 x, const Step& s) {
  __m512 codes = round_even(clamp(steps_of<AFFINE>(x, s), s));
  if constexpr (AFFINE) codes = _mm512_sub_ps(codes, s.zero_point);
  return _mm512_mul_ps(codes, s.scale);
}

// A float64 sum of float32 lanes, or of their products, which are exact.
struct Sum {
  __m512d one = _mm512_setzero_pd(), two = _mm512_setzero_pd();

  void add(__m512 a) {
    one = _mm512_add_pd(one, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
    two = _mm512_add_pd(two, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
  }
  void add(__m512 a, __m512 b) {
    one = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_castps512_ps256(b)), one);
    two = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1)), two);
  }
  double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(one, two)); }
};

constexpr int SUMS = 4;  // gradients of scale, zero point, low and high

// Return the gradient of x, and add to the sums of one group.
template <bool AFFINE, bool BOUNDS>
inline __m512 step_gradients(__m512 x, __m512 gradient, __mmask16 mask, const Step& s, Sum (&sums)[SUMS]) {
  const __m512 steps = steps_of<AFFINE>(x, s);
  const __m512 under = below(steps, s), over = above(steps, s);
  const __m512 inside = _mm512_sub_ps(_mm512_sub_ps(_mm512_set1_ps(1.0f), under), over);
  const __m512 to_x = _mm512_mul_ps(gradient, inside);
  __m512 change = round_even(clamp(steps, s)), rest = steps;
  if constexpr (AFFINE) {
    change = _mm512_sub_ps(change, s.zero_point);
    rest = _mm512_sub_ps(steps, s.zero_point);
    sums[1].add(_mm512_maskz_sub_ps(mask, to_x, gradient));
  }
  change = _mm512_sub_ps(change, _mm512_mul_ps(inside, rest));
  sums[0].add(gradient, _mm512_maskz_mov_ps(mask, change));
  if constexpr (BOUNDS) {
    sums[2].add(gradient, under);
    sums[3].add(gradient, over);
  }
  return to_x;
}

}  // namespace fxquant
