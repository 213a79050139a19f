// softmax(q k^T * scale + bias + mask) v of one head, a few queries at a time, so that scores never leave the first-level cache.
#pragma once
#include <algorithm>
#include <vector>

#include "vector.h"

namespace fxquant {

constexpr int64_t QUERIES = 6;   // rows of one tile
constexpr int64_t LEAST_QUERIES = 48;  // worth packing keys and values for once more
constexpr int64_t WIDE = 4;      // registers of one tile, across

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A matrix of one head: rows `stride` apart, each in one piece.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
  const T* operator[](int64_t i) const { return data + i * stride; }
};

// How products are computed: `Step` elements of the summed axis at a time, one of them a 32-bit word.
struct Float32 {
  using Element = float;
  static constexpr int64_t STEP = 1;
  static __m512 dot(__m512 acc, float left, const float* right) {
    return _mm512_fmadd_ps(_mm512_set1_ps(left), _mm512_loadu_ps(right), acc);
  }
};

#ifdef __AVX512BF16__
struct BFloat16 {
  using Element = bf16;
  static constexpr int64_t STEP = 2;
  static __m512 dot(__m512 acc, float left, const float* right) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_ps(left), (__m512bh)_mm512_loadu_ps(right));
  }
};
#else
using BFloat16 = Float32;  // the operands are widened: exact, at the speed of float32
#endif

// out (ROWS, 16 * VECTORS) = left (ROWS, words) times right (words, width), all 32-bit words.
template <typename Dot, int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_words(const float* left, int64_t left_stride, const float* right,
                                                          int64_t width, int64_t words, float* out,
                                                          int64_t out_stride) {
  __m512 acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) acc[i][j] = _mm512_setzero_ps();
  for (int64_t k = 0; k < words; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j)
        acc[i][j] = Dot::dot(acc[i][j], left[i * left_stride + k], right + k * width + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) _mm512_storeu_ps(out + i * out_stride + j * LANES, acc[i][j]);
}

template <typename Dot>
inline void multiply_all(const float* left, int64_t left_stride, const float* right, int64_t width, int64_t words,
                         float* out, int64_t out_stride) {
  int64_t column = 0;
  for (; column + WIDE * LANES <= width; column += WIDE * LANES)
    multiply_words<Dot, QUERIES, WIDE>(left, left_stride, right + column, width, words, out + column, out_stride);
  switch ((width - column) / LANES) {
    case 3: return multiply_words<Dot, QUERIES, 3>(left, left_stride, right + column, width, words, out + column, out_stride);
    case 2: return multiply_words<Dot, QUERIES, 2>(left, left_stride, right + column, width, words, out + column, out_stride);
    case 1: return multiply_words<Dot, QUERIES, 1>(left, left_stride, right + column, width, words, out + column, out_stride);
    default: return;
  }
}

inline void copy_row(const float* from, float* to, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }
inline void copy_row(const bf16* from, bf16* to, int64_t count) { std::memcpy(to, from, count * sizeof(bf16)); }
inline void copy_row(const bf16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) store(to + i, tail_mask(count - i), load(from + i, tail_mask(count - i)));
}

// Probabilities times their sum from scores; returns 1 / sum. Columns from `keys` to `width` become 0.
template <typename Element>
inline float softmax_row(float* scores, Element* probabilities, int64_t keys, int64_t width, float scale,
                         const float* bias, const float* mask) {
  const __m512 log2e = _mm512_set1_ps(1.44269504f), factor = _mm512_set1_ps(scale);
  const bool shifted = bias != nullptr || mask != nullptr;
  __m512 largest = _mm512_set1_ps(-INFINITY);
  for (int64_t j = 0; j < keys; j += LANES) {
    const __mmask16 here = tail_mask(keys - j);
    __m512 s = _mm512_loadu_ps(scores + j);
    if (shifted) {
      s = _mm512_mul_ps(s, factor);
      if (bias != nullptr) s = _mm512_add_ps(s, load(bias + j, here));
      if (mask != nullptr) s = _mm512_add_ps(s, load(mask + j, here));
      _mm512_storeu_ps(scores + j, s);
    }
    largest = _mm512_mask_max_ps(largest, here, largest, s);
  }
  // The scale is positive, so that it can wait until the exponents.
  const float top = _mm512_reduce_max_ps(largest);
  const __m512 slope = shifted ? log2e : _mm512_mul_ps(log2e, factor);
  const __m512 shift = _mm512_mul_ps(_mm512_set1_ps(top), slope);
  __m512 total = _mm512_setzero_ps();
  const int64_t whole = keys / LANES * LANES;
  for (int64_t j = 0; j < width; j += LANES) {
    __m512 e = exp2_negative(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), slope, shift));
    if (j >= whole) e = _mm512_maskz_mov_ps(tail_mask(keys - j), e);
    total = _mm512_add_ps(total, e);
    store(probabilities + j, 0xFFFF, e);
  }
  // Where everything is masked out there is no softmax: nan, as in torch.
  return top == -INFINITY ? NAN : 1.0f / _mm512_reduce_add_ps(total);
}

