// Products of codes by AVX512-VNNI.
#pragma once

namespace fxquant {

constexpr int64_t TILE_ROWS = 6;  // 6 x 4 registers of sums, 4 of weights, 1 of codes: 29 of 32

// Four codes of one row in every lane, as unsigned bytes.
template <Codes KIND>
inline __m512i broadcast_codes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const __m512i x = _mm512_set1_epi32(four), zero = _mm512_setzero_si512();
  if constexpr (KIND == Codes::SHIFTED) return _mm512_xor_si512(x, _mm512_set1_epi8(static_cast<char>(0x80)));
  if constexpr (KIND == Codes::POSITIVE) return _mm512_max_epi8(x, zero);
  return _mm512_sub_epi8(zero, _mm512_min_epi8(x, zero));
}

template <int ROWS, int VECTORS, Codes KIND>
inline __attribute__((always_inline)) void multiply(const int8_t* codes, int64_t stride, const int8_t* panel,
                                                    int64_t depth, const int32_t* start, int32_t* sums) {
  __m512i acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) acc[i][j] = _mm512_loadu_si512(start + j * LANES);
  for (int64_t k = 0; k < depth; k += 4) {
    __m512i weights[VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) weights[j] = _mm512_loadu_si512(panel + (k / 4 * VECTORS + j) * 64);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const __m512i four = broadcast_codes<KIND>(codes + i * stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], four, weights[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) _mm512_store_si512(sums + i * PANEL + j * LANES, acc[i][j]);
}

template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  switch (vectors) {
    case 1: return multiply<ROWS, 1, KIND>(codes, stride, panel, depth, start, sums);
    case 2: return multiply<ROWS, 2, KIND>(codes, stride, panel, depth, start, sums);
    case 3: return multiply<ROWS, 3, KIND>(codes, stride, panel, depth, start, sums);
    default: return multiply<ROWS, 4, KIND>(codes, stride, panel, depth, start, sums);
  }
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(Words acc, Words bytes) { return {_mm512_dpbusd_epi32(acc.v, _mm512_set1_epi8(1), bytes.v)}; }

}  // namespace fxquant
