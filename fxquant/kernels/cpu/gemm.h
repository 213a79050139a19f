// int8 matrix product by AVX512-VNNI with everything that follows it done while the sums are in the first-level cache.
#pragma once
#include <algorithm>
#include <vector>

#include "vector.h"

namespace fxquant {

constexpr int64_t TILE_ROWS = 6;      // 6 x 4 registers of sums, 4 of weights, 1 of codes: 29 of 32
constexpr int64_t PANEL = 64;         // output channels of one panel of the packed weight
constexpr int64_t BLOCK_ROWS = 96;    // rows that stay in the second-level cache while panels pass by

enum class Input { ONE_SCALE, TWIN, TOKENS };

enum class Codes { UNSIGNED, POSITIVE, NEGATIVE };

// Four codes of one row in every lane, as the unsigned bytes VNNI wants: code + 128, max(code, 0) or -min(code, 0).
template <Codes KIND>
inline __m512i broadcast_codes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const __m512i x = _mm512_set1_epi32(four), zero = _mm512_setzero_si512();
  if constexpr (KIND == Codes::UNSIGNED) return _mm512_xor_si512(x, _mm512_set1_epi8(static_cast<char>(0x80)));
  if constexpr (KIND == Codes::POSITIVE) return _mm512_max_epi8(x, zero);
  return _mm512_sub_epi8(zero, _mm512_min_epi8(x, zero));
}

// sums (ROWS, 16 * VECTORS) = start + codes (ROWS, depth) times one panel (depth / 4, 16 * VECTORS, 4).
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

template <Codes KIND, int VECTORS>
void multiply_rows(int64_t rows, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                   const int32_t* start, int32_t* sums) {
  switch (rows) {
    case 1: return multiply<1, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
    case 2: return multiply<2, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
    case 3: return multiply<3, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
    case 4: return multiply<4, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
    case 5: return multiply<5, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
    default: return multiply<6, VECTORS, KIND>(codes, stride, panel, depth, start, sums);
  }
}

template <Codes KIND>
void multiply_tile(int64_t rows, int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel,
                   int64_t depth, const int32_t* start, int32_t* sums) {
  switch (vectors) {
    case 1: return multiply_rows<KIND, 1>(rows, codes, stride, panel, depth, start, sums);
    case 2: return multiply_rows<KIND, 2>(rows, codes, stride, panel, depth, start, sums);
    case 3: return multiply_rows<KIND, 3>(rows, codes, stride, panel, depth, start, sums);
    default: return multiply_rows<KIND, 4>(rows, codes, stride, panel, depth, start, sums);
  }
}

// What becomes of the sums; null where a step is left out. Rows of `out` and `residual` are `outputs` wide.
struct Epilogue {
  const int32_t* compensation;  // -128 * sum_k weight[o, k]: the codes are multiplied as code + 128; where the sums start
  const float* scale;
  const float* scale_low;  // of the negative codes of a twin-uniform input
  const float* row_scale;  // of each row of the codes, and its zero point as these are stored
  const int32_t* row_zero_point;
  const float* bias;
  const float* activation;
  const void* residual;
  const Quantizer* quantizer;
  void* out;
  int64_t outputs;
  int64_t out_row = 0;  // which of the rows `out` begins with
};

enum class Result { FLOAT, CODES, TWIN_CODES };

// The products and sums come in the order of the reference, so that float32 results are the same bits.
template <typename T, Input INPUT, bool ACTIVATION, bool RESIDUAL, Result RESULT, bool WHOLE>
inline void finish_rows(const Epilogue& e, const int32_t* sums, const int32_t* below, int64_t row, int64_t rows,
                        int64_t column, int64_t columns) {
  for (int64_t j = 0; j < (WHOLE ? PANEL : columns); j += LANES) {
    const __mmask16 mask = WHOLE ? 0xFFFF : tail_mask(columns - j);
    const int64_t c = column + j;
    const __m512 scale = load(e.scale + c, mask), bias = load(e.bias + c, mask);
    const __m512 low = INPUT == Input::TWIN ? load(e.scale_low + c, mask) : _mm512_setzero_ps();
    const __m512i weights = INPUT == Input::TOKENS  // the sum of the weight
                                ? _mm512_srai_epi32(_mm512_loadu_si512(e.compensation + c), 7)
                                : _mm512_setzero_si512();
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = (row + i - e.out_row) * e.outputs + c;
      __m512i sum = _mm512_load_si512(sums + i * PANEL + j);
      if constexpr (INPUT == Input::TOKENS)
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(e.row_zero_point[row + i]), weights));
      __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
      if constexpr (INPUT == Input::TOKENS) y = _mm512_mul_ps(y, _mm512_set1_ps(e.row_scale[row + i]));
      if constexpr (INPUT == Input::TWIN) {
        const __m512i minus = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_load_si512(below + i * PANEL + j));
        y = _mm512_add_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(minus), low));
      }
      y = round_to<T>(_mm512_add_ps(y, bias));
      if constexpr (ACTIVATION) y = round_to<T>(activate(y, e.activation));
      if constexpr (RESIDUAL) y = _mm512_add_ps(y, load(static_cast<const T*>(e.residual) + at, mask));
      if constexpr (RESULT == Result::FLOAT) store(static_cast<T*>(e.out) + at, mask, y);
      else store_codes<RESULT == Result::TWIN_CODES>(static_cast<int8_t*>(e.out) + at, mask, y, *e.quantizer, c);
    }
  }
}

