// int8 matrix product with everything that follows it done while the sums are in the first-level cache.
#pragma once
#include <algorithm>

#include "epilogue.h"

namespace fxquant {

constexpr int64_t BLOCK_ROWS = 96;  // rows that stay in the second-level cache while panels pass by

// The sums of one tile; those of negative codes apart where they have a scale of their own.
template <bool TWIN>
struct Sums {
  alignas(64) int32_t all[TILE_ROWS * PANEL], negative[TWIN ? TILE_ROWS * PANEL : 1];

  int32_t* at(int64_t i, int64_t j) { return all + i * PANEL + j; }
  int32_t* below(int64_t i, int64_t j) { return negative + (TWIN ? i * PANEL + j : 0); }
};

// One block of rows times one panel.
template <typename T, Input INPUT, typename Kind>
void gemm_tiles(const int8_t* codes, const int8_t* packed, int64_t depth, int64_t first, int64_t last, int64_t column,
                const Epilogue& e) {
  constexpr bool TWIN = INPUT == Input::TWIN;
  constexpr Codes FORM = TWIN ? Codes::POSITIVE : Codes::SHIFTED;
  alignas(64) static const int32_t zeros[PANEL] = {};
  const int64_t columns = std::min(PANEL, e.outputs - column), vectors = (columns + LANES - 1) / LANES;
  const int8_t* panel = packed + column * depth;
  const int32_t* start = TWIN ? zeros : e.compensation + column;
  int64_t row = first;
  const auto multiply_negative = [&](int64_t rows, Sums<TWIN>& sums) {
    if constexpr (TWIN)
      multiply_tile<Codes::NEGATIVE>(rows, vectors, codes + row * depth, depth, panel, depth, zeros, sums.negative);
  };
  Sums<TWIN> now;
  if constexpr (BESIDE) {  // while a tile is multiplied, the one before it is finished
    Sums<TWIN> other, *sums = &now, *before = &other;
    int64_t parts = 0;
    const auto finish_before = [&](int64_t part) __attribute__((always_inline)) {
      const int64_t at = part / Kind::PARTS, i = at / (PANEL / LANES), j = at % (PANEL / LANES) * LANES;
      Kind::part(part % Kind::PARTS, e, before->at(i, j), before->below(i, j), row - TILE_ROWS + i, column + j);
    };
    for (; columns == PANEL && row + TILE_ROWS <= last; row += TILE_ROWS) {
      prefetch<T>(e, row, TILE_ROWS, column, columns);
      multiply_beside<FORM>(codes + row * depth, depth, panel, depth, start, sums->all, parts, finish_before);
      multiply_negative(TILE_ROWS, *sums);
      std::swap(sums, before);
      parts = TILE_ROWS * (PANEL / LANES) * Kind::PARTS;
    }
    for (int64_t part = 0; part < parts; ++part) finish_before(part);
  }
  for (; row < last; row += TILE_ROWS) {
    const int64_t rows = std::min(TILE_ROWS, last - row);
    prefetch<T>(e, row, rows, column, columns);
    multiply_tile<FORM>(rows, vectors, codes + row * depth, depth, panel, depth, start, now.all);
    multiply_negative(rows, now);
    each_register(columns, [&](int64_t j, auto which) {
      for (int64_t i = 0; i < rows; ++i) Kind::whole(e, now.at(i, j), now.below(i, j), row + i, column + j, which);
    });
  }
}

template <typename T, Input INPUT>
void gemm_block(const int8_t* codes, const int8_t* packed, int64_t depth, int64_t first, int64_t last, int64_t column,
                const Epilogue& e) {
  with_finish<T, INPUT>(e, [&](auto kind) {
    gemm_tiles<T, INPUT, decltype(kind)>(codes, packed, depth, first, last, column, e);
  });
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
