// Sixteen lanes in two registers of AVX2.
#pragma once
#include <immintrin.h>

#include <cstring>

namespace fxquant {

constexpr int64_t WIDE = 1;  // registers of sums side by side in one tile of attention

struct Mask {
  __m256 low, high;  // all bits of a lane, or none
};

struct Floats {
  __m256 low, high;
};

struct Words {
  __m256i low, high;
};

inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Words all_words(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Words operator+(Words a, Words b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline Words operator-(Words a, Words b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
inline Words operator*(Words a, Words b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
inline Words operator&(Words a, Words b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
inline Words operator|(Words a, Words b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
template <int BITS>
inline Words shift_right(Words a) { return {_mm256_srai_epi32(a.low, BITS), _mm256_srai_epi32(a.high, BITS)}; }  // the sign is repeated
template <int BITS>
inline Words shift_right_zeros(Words a) { return {_mm256_srli_epi32(a.low, BITS), _mm256_srli_epi32(a.high, BITS)}; }

inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats multiply_subtract(Floats a, Floats b, Floats c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Floats subtract_product(Floats c, Floats a, Floats b) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
inline Floats minimum(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats maximum(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }

inline Words bits_of(Floats a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
inline Floats floats_of(Words a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
inline Floats magnitude(Floats a) { return floats_of(bits_of(a) & all_words(0x7FFFFFFF)); }
inline Floats clamp_magnitude(Floats a, Floats limit) {
  return floats_of(bits_of(minimum(magnitude(a), limit)) | (bits_of(a) & all_words(INT32_MIN)));
}
inline Floats round_even(Floats a) {
  constexpr int HOW = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, HOW), _mm256_round_ps(a.high, HOW)};
}
inline Words round_to_words(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
inline Floats to_floats(Words a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

// In two steps, the first of which is exact from 2^-126 on: small results round once.
inline Floats times_power_of_two(Floats a, Floats whole) {
  const auto power = [](Words exponent) {
    const Words biased = exponent + all_words(127);
    return Floats{_mm256_castsi256_ps(_mm256_slli_epi32(biased.low, 23)), _mm256_castsi256_ps(_mm256_slli_epi32(biased.high, 23))};
  };
  const Words exponent = round_to_words(whole), half = shift_right<1>(exponent);
  return a * power(half) * power(exponent - half);
}

template <int HOW>
inline Mask compare(Floats a, Floats b) { return {_mm256_cmp_ps(a.low, b.low, HOW), _mm256_cmp_ps(a.high, b.high, HOW)}; }
inline Mask less(Floats a, Floats b) { return compare<_CMP_LT_OQ>(a, b); }
inline Mask at_most(Floats a, Floats b) { return compare<_CMP_LE_OQ>(a, b); }
inline Mask is_nan(Floats a) { return compare<_CMP_UNORD_Q>(a, a); }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)}; }
inline Mask none() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline bool any(Mask m) { return _mm256_movemask_ps(_mm256_or_ps(m.low, m.high)) != 0; }
inline Floats select(Mask m, Floats yes, Floats no) {
  return {_mm256_blendv_ps(no.low, yes.low, m.low), _mm256_blendv_ps(no.high, yes.high, m.high)};
}
inline Words mask_of(Tail tail) {
  const __m256i count = _mm256_set1_epi32(static_cast<int32_t>(std::min(tail.count, LANES)));
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline Floats keep(Whole, Floats x) { return x; }
inline Floats keep(Tail tail, Floats x) { return floats_of(bits_of(x) & mask_of(tail)); }
inline Floats keep(Whole, Floats x, Floats) { return x; }
inline Floats keep(Tail tail, Floats x, Floats otherwise) {
  const Floats mask = floats_of(mask_of(tail));
  return select({mask.low, mask.high}, x, otherwise);
}

struct Halves {
  __m128i low, high;
};

inline Floats widen(Halves halves) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves.low), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves.high), 16))};
}
inline Halves narrow(Floats x) {
  const Words upper = upper_half(x);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(upper.low, upper.high), 0xD8);
  return {_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)};
}

inline Floats load(const float* p, Whole) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Floats load(const float* p, Tail w) {
  touch(p, w);
  const Words mask = mask_of(w);
  return {_mm256_maskload_ps(p, mask.low), _mm256_maskload_ps(p + 8, mask.high)};
}
inline Halves load_halves(const bf16* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8))};
}
inline Floats load(const bf16* p, Whole) { return widen(load_halves(p)); }
inline Floats load(const bf16* p, Tail w) {
  bf16 values[LANES] = {};
  std::memcpy(values, p, std::min(w.count, LANES) * sizeof(bf16));
  return widen(load_halves(values));
}
inline Words load_words(const void* p, Whole) { return bits_of(load(static_cast<const float*>(p), Whole{})); }
inline Words load_words(const void* p, Tail w) { return bits_of(load(static_cast<const float*>(p), w)); }

