// Layer norm of one row.
#pragma once
#include <cmath>

#include "vector.h"

namespace fxquant {

// `row` is scratch memory for the width rounded up to whole registers. `write(j, mask, y)` is given the values from column j.
template <typename T, typename Write>
inline void normalize_row(const T* x, int64_t width, const float* weight, const float* bias, float epsilon, float* row,
                          const Write& write) {
  __m512 total = _mm512_setzero_ps();
  each_register(width, [&](int64_t j, __mmask16 mask) {
    const __m512 v = load(x + j, mask);
    _mm512_storeu_ps(row + j, v);
    total = _mm512_add_ps(total, v);
  });
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / static_cast<float>(width));
  __m512 squares = _mm512_setzero_ps();
  each_register(width, [&](int64_t j, __mmask16 mask) {
    const __m512 d = _mm512_maskz_sub_ps(mask, _mm512_loadu_ps(row + j), mean);
    _mm512_storeu_ps(row + j, d);
    squares = _mm512_fmadd_ps(d, d, squares);
  });
  const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
  const __m512 inverse = _mm512_set1_ps(1.0f / std::sqrt(variance + epsilon));
  each_register(width, [&](int64_t j, __mmask16 mask) {
    __m512 y = _mm512_mul_ps(_mm512_loadu_ps(row + j), inverse);
    if (weight != nullptr) y = _mm512_mul_ps(y, load(weight + j, mask));
    if (bias != nullptr) y = _mm512_add_ps(y, load(bias + j, mask));
    write(j, mask, y);
  });
}

}  // namespace fxquant
