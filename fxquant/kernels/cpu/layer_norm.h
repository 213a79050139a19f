// Layer norm of one row.
#pragma once
#include <cmath>

#include "vector.h"

namespace fxquant {

// `row` is scratch memory for the width rounded up to whole registers. `write(j, mask, y)` is given the values from column j.
template <typename T, typename Write>
inline void normalize_row(const T* x, int64_t width, const float* weight, const float* bias, float epsilon, float* row,
                          const Write& write) {
  const int64_t whole = width / LANES * LANES;
  const __mmask16 rest = tail_mask(width - whole);
  __m512 total = _mm512_setzero_ps();
  for (int64_t j = 0; j < whole; j += LANES) {
    const __m512 v = load(x + j, 0xFFFF);
    _mm512_storeu_ps(row + j, v);
    total = _mm512_add_ps(total, v);
  }
  if (rest != 0) {
    const __m512 v = load(x + whole, rest);
    _mm512_storeu_ps(row + whole, v);
    total = _mm512_add_ps(total, v);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / static_cast<float>(width));
  __m512 squares = _mm512_setzero_ps();
  for (int64_t j = 0; j < width; j += LANES) {
    __m512 d = _mm512_sub_ps(_mm512_loadu_ps(row + j), mean);
    if (j == whole) d = _mm512_maskz_mov_ps(rest, d);
    _mm512_storeu_ps(row + j, d);
    squares = _mm512_fmadd_ps(d, d, squares);
  }
  const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
  const __m512 inverse = _mm512_set1_ps(1.0f / std::sqrt(variance + epsilon));
  const auto finish = [&](int64_t j, __mmask16 mask) {
    __m512 y = _mm512_mul_ps(_mm512_loadu_ps(row + j), inverse);
    if (weight != nullptr) y = _mm512_mul_ps(y, load(weight + j, mask));
    if (bias != nullptr) y = _mm512_add_ps(y, load(bias + j, mask));
    write(j, mask, y);
  };
  for (int64_t j = 0; j < whole; j += LANES) finish(j, 0xFFFF);
  if (rest != 0) finish(whole, rest);
}

}  // namespace fxquant
