// Products of codes in registers of 256 bits: by AVX-VNNI, or without it by products of 16 bits, whose sums never saturate.
#pragma once

namespace fxquant {

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)

constexpr int64_t TILE_ROWS = 6;  // 6 x 2 registers of sums, 2 of weights, 1 of codes: 15 of 16

// acc + four products of unsigned and signed bytes for each lane.
inline __m256i dot(__m256i acc, __m256i codes, __m256i weights) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(acc, codes, weights);
#else
  return _mm256_dpbusd_epi32(acc, codes, weights);
#endif
}

// Four codes of one row in every lane, as unsigned bytes.
template <Codes KIND>
inline __m256i broadcast_codes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const __m256i x = _mm256_set1_epi32(four), zero = _mm256_setzero_si256();
  if constexpr (KIND == Codes::SHIFTED) return _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
  if constexpr (KIND == Codes::POSITIVE) return _mm256_max_epi8(x, zero);
  return _mm256_sub_epi8(zero, _mm256_min_epi8(x, zero));
}

template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  for (int64_t j = 0; j < vectors; ++j, panel += 64, start += LANES, sums += LANES) {
    const auto word = [](const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); };
    __m256i acc[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      acc[i][0] = word(start);
      acc[i][1] = word(start + 8);
    }
    for (int64_t k = 0; k < depth; k += 4) {
      const int8_t* at = panel + k / 4 * vectors * 64;
      const __m256i low = word(at), high = word(at + 32);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        const __m256i four = broadcast_codes<KIND>(codes + i * stride + k);
        acc[i][0] = dot(acc[i][0], four, low);
        acc[i][1] = dot(acc[i][1], four, high);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) store_words(sums + i * PANEL, {acc[i][0], acc[i][1]});
  }
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(Words acc, Words bytes) {
  const __m256i ones = _mm256_set1_epi8(1);
  return {dot(acc.low, ones, bytes.low), dot(acc.high, ones, bytes.high)};
}

#else

constexpr int64_t TILE_ROWS = 4;  // 4 x 2 registers of sums, which hold two parts of each, 4 of codes, 2 of weights: 14 of 16
constexpr int64_t STRIP = 1024;   // codes of a row in 16 bits that stay in the first-level cache

// `count` codes, a multiple of 4, in 16 bits.
template <Codes KIND>
inline void widen_codes(const int8_t* codes, int64_t count, int16_t* wide) {
  const auto as_kind = [](__m256i x) {
    const __m256i zero = _mm256_setzero_si256();
    if constexpr (KIND == Codes::SHIFTED) return _mm256_add_epi16(x, _mm256_set1_epi16(128));
    if constexpr (KIND == Codes::POSITIVE) return _mm256_max_epi16(x, zero);
    return _mm256_sub_epi16(zero, _mm256_min_epi16(x, zero));
  };
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(wide + k), as_kind(x));
  }
  for (; k < count; k += 4) {
    int32_t four;
    std::memcpy(&four, codes + k, 4);
    const __m256i x = as_kind(_mm256_cvtepi8_epi16(_mm_set1_epi32(four)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(wide + k), _mm256_castsi256_si128(x));
  }
}

// acc + a * b of pairs of 16 bits. Product and sum are one piece: compilers would compute all products first, for which there are
// too few registers.
inline void multiply_accumulate(__m256i& acc, __m256i a, __m256i b) {
  __m256i product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
}

// Eight outputs of one panel: each register of sums holds two parts of four of them.
template <int ROWS>
inline void multiply_eight(const int16_t* wide, const int8_t* weights, int64_t step, int64_t count, __m256i (&sums)[ROWS]) {
  __m256i acc[ROWS][2];
#pragma GCC unroll 8
  for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < count; k += 4, weights += step) {
    const auto* at = reinterpret_cast<const __m128i*>(weights);
    const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(at)), high = _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1));
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      int64_t word;
      std::memcpy(&word, wide + i * STRIP + k, 8);
      const __m256i four = _mm256_set1_epi64x(word);
      multiply_accumulate(acc[i][0], four, low);
      multiply_accumulate(acc[i][1], four, high);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
    sums[i] = _mm256_add_epi32(sums[i], _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[i][0], acc[i][1]), 0xD8));
}

// Not inlined: in the middle of a larger function GCC 12 keeps the sums in memory, which takes twice the time.
template <int ROWS, Codes KIND>
__attribute__((noinline)) void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  alignas(32) int16_t wide[ROWS * STRIP];
  const int64_t step = vectors * 64;
  for (int64_t first = 0; first < depth; first += STRIP) {
    const int64_t count = std::min(STRIP, depth - first);
    for (int i = 0; i < ROWS; ++i) widen_codes<KIND>(codes + i * stride + first, count, wide + i * STRIP);
    for (int64_t j = 0; j < vectors * LANES; j += 8) {
      __m256i eight[ROWS];
      for (int i = 0; i < ROWS; ++i)
        eight[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first == 0 ? start + j : sums + i * PANEL + j));
      multiply_eight<ROWS>(wide, panel + first / 4 * step + j * 4, step, count, eight);
      for (int i = 0; i < ROWS; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i * PANEL + j), eight[i]);
    }
  }
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(Words acc, Words bytes) {
  const auto add = [](__m256i to, __m256i four) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), four);
    return _mm256_add_epi32(to, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  };
  return {add(acc.low, bytes.low), add(acc.high, bytes.high)};
}

#endif

}  // namespace fxquant
