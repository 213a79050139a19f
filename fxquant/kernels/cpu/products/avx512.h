// Products of codes by AVX512-VNNI.
#pragma once

namespace fxquant {

constexpr bool BESIDE = true;
constexpr int64_t TILE_ROWS = 6;  // 6 x 4 registers of sums, 4 of weights, 1 of codes: 29 of 32

// What brings codes into unsigned bytes: the sign bit, or zero. Compilers are kept from reading it from memory at each product.
template <Codes KIND>
inline __m512i shift_of_codes() {
  if constexpr (KIND != Codes::SHIFTED) return _mm512_setzero_si512();
  __m512i bits = _mm512_set1_epi8(static_cast<char>(0x80));
  asm("" : "+v"(bits));
  return bits;
}

// Four codes of one row in every lane, as unsigned bytes.
template <Codes KIND>
inline __m512i broadcast_codes(const int8_t* p, __m512i shift) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const __m512i x = _mm512_set1_epi32(four);
  if constexpr (KIND == Codes::SHIFTED) return _mm512_xor_si512(x, shift);
  if constexpr (KIND == Codes::POSITIVE) return _mm512_max_epi8(x, shift);
  return _mm512_sub_epi8(shift, _mm512_min_epi8(x, shift));
}

// Between the products `part(i)` is called for each i below `parts`, at even distances.
template <int ROWS, int VECTORS, Codes KIND, typename Part>
inline __attribute__((always_inline)) void multiply(const int8_t* codes, int64_t stride, const int8_t* panel,
                                                    int64_t depth, const int32_t* start, int32_t* sums, int64_t parts,
                                                    const Part& part) {
  __m512i acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) acc[i][j] = _mm512_loadu_si512(start + j * LANES);
  const int64_t steps = depth / 4, every = parts == 0 ? steps : std::max<int64_t>(1, steps / parts);
  for (int64_t i = 0, done = 0; i <= parts; ++i) {
    const int64_t until = i == parts ? steps : std::min(done + every, steps);
    const __m512i shift = shift_of_codes<KIND>();
    for (; done < until; ++done, codes += 4, panel += VECTORS * 64) {
      __m512i weights[VECTORS];
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j) weights[j] = _mm512_loadu_si512(panel + j * 64);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const __m512i four = broadcast_codes<KIND>(codes + r * stride, shift);
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; ++j) acc[r][j] = _mm512_dpbusd_epi32(acc[r][j], four, weights[j]);
      }
    }
    if (i < parts) part(i);
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) _mm512_store_si512(sums + i * PANEL + j * LANES, acc[i][j]);
}

template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  const auto nothing = [](int64_t) {};
  switch (vectors) {
    case 1: return multiply<ROWS, 1, KIND>(codes, stride, panel, depth, start, sums, 0, nothing);
    case 2: return multiply<ROWS, 2, KIND>(codes, stride, panel, depth, start, sums, 0, nothing);
    case 3: return multiply<ROWS, 3, KIND>(codes, stride, panel, depth, start, sums, 0, nothing);
    default: return multiply<ROWS, 4, KIND>(codes, stride, panel, depth, start, sums, 0, nothing);
  }
}

template <Codes KIND, typename Part>
inline void multiply_beside(const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth, const int32_t* start,
                            int32_t* sums, int64_t parts, const Part& part) {
  multiply<TILE_ROWS, PANEL / LANES, KIND>(codes, stride, panel, depth, start, sums, parts, part);
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(Words acc, Words bytes) { return {_mm512_dpbusd_epi32(acc.v, _mm512_set1_epi8(1), bytes.v)}; }

}  // namespace fxquant