inline void store(float* p, Whole, Floats x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline void store(float* p, Tail w, Floats x) {
  touch(p, w);
  const Words mask = mask_of(w);
  _mm256_maskstore_ps(p, mask.low, x.low);
  _mm256_maskstore_ps(p + 8, mask.high, x.high);
}
inline void store(bf16* p, Whole, Floats x) {
  const Halves halves = narrow(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves.low);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), halves.high);
}
inline void store(bf16* p, Tail w, Floats x) {
  bf16 values[LANES];
  store(values, Whole{}, x);
  std::memcpy(p, values, std::min(w.count, LANES) * sizeof(bf16));
}
inline void store_words(void* p, Words x) { store(static_cast<float*>(p), Whole{}, floats_of(x)); }
// The low byte of each word, which holds one of int8.
inline void store_bytes(int8_t* p, Whole, Words x) {
  const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline void store_bytes(int8_t* p, Tail w, Words x) {
  int8_t values[LANES];
  store_bytes(values, Whole{}, x);
  std::memcpy(p, values, std::min(w.count, LANES));
}

// The order of AVX-512's reductions: halves, quarters, pairs.
template <typename Join>
inline float reduce(Floats x, const Join& join) {
  const __m256 eight = join(x.high, x.low);
  const __m256 four = join(_mm256_permute2f128_ps(eight, eight, 0x01), eight);
  const __m256 two = join(_mm256_permute_ps(four, 0x4E), four);
  return _mm256_cvtss_f32(join(_mm256_permute_ps(two, 0xB1), two));
}
inline float total(Floats x) { return reduce(x, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); }); }
inline float smallest(Floats x) { return reduce(x, [](__m256 a, __m256 b) { return _mm256_min_ps(a, b); }); }
inline float largest(Floats x) { return reduce(x, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); }); }

// The entries of a table of 32 that the low five bits of the index name.
inline Floats look_up_32(const float* table, Words index) {
  const auto eight = [&](__m256i at) {
    const auto part = [&](int first) { return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + first), at); };
    const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)), bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 27));
    return _mm256_blendv_ps(_mm256_blendv_ps(part(0), part(8), bit3), _mm256_blendv_ps(part(16), part(24), bit3), bit4);
  };
  return {eight(index.low), eight(index.high)};
}
inline Floats gather(const float* table, Words index) {
  return {_mm256_i32gather_ps(table, index.low, 4), _mm256_i32gather_ps(table, index.high, 4)};
}

// A float64 sum of float32 lanes, or of their products, which are exact.
struct Sum {
  __m256d parts[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};

  void add(Floats a) {
    for (int i = 0; i < 4; ++i) parts[i] = _mm256_add_pd(parts[i], quarter(a, i));
  }
  void add(Floats a, Floats b) {
    for (int i = 0; i < 4; ++i) parts[i] = _mm256_fmadd_pd(quarter(a, i), quarter(b, i), parts[i]);
  }
  double total() const {
    const __m256d four = _mm256_add_pd(_mm256_add_pd(parts[1], parts[3]), _mm256_add_pd(parts[0], parts[2]));
    const __m128d two = _mm_add_pd(_mm256_extractf128_pd(four, 1), _mm256_castpd256_pd128(four));
    return _mm_cvtsd_f64(_mm_add_sd(_mm_unpackhi_pd(two, two), two));
  }

 private:
  static __m256d quarter(Floats a, int i) {
    const __m256 half = i < 2 ? a.low : a.high;
    return _mm256_cvtps_pd(i % 2 == 0 ? _mm256_castps256_ps128(half) : _mm256_extractf128_ps(half, 1));
  }
};

// Transpose 8 x 8 words in place.
inline void transpose(__m256i (&r)[8]) {
  __m256i t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// Transpose 16 x 16 words in place, a quarter at a time.
inline void transpose(Words (&r)[16]) {
  __m256i quarters[2][2][8];
  for (int i = 0; i < 16; ++i) {
    quarters[i / 8][0][i % 8] = r[i].low;
    quarters[i / 8][1][i % 8] = r[i].high;
  }
  for (auto& half : quarters)
    for (auto& quarter : half) transpose(quarter);
  for (int i = 0; i < 16; ++i) r[i] = {quarters[0][i / 8][i % 8], quarters[1][i / 8][i % 8]};
}

// How attention computes products: `STEP` elements of the summed axis at a time, one of them a 32-bit word.
struct Float32 {
  using Element = float;
  static constexpr int64_t STEP = 1;
  static Floats dot(Floats acc, float left, const float* right) {
    return multiply_add(all(left), load(right, Whole{}), acc);
  }
};
using BFloat16 = Float32;  // the operands are widened: exact, at the speed of float32

}  // namespace fxquant
