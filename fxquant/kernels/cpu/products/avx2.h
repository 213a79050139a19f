// Products of codes in registers of 256 bits: by AVX-VNNI, or without it by products of 16 bits, whose sums never saturate.
#pragma once

namespace fxquant {

constexpr bool BESIDE = false;
constexpr int64_t TILE_ROWS = 6;  // 6 x 2 registers of sums, 2 of weights, 1 of codes and 1 of their products: 16 of 16
constexpr int64_t STRIP = 1024;   // codes of a row that are brought into the form of the products at once

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)

// acc + four products of unsigned and signed bytes for each lane. In assembler: GCC 12 moves the sums about otherwise.
inline void multiply_accumulate(__m256i& acc, __m256i codes, __m256i weights) {
#ifdef __AVXVNNI__
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(weights));
#else
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(weights));
#endif
}

using Element = uint8_t;  // of a strip of codes

// As many codes as a register holds, in unsigned bytes.
template <Codes KIND>
inline __m256i as_elements(const int8_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), zero = _mm256_setzero_si256();
  if constexpr (KIND == Codes::SHIFTED) return _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
  if constexpr (KIND == Codes::POSITIVE) return _mm256_max_epi8(x, zero);
  return _mm256_sub_epi8(zero, _mm256_min_epi8(x, zero));
}

// Four codes of one row in every lane.
inline __m256i broadcast_four(const Element* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// Sixteen outputs of one panel.
constexpr int64_t OUTPUTS = 16;
template <int ROWS>
inline void multiply_strip(const Element* strip, const int8_t* weights, int64_t step, int64_t count, int32_t* sums) {
  const auto at = [&](int i, int n) { return reinterpret_cast<__m256i*>(sums + i * PANEL + 8 * n); };
  __m256i acc[ROWS][2];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < 2; ++n) acc[i][n] = _mm256_loadu_si256(at(i, n));
  for (int64_t k = 0; k < count; k += 4, weights += step) {
    const auto* both = reinterpret_cast<const __m256i*>(weights);
    const __m256i low = _mm256_loadu_si256(both), high = _mm256_loadu_si256(both + 1);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const __m256i four = broadcast_four(strip + i * STRIP + k);
      multiply_accumulate(acc[i][0], four, low);
      multiply_accumulate(acc[i][1], four, high);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < 2; ++n) _mm256_storeu_si256(at(i, n), acc[i][n]);
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(Words acc, Words bytes) {
  multiply_accumulate(acc.low, _mm256_set1_epi8(1), bytes.low);
  multiply_accumulate(acc.high, _mm256_set1_epi8(1), bytes.high);
  return acc;
}

#else

using Element = int16_t;  // of a strip of codes

// As many codes as a register holds, in 16 bits.
template <Codes KIND>
inline __m256i as_elements(const int8_t* p) {
  const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i zero = _mm256_setzero_si256();
  if constexpr (KIND == Codes::SHIFTED) return _mm256_add_epi16(x, _mm256_set1_epi16(128));
  if constexpr (KIND == Codes::POSITIVE) return _mm256_max_epi16(x, zero);
  return _mm256_sub_epi16(zero, _mm256_min_epi16(x, zero));
}

// Four codes of one row, again and again.
inline __m256i broadcast_four(const Element* p) {
  int64_t four;
  std::memcpy(&four, p, 8);
  return _mm256_set1_epi64x(four);
}

// acc + a * b of pairs of 16 bits. Product and sum are one piece: compilers would compute all products first, for which there are
// too few registers.
inline void multiply_accumulate(__m256i& acc, __m256i a, __m256i b) {
  __m256i product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
}

// Eight outputs of one panel: each register of sums holds two parts of four of them.
constexpr int64_t OUTPUTS = 8;
template <int ROWS>
inline void multiply_strip(const Element* strip, const int8_t* weights, int64_t step, int64_t count, int32_t* sums) {
  __m256i acc[ROWS][2];
#pragma GCC unroll 8
  for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < count; k += 4, weights += step) {
    const auto* at = reinterpret_cast<const __m128i*>(weights);
    const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(at)), high = _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1));
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const __m256i four = broadcast_four(strip + i * STRIP + k);
      multiply_accumulate(acc[i][0], four, low);
      multiply_accumulate(acc[i][1], four, high);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i) {
    const __m256i joined = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[i][0], acc[i][1]), 0xD8);
    auto* at = reinterpret_cast<__m256i*>(sums + i * PANEL);
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), joined));
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

// Bring codes of a row, a multiple of 4, into the form of the products.
template <Codes KIND>
inline void make_strip(const int8_t* codes, int64_t count, Element* strip) {
  constexpr int64_t AT_ONCE = 32 / sizeof(Element);
  const auto put = [](Element* to, const int8_t* from) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), as_elements<KIND>(from));
  };
  int64_t k = 0;
  for (; k + AT_ONCE <= count; k += AT_ONCE) put(strip + k, codes + k);
  if (k == count) return;
  int8_t rest[AT_ONCE] = {};
  std::memcpy(rest, codes + k, count - k);
  put(strip + k, rest);
}

// Not inlined: in the middle of a larger function GCC 12 keeps the sums in memory, which takes twice the time.
template <int ROWS, Codes KIND>
__attribute__((noinline)) void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                                             const int32_t* start, int32_t* sums) {
  alignas(32) Element strip[ROWS * STRIP];
  const int64_t step = vectors * 64, width = vectors * LANES;
  for (int i = 0; i < ROWS; ++i) std::copy(start, start + width, sums + i * PANEL);
  for (int64_t first = 0; first < depth; first += STRIP) {
    const int64_t count = std::min(STRIP, depth - first);
    for (int i = 0; i < ROWS; ++i) make_strip<KIND>(codes + i * stride + first, count, strip + i * STRIP);
    for (int64_t j = 0; j < width; j += OUTPUTS)
      multiply_strip<ROWS>(strip, panel + first / 4 * step + j * 4, step, count, sums + j);
  }
}

}  // namespace fxquant