template <typename T, Input INPUT, bool ACTIVATION, bool RESIDUAL, Result RESULT>
inline void finish_columns(const Epilogue& e, const int32_t* sums, const int32_t* below, int64_t row, int64_t rows,
                           int64_t column, int64_t columns) {
  if (columns == PANEL)
    finish_rows<T, INPUT, ACTIVATION, RESIDUAL, RESULT, true>(e, sums, below, row, rows, column, columns);
  else
    finish_rows<T, INPUT, ACTIVATION, RESIDUAL, RESULT, false>(e, sums, below, row, rows, column, columns);
}

// The kinds of epilogue there are: (activation | residual) of float results, activation of codes.
template <typename T, Input INPUT>
inline void finish(const Epilogue& e, const int32_t* sums, const int32_t* below, int64_t row, int64_t rows,
                   int64_t column, int64_t columns) {
  const auto run = [&](auto function) { function(e, sums, below, row, rows, column, columns); };
  const bool activation = e.activation != nullptr;
  if (e.quantizer == nullptr) {
    if (e.residual != nullptr) run(finish_columns<T, INPUT, false, true, Result::FLOAT>);
    else if (activation) run(finish_columns<T, INPUT, true, false, Result::FLOAT>);
    else run(finish_columns<T, INPUT, false, false, Result::FLOAT>);
  } else if (e.quantizer->low == 0) {
    if (activation) run(finish_columns<T, INPUT, true, false, Result::CODES>);
    else run(finish_columns<T, INPUT, false, false, Result::CODES>);
  } else {
    if (activation) run(finish_columns<T, INPUT, true, false, Result::TWIN_CODES>);
    else run(finish_columns<T, INPUT, false, false, Result::TWIN_CODES>);
  }
}

// Ask for the rows that a tile will add and write while its products are still being summed.
template <typename T>
inline void prefetch(const Epilogue& e, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  constexpr int64_t LINE = 64;
  const int64_t width = e.quantizer != nullptr ? 1 : sizeof(T);
  for (int64_t i = row; i < row + rows; ++i) {
    const int64_t at = (i - e.out_row) * e.outputs + column;
    for (int64_t byte = 0; byte < columns * width; byte += LINE) __builtin_prefetch(static_cast<char*>(e.out) + at * width + byte, 1);
    if (e.residual == nullptr) continue;
    for (int64_t byte = 0; byte < columns * static_cast<int64_t>(sizeof(T)); byte += LINE)
      __builtin_prefetch(static_cast<const char*>(e.residual) + at * sizeof(T) + byte);
  }
}

// One block of rows times one panel.
template <typename T, Input INPUT>
void gemm_block(const int8_t* codes, const int8_t* packed, int64_t depth, int64_t first, int64_t last, int64_t column,
                const Epilogue& e) {
  alignas(64) int32_t sums[TILE_ROWS * PANEL], below[INPUT == Input::TWIN ? TILE_ROWS * PANEL : 1];
  const int64_t columns = std::min(PANEL, e.outputs - column), vectors = (columns + LANES - 1) / LANES;
  const int8_t* panel = packed + column * depth;
  alignas(64) static const int32_t zeros[PANEL] = {};
  for (int64_t row = first; row < last; row += TILE_ROWS) {
    const int64_t rows = std::min(TILE_ROWS, last - row);
    const int8_t* tile = codes + row * depth;
    prefetch<T>(e, row, rows, column, columns);
    if constexpr (INPUT == Input::TWIN) {
      multiply_tile<Codes::POSITIVE>(rows, vectors, tile, depth, panel, depth, zeros, sums);
      multiply_tile<Codes::NEGATIVE>(rows, vectors, tile, depth, panel, depth, zeros, below);
    } else {
      multiply_tile<Codes::UNSIGNED>(rows, vectors, tile, depth, panel, depth, e.compensation + column, sums);
    }
    finish<T, INPUT>(e, sums, below, row, rows, column, columns);
  }
}

// Reorder a weight (outputs, depth) into panels (depth / 4, 16 * vectors, 4) of 64 outputs, the last as wide as is left;
// `compensation` is that of `Epilogue`.
inline void pack_panel(const int8_t* weight, int64_t stride, int64_t outputs, int64_t depth, int64_t column,
                       int8_t* packed, int32_t* compensation) {
  const int64_t columns = std::min(PANEL, outputs - column), width = (columns + LANES - 1) / LANES * LANES;
  int8_t* panel = packed + column * depth;
  for (int64_t j = 0; j < width; j += LANES) {
    __m512i sums = _mm512_setzero_si512();
    for (int64_t k = 0; k < depth; k += 4 * LANES) {
      const int64_t words = std::min(LANES, (depth - k) / 4);
      __m512i block[LANES];
      for (int64_t i = 0; i < LANES; ++i)
        block[i] = j + i < columns
                       ? load_words(weight + (column + j + i) * stride + k, tail_mask(words))
                       : _mm512_setzero_si512();
      transpose(block);
      for (int64_t i = 0; i < words; ++i) {
        _mm512_storeu_si512(panel + (k + 4 * i) * width + j * 4, block[i]);
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(static_cast<char>(0x80)), block[i]);
      }
    }
    _mm512_storeu_si512(compensation + column + j, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
  }
}

}  // namespace fxquant