// The buffers of one thread.
template <typename Dot>
struct Head {
  using Element = typename Dot::Element;
  int64_t keys, depth, width, words;
  std::vector<float> key_words, value_words, query_words, scores, context;
  std::vector<Element> probabilities;

  Head(int64_t keys, int64_t depth)
      : keys(keys), depth(depth), width(round_up(keys, LANES)), words(depth / Dot::STEP),
        key_words(words * width), value_words(round_up(keys, Dot::STEP) / Dot::STEP * depth),
        query_words(QUERIES * words), scores(QUERIES * width), context(QUERIES * depth),
        probabilities(QUERIES * width) {}

  // Keys as (words, keys), values as (keys / STEP, depth): lanes run over keys, then over the depth.
  template <typename T>
  void pack(Rows<T> k, Rows<T> v) {
    for (int64_t n = 0; n < keys; n += LANES)
      for (int64_t w = 0; w < words; w += LANES) {
        const int64_t count = std::min(LANES, words - w);
        __m512i block[LANES];
        for (int64_t i = 0; i < LANES; ++i)
          block[i] = n + i < keys ? load_words(k[n + i] + w * Dot::STEP, tail_mask(count)) : _mm512_setzero_si512();
        transpose(block);
        for (int64_t i = 0; i < count; ++i) _mm512_storeu_si512(&key_words[(w + i) * width + n], block[i]);
      }
    for (int64_t n = 0; n < keys; n += Dot::STEP)
      for (int64_t d = 0; d < depth; d += LANES)
        _mm512_storeu_si512(&value_words[n / Dot::STEP * depth + d], pair_words(v[n] + d, n + 1 < keys ? v[n + 1] + d : nullptr));
  }

  // One word: STEP elements of one row.
  template <typename T>
  static __m512i load_words(const T* row, __mmask16 mask) {
    if constexpr (sizeof(T) * Dot::STEP == 4) return fxquant::load_words(row, mask);
    else return _mm512_castps_si512(load(row, mask));
  }

  // One word: the same column of STEP rows; `next` may be null.
  template <typename T>
  static __m512i pair_words(const T* row, const T* next) {
    if constexpr (Dot::STEP == 1) return _mm512_castps_si512(load(row, 0xFFFF));
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(load(row, 0xFFFF)), 16);
    if (next == nullptr) return low;
    return _mm512_or_si512(low, _mm512_castps_si512(load(next, 0xFFFF)));
  }

  // context (rows, depth) of `rows` queries, not divided by the sums yet; their reciprocals go to `inverse`.
  template <typename T>
  void attend(Rows<T> q, int64_t first, int64_t rows, float scale, const float* bias, const float* mask, float* inverse) {
    for (int64_t i = 0; i < rows; ++i)
      copy_row(q[first + i], reinterpret_cast<Element*>(&query_words[i * words]), depth);
    multiply_all<Dot>(query_words.data(), words, key_words.data(), width, words, scores.data(), width);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = (first + i) * keys;
      float* s = &scores[i * width];
      inverse[i] = softmax_row(s, &probabilities[i * width], keys, width, scale, bias ? bias + row : nullptr,
                               mask ? mask + row : nullptr);
    }
    multiply_all<Dot>(reinterpret_cast<const float*>(probabilities.data()), width / Dot::STEP, value_words.data(), depth,
                      round_up(keys, Dot::STEP) / Dot::STEP, context.data(), depth);
  }
};

}  // namespace fxquant
