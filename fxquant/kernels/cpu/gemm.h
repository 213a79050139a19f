// int8 matrix product with everything that follows it done while the sums are in the first-level cache.
#pragma once
#include <algorithm>
#include <vector>

#include "products.h"

namespace fxquant {

constexpr int64_t BLOCK_ROWS = 96;    // rows that stay in the second-level cache while panels pass by

enum class Input { ONE_SCALE, TWIN, TOKENS };

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
template <typename T, Input INPUT, bool ACTIVATION, bool RESIDUAL, Result RESULT, typename W>
inline void finish_register(const Epilogue& e, const int32_t* sums, const int32_t* below, int64_t row, int64_t rows, int64_t c,
                            W which) {
  const Floats scale = load(e.scale + c, which), bias = load(e.bias + c, which);
  const Floats low = INPUT == Input::TWIN ? load(e.scale_low + c, which) : all(0);
  const Words weights =  // the sum of the weight
      INPUT == Input::TOKENS ? shift_right<7>(load_words(e.compensation + c, Whole{})) : all_words(0);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i - e.out_row) * e.outputs + c;
    Words sum = load_words(sums + i * PANEL, Whole{});
    if constexpr (INPUT == Input::TOKENS) sum = sum + all_words(e.row_zero_point[row + i]) * weights;
    Floats y = to_floats(sum) * scale;
    if constexpr (INPUT == Input::TOKENS) y = y * all(e.row_scale[row + i]);
    if constexpr (INPUT == Input::TWIN) y = y + to_floats(all_words(0) - load_words(below + i * PANEL, Whole{})) * low;
    y = round_to<T>(y + bias);
    if constexpr (ACTIVATION) y = round_to<T>(activate(y, e.activation));
    if constexpr (RESIDUAL) y = y + load(static_cast<const T*>(e.residual) + at, which);
    if constexpr (RESULT == Result::FLOAT) store(static_cast<T*>(e.out) + at, which, y);
    else store_codes<RESULT == Result::TWIN_CODES>(static_cast<int8_t*>(e.out) + at, which, y, *e.quantizer, c);
  }
}

template <typename T, Input INPUT, bool ACTIVATION, bool RESIDUAL, Result RESULT>
inline void finish_columns(const Epilogue& e, const int32_t* sums, const int32_t* below, int64_t row, int64_t rows,
                           int64_t column, int64_t columns) {
  each_register(columns, [&](int64_t j, auto which) {
    finish_register<T, INPUT, ACTIVATION, RESIDUAL, RESULT>(e, sums + j, INPUT == Input::TWIN ? below + j : nullptr, row, rows,
                                                                 column + j, which);
  });
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
      multiply_tile<Codes::SHIFTED>(rows, vectors, tile, depth, panel, depth, e.compensation + column, sums);
    }
    finish<T, INPUT>(e, sums, INPUT == Input::TWIN ? below : nullptr, row, rows, column, columns);
  }
}

// Reorder a weight (outputs, depth) into panels (depth / 4, 16 * vectors, 4) of 64 outputs, the last as wide as is left;
// `compensation` is that of `Epilogue`.
inline void pack_panel(const int8_t* weight, int64_t stride, int64_t outputs, int64_t depth, int64_t column,
                       int8_t* packed, int32_t* compensation) {
  const int64_t columns = std::min(PANEL, outputs - column), width = (columns + LANES - 1) / LANES * LANES;
  int8_t* panel = packed + column * depth;
  for (int64_t j = 0; j < width; j += LANES) {
    Words sums = all_words(0);
    for (int64_t k = 0; k < depth; k += 4 * LANES) {
      const int64_t words = std::min(LANES, (depth - k) / 4);
      Words block[LANES];
      for (int64_t i = 0; i < LANES; ++i)
        block[i] = j + i < columns ? load_words(weight + (column + j + i) * stride + k, Tail{words}) : all_words(0);
      transpose(block);
      for (int64_t i = 0; i < words; ++i) {
        store_words(panel + (k + 4 * i) * width + j * 4, block[i]);
        sums = add_bytes(sums, block[i]);
      }
    }
    store_words(compensation + column + j, sums * all_words(-128));
  }
}

}  // namespace fxquant
