// Sixteen lanes in one register of AVX-512.
#pragma once
#include <immintrin.h>

#include <cstring>

namespace fxquant {

constexpr int64_t WIDE = 4;  // registers of sums side by side in one tile of attention

struct Mask {
  __mmask16 bits;
};

struct Floats {
  __m512 v;
};

struct Words {
  __m512i v;
};

inline __mmask16 bits_of(Whole) { return 0xFFFF; }
inline __mmask16 bits_of(Tail tail) { return static_cast<__mmask16>((1u << std::min(tail.count, LANES)) - 1); }

inline Floats all(float x) { return {_mm512_set1_ps(x)}; }
inline Words all_words(int32_t x) { return {_mm512_set1_epi32(x)}; }

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Words operator-(Words a, Words b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Words operator*(Words a, Words b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline Words operator&(Words a, Words b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int BITS>
inline Words shift_right(Words a) { return {_mm512_srai_epi32(a.v, BITS)}; }  // the sign is repeated
template <int BITS>
inline Words shift_right_zeros(Words a) { return {_mm512_srli_epi32(a.v, BITS)}; }

inline Floats multiply_add(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats multiply_subtract(Floats a, Floats b, Floats c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
inline Floats subtract_product(Floats c, Floats a, Floats b) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Floats minimum(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats maximum(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Floats clamp_magnitude(Floats a, Floats limit) { return {_mm512_range_ps(a.v, limit.v, 2)}; }
inline Floats round_even(Floats a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Floats times_power_of_two(Floats a, Floats whole) { return {_mm512_scalef_ps(a.v, whole.v)}; }

inline Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask at_most(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask is_nan(Floats a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.bits | b.bits)}; }
inline Mask none() { return {0}; }
inline bool any(Mask m) { return m.bits != 0; }
inline Floats select(Mask m, Floats yes, Floats no) { return {_mm512_mask_blend_ps(m.bits, no.v, yes.v)}; }
inline Floats keep(Whole, Floats x) { return x; }
inline Floats keep(Tail tail, Floats x) { return {_mm512_maskz_mov_ps(bits_of(tail), x.v)}; }
inline Floats keep(Whole, Floats x, Floats) { return x; }
inline Floats keep(Tail tail, Floats x, Floats otherwise) { return {_mm512_mask_mov_ps(otherwise.v, bits_of(tail), x.v)}; }

inline Words round_to_words(Floats a) { return {_mm512_cvtps_epi32(a.v)}; }
inline Floats to_floats(Words a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Words bits_of(Floats a) { return {_mm512_castps_si512(a.v)}; }
inline Floats floats_of(Words a) { return {_mm512_castsi512_ps(a.v)}; }

inline Floats widen(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}

inline __m256i narrow(Floats x) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x.v);
#else
  return _mm512_cvtepi32_epi16(upper_half(x).v);
#endif
}

template <typename W>
inline Floats load(const float* p, W w) {
  touch(p, w);
  return {_mm512_maskz_loadu_ps(bits_of(w), p)};
}
inline Floats load(const float* p, Whole) { return {_mm512_loadu_ps(p)}; }
inline Floats load(const bf16* p, Whole) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Floats load(const bf16* p, Tail w) {
  touch(p, w);
  return widen(_mm256_maskz_loadu_epi16(bits_of(w), p));
}
inline Words load_words(const void* p, Whole) { return {_mm512_loadu_si512(p)}; }
inline Words load_words(const void* p, Tail w) {
  touch(static_cast<const int32_t*>(p), w);
  return {_mm512_maskz_loadu_epi32(bits_of(w), p)};
}

inline void store(float* p, Whole, Floats x) { _mm512_storeu_ps(p, x.v); }
inline void store(float* p, Tail w, Floats x) {
  touch(p, w);
  _mm512_mask_storeu_ps(p, bits_of(w), x.v);
}
inline void store(bf16* p, Whole, Floats x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store(bf16* p, Tail w, Floats x) {
  touch(p, w);
  _mm256_mask_storeu_epi16(p, bits_of(w), narrow(x));
}
inline void store_words(void* p, Words x) { _mm512_storeu_si512(p, x.v); }
// The low byte of each word.
inline void store_bytes(int8_t* p, Whole, Words x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
inline void store_bytes(int8_t* p, Tail w, Words x) {
  touch(p, w);
  _mm_mask_storeu_epi8(p, bits_of(w), _mm512_cvtepi32_epi8(x.v));
}

inline float total(Floats x) { return _mm512_reduce_add_ps(x.v); }
inline float smallest(Floats x) { return _mm512_reduce_min_ps(x.v); }
inline float largest(Floats x) { return _mm512_reduce_max_ps(x.v); }

// The entries of a table of 32 that the low five bits of the index name.
inline Floats look_up_32(const float* table, Words index) {
  return {_mm512_permutex2var_ps(_mm512_loadu_ps(table), index.v, _mm512_loadu_ps(table + 16))};
}
inline Floats gather(const float* table, Words index) { return {_mm512_i32gather_ps(index.v, table, 4)}; }

// A float64 sum of float32 lanes, or of their products, which are exact.
struct Sum {
  __m512d one = _mm512_setzero_pd(), two = _mm512_setzero_pd();

  void add(Floats a) {
    one = _mm512_add_pd(one, lower(a));
    two = _mm512_add_pd(two, upper(a));
  }
  void add(Floats a, Floats b) {
    one = _mm512_fmadd_pd(lower(a), lower(b), one);
    two = _mm512_fmadd_pd(upper(a), upper(b), two);
  }
  double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(one, two)); }

 private:
  static __m512d lower(Floats a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)); }
  static __m512d upper(Floats a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)); }
};

// Transpose 16 x 16 words in place.
inline void transpose(Words (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_epi32(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j].v = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1].v = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i].v, r[i + 4].v, 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i].v, r[i + 4].v, 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8].v, r[i + 12].v, 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8].v, r[i + 12].v, 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8].v = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4].v = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12].v = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// How attention computes products: `STEP` elements of the summed axis at a time, one of them a 32-bit word.
struct Float32 {
  using Element = float;
  static constexpr int64_t STEP = 1;
  static Floats dot(Floats acc, float left, const float* right) {
    return multiply_add(all(left), load(right, Whole{}), acc);
  }
};

#ifdef __AVX512BF16__
struct BFloat16 {
  using Element = bf16;
  static constexpr int64_t STEP = 2;
  static Floats dot(Floats acc, float left, const float* right) {
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_set1_ps(left), (__m512bh)_mm512_loadu_ps(right))};
  }
};
#else
using BFloat16 = Float32;  // the operands are widened: exact, at the speed of float32
#endif

}  // namespace fxquant
