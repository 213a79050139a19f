// Sixteen float32 lanes: loads and stores of each dtype, rounding as torch rounds, quantisers, exp and activations.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fxquant {

using bf16 = uint16_t;
constexpr int64_t LANES = 16;

inline __mmask16 tail_mask(int64_t count) {
  return count >= LANES ? 0xFFFF : static_cast<__mmask16>((1u << (count > 0 ? count : 0)) - 1);
}

// Call `f(column, mask)` for each register of a row. Whole ones have a constant mask, for which compilers make plain stores.
template <typename F>
inline void each_register(int64_t width, const F& f) {
  const int64_t whole = width / LANES * LANES;
  for (int64_t j = 0; j < whole; j += LANES) f(j, __mmask16{0xFFFF});
  if (whole < width) f(whole, tail_mask(width - whole));
}

// The address sanitizer does not see masked loads and stores: where it is on, read each element of theirs on its own first.
template <typename T>
inline void touch([[maybe_unused]] const T* p, [[maybe_unused]] __mmask16 mask) {
#ifdef __SANITIZE_ADDRESS__
  for (uint64_t byte = 0; byte < LANES * sizeof(T); ++byte)
    if (mask >> byte / sizeof(T) & 1) static_cast<void>(reinterpret_cast<const volatile int8_t*>(p)[byte]);
#endif
}

inline __m512 load(const float* p, __mmask16 mask) {
  touch(p, mask);
  return _mm512_maskz_loadu_ps(mask, p);
}

inline __m512 widen(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline __m512 load(const bf16* p, __mmask16 mask) {
  touch(p, mask);
  return widen(_mm256_maskz_loadu_epi16(mask, p));
}

// Words of 4 bytes of whatever type.
inline __m512i load_words(const void* p, __mmask16 mask) {
  touch(static_cast<const int32_t*>(p), mask);
  return _mm512_maskz_loadu_epi32(mask, p);
}

inline __m256i narrow(__m512 x) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  // Round half to even on the upper 16 bits.
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

inline void store(float* p, __mmask16 mask, __m512 x) {
  touch(p, mask);
  _mm512_mask_storeu_ps(p, mask, x);
}
inline void store(bf16* p, __mmask16 mask, __m512 x) {
  touch(p, mask);
  _mm256_mask_storeu_epi16(p, mask, narrow(x));
}

// Round to the dtype that the values between two operators have.
template <typename T>
inline __m512 round_to(__m512 x);
template <>
inline __m512 round_to<float>(__m512 x) { return x; }
template <>
inline __m512 round_to<bf16>(__m512 x) { return widen(narrow(x)); }

// x / scale, correctly rounded: one Newton step on the remainder (Markstein 1990), a third of the time of a division. Beyond
// 2^24 it only has to stay there, infinite or not.
inline __m512 divide(__m512 x, __m512 scale, __m512 reciprocal) {
  constexpr int SMALLER_MAGNITUDE = 2;  // with the sign of the first
  const __m512 quotient = _mm512_range_ps(_mm512_mul_ps(x, reciprocal), _mm512_set1_ps(16777216.0f), SMALLER_MAGNITUDE);
  const __m512 remainder = _mm512_fnmadd_ps(quotient, scale, x);
  return _mm512_fmadd_ps(remainder, reciprocal, quotient);
}

// A quantiser of one scale: uniform, or twin-uniform where `low` is not zero. `offset`: unsigned 8-bit codes are stored minus it.
struct Quantizer {
  float scale, low, split, zero_point, qmin, qmax;
  int32_t offset;
  const float* noise;  // one value per column, or null
};

template <bool TWIN>
inline __m128i quantize(__m512 x, const Quantizer& q) {
  __m512 steps;
  if constexpr (TWIN) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(q.split), _CMP_GE_OQ);
    const __m512 scale = _mm512_mask_blend_ps(above, _mm512_set1_ps(q.low), _mm512_set1_ps(q.scale));
    const __m512 reciprocal = _mm512_mask_blend_ps(above, _mm512_set1_ps(1.0f / q.low), _mm512_set1_ps(1.0f / q.scale));
    steps = divide(x, scale, reciprocal);
  } else {
    steps = divide(x, _mm512_set1_ps(q.scale), _mm512_set1_ps(1.0f / q.scale));
    steps = _mm512_add_ps(steps, _mm512_set1_ps(q.zero_point));
  }
  steps = _mm512_min_ps(_mm512_max_ps(steps, _mm512_set1_ps(q.qmin)), _mm512_set1_ps(q.qmax));
  const __m512i codes = _mm512_cvtps_epi32(steps);  // rounds half to even
  return _mm512_cvtepi32_epi8(_mm512_sub_epi32(codes, _mm512_set1_epi32(q.offset)));
}

template <bool TWIN>
inline void store_codes(int8_t* p, __mmask16 mask, __m512 x, const Quantizer& q, int64_t column) {
  if (q.noise != nullptr) x = _mm512_add_ps(x, load(q.noise + column, mask));
  touch(p, mask);
  _mm_mask_storeu_epi8(p, mask, quantize<TWIN>(x, q));
}

// 2^x for x <= 0, to a few units in the last place.
inline __m512 exp2_negative(__m512 x) {
  const __m512 y = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
  const __m512 whole = _mm512_roundscale_ps(y, 8), f = _mm512_sub_ps(y, whole);
  // Chebyshev interpolation of 2^f, |f| <= 1/2.
  __m512 p = _mm512_set1_ps(1.34004e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.67604e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550327e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022107e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314721e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// Transpose 16 x 16 words in place.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// max(x, 0) - r(|x|), where r is a cubic on each of 32 segments of width `STEP`: see fxquant/kernels/activation_table.py.
constexpr int64_t SEGMENTS = 32, TABLE_ROWS = 4;  // a row of coefficients for each power
constexpr float STEP = 0.171875f;

inline __m512 activate(__m512 x, const float* table) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to an integer
  const __m512 t = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(STEP * (SEGMENTS - 0.75f)));
  const __m512 shifted = _mm512_fmadd_ps(t, _mm512_set1_ps(1.0f / STEP), magic);
  const __m512i index = _mm512_castps_si512(shifted);
  const __m512 d = _mm512_fnmadd_ps(_mm512_sub_ps(shifted, magic), _mm512_set1_ps(STEP), t);
  const auto coefficient = [&](int degree) {
    const float* row = table + degree * SEGMENTS;
    return _mm512_permutex2var_ps(_mm512_loadu_ps(row), index, _mm512_loadu_ps(row + LANES));
  };
  __m512 r = coefficient(3);
  r = _mm512_fmadd_ps(r, d, coefficient(2));
  r = _mm512_fmadd_ps(r, d, coefficient(1));
  r = _mm512_fmadd_ps(r, d, coefficient(0));
  return _mm512_sub_ps(_mm512_max_ps(x, _mm512_setzero_ps()), r);
}

}  // namespace fxquant
