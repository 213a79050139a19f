// softmax(q k^T * scale + bias + mask) v of one head, a few queries at a time, so that scores never leave the first-level cache.
#pragma once
#include <algorithm>
#include <vector>

#include "vector.h"

namespace fxquant {

constexpr int64_t QUERIES = 6;   // rows of one tile
constexpr int64_t LEAST_QUERIES = 48;  // worth packing keys and values for once more

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A matrix of one head: rows `stride` apart, each in one piece.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
  const T* operator[](int64_t i) const { return data + i * stride; }
};

// out (ROWS, 16 * VECTORS) = left (ROWS, words) times right (words, width), all 32-bit words.
template <typename Dot, int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_words(const float* left, int64_t left_stride, const float* right,
                                                          int64_t width, int64_t words, float* out,
                                                          int64_t out_stride) {
  Floats acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) acc[i][j] = all(0);
  for (int64_t k = 0; k < words; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; ++j)
        acc[i][j] = Dot::dot(acc[i][j], left[i * left_stride + k], right + k * width + j * LANES);
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; ++j) store(out + i * out_stride + j * LANES, Whole{}, acc[i][j]);
}

template <typename Dot>
inline void multiply_all(const float* left, int64_t left_stride, const float* right, int64_t width, int64_t words,
                         float* out, int64_t out_stride) {
  int64_t column = 0;
  for (; column + WIDE * LANES <= width; column += WIDE * LANES)
    multiply_words<Dot, QUERIES, WIDE>(left, left_stride, right + column, width, words, out + column, out_stride);
  if constexpr (WIDE > 1) {
    switch ((width - column) / LANES) {
      case 3: return multiply_words<Dot, QUERIES, 3>(left, left_stride, right + column, width, words, out + column, out_stride);
      case 2: return multiply_words<Dot, QUERIES, 2>(left, left_stride, right + column, width, words, out + column, out_stride);
      case 1: return multiply_words<Dot, QUERIES, 1>(left, left_stride, right + column, width, words, out + column, out_stride);
      default: return;
    }
  }
}

inline void copy_row(const float* from, float* to, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }
inline void copy_row(const bf16* from, bf16* to, int64_t count) { std::memcpy(to, from, count * sizeof(bf16)); }
inline void copy_row(const bf16* from, float* to, int64_t count) {
  each_register(count, [&](int64_t i, auto which) { store(to + i, which, load(from + i, which)); });
}

// Probabilities times their sum from scores; returns 1 / sum. Columns from `keys` to the end of the last register become 0.
template <typename Element>
inline float softmax_row(float* scores, Element* probabilities, int64_t keys, float scale,
                         const float* bias, const float* mask) {
  const Floats log2e = all(1.44269504f), factor = all(scale);
  const bool shifted = bias != nullptr || mask != nullptr;
  Floats most = all(-INFINITY);
  each_register(keys, [&](int64_t j, auto which) {
    Floats s = load(scores + j, Whole{});
    if (shifted) {
      s = s * factor;
      if (bias != nullptr) s = s + load(bias + j, which);
      if (mask != nullptr) s = s + load(mask + j, which);
      store(scores + j, Whole{}, s);
    }
    most = maximum(most, keep(which, s, all(-INFINITY)));
  });
  // The scale is positive, so that it can wait until the exponents.
  const float top = largest(most);
  const Floats slope = shifted ? log2e : log2e * factor, shift = all(top) * slope;
  Floats sum = all(0);
  each_register(keys, [&](int64_t j, auto which) {
    const Floats e = keep(which, exp2_negative(multiply_subtract(load(scores + j, Whole{}), slope, shift)));
    sum = sum + e;
    store(probabilities + j, Whole{}, e);
  });
  // Where everything is masked out there is no softmax: nan, as in torch.
  return top == -INFINITY ? NAN : 1.0f / total(sum);
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
        Words block[LANES];
        for (int64_t i = 0; i < LANES; ++i) block[i] = n + i < keys ? row_words(k[n + i] + w * Dot::STEP, count) : all_words(0);
        transpose(block);
        for (int64_t i = 0; i < count; ++i) store_words(&key_words[(w + i) * width + n], block[i]);
      }
    for (int64_t n = 0; n < keys; n += Dot::STEP)
      for (int64_t d = 0; d < depth; d += LANES)
        store_words(&value_words[n / Dot::STEP * depth + d], pair_words(v[n] + d, n + 1 < keys ? v[n + 1] + d : nullptr));
  }

  // One word: STEP elements of one row.
  template <typename T>
  static Words row_words(const T* row, int64_t count) {
    if constexpr (sizeof(T) * Dot::STEP == 4) return load_words(row, Tail{count});
    else return bits_of(load(row, Tail{count}));
  }

  // One word: the same column of STEP rows; `next` may be null.
  template <typename T>
  static Words pair_words(const T* row, const T* next) {
    const Words first = bits_of(load(row, Whole{}));
    if constexpr (Dot::STEP == 1) return first;
    const Words low = shift_right_zeros<16>(first);
    return next == nullptr ? low : low | bits_of(load(next, Whole{}));
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
      inverse[i] = softmax_row(s, &probabilities[i * width], keys, scale, bias ? bias + row : nullptr,
                               mask ? mask + row : nullptr);
    }
    multiply_all<Dot>(reinterpret_cast<const float*>(probabilities.data()), width / Dot::STEP, value_words.data(), depth,
                      round_up(keys, Dot::STEP) / Dot::STEP, context.data(), depth);
  }
};

}  // namespace fxquant
