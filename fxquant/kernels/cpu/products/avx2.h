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

constexpr int64_t TILE_ROWS = 3;  // 3 x 4 registers of sums, which hold two parts of each, 1 of weights, 3 of codes: 16 of 16

// Four codes of one row, again and again, in 16 bits.
template <Codes KIND>
inline __m256i broadcast_codes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  if constexpr (KIND == Codes::SHIFTED) return _mm256_cvtepu8_epi16(_mm_set1_epi32(four ^ static_cast<int32_t>(0x80808080)));
  const __m256i x = _mm256_cvtepi8_epi16(_mm_set1_epi32(four)), zero = _mm256_setzero_si256();
  if constexpr (KIND == Codes::POSITIVE) return _mm256_max_epi16(x, zero);
  return _mm256_sub_epi16(zero, _mm256_min_epi16(x, zero));
}

template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  for (int64_t j = 0; j < vectors; ++j, panel += 64, start += LANES, sums += LANES) {
    const Words first = load_words(start, Whole{});
    __m256i acc[ROWS][4];
#pragma GCC unroll 8
    for (auto& row : acc)
#pragma GCC unroll 8
      for (__m256i& each : row) each = _mm256_setzero_si256();
    for (int64_t k = 0; k < depth; k += 4) {
      const auto* at = reinterpret_cast<const __m128i*>(panel + k / 4 * vectors * 64);
      __m256i four[ROWS];
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) four[i] = broadcast_codes<KIND>(codes + i * stride + k);
#pragma GCC unroll 8
      for (int n = 0; n < 4; ++n) {
        const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(at + n));
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) acc[i][n] = _mm256_add_epi32(acc[i][n], _mm256_madd_epi16(four[i], weights));
      }
    }
    const auto joined = [](__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xD8); };
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
      store_words(sums + i * PANEL, first + Words{joined(acc[i][0], acc[i][1]), joined(acc[i][2], acc[i][3])});
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
