// Products of int8 codes with a packed weight, by what each processor has for it.
#pragma once
#include <algorithm>
#include <cstring>

#include "vector.h"

namespace fxquant {

constexpr int64_t PANEL = 64;  // output channels of one panel of the packed weight

// As what codes are multiplied: as they are, or shifted by 128 where the processor wants unsigned bytes; max(code, 0); or
// -min(code, 0).
enum class Codes { SHIFTED, POSITIVE, NEGATIVE };

// A whole tile, and between its products `part(i)` for each i below `parts`. Products take a port or two of each cycle and few of
// the instructions; what else there is to do costs little beside them. Only where BESIDE: there are registers left for it.
template <Codes KIND, typename Part>
void multiply_beside(const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth, const int32_t* start, int32_t* sums,
                     int64_t parts, const Part& part);

}  // namespace fxquant

// Each has `multiply_rows<ROWS, KIND>(vectors, codes, stride, panel, depth, start, sums)`, up to TILE_ROWS rows:
// sums (ROWS, PANEL) = codes (ROWS, depth) times one panel (depth / 4, 16 * vectors, 4), where `start` is minus what shifting
// the codes adds.
#if defined(__AVX512VNNI__) && !defined(FXQUANT_256_BITS)
#include "products/avx512.h"
#elif defined(__AVX2__)
#include "products/avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "products/neon.h"
#else
#include "products/portable.h"
#endif

namespace fxquant {

template <Codes KIND, int ROWS = TILE_ROWS>
void multiply_tile(int64_t rows, int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel,
                   int64_t depth, const int32_t* start, int32_t* sums) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return multiply_tile<KIND, ROWS - 1>(rows, vectors, codes, stride, panel, depth, start, sums);
  multiply_rows<ROWS, KIND>(vectors, codes, stride, panel, depth, start, sums);
}

}  // namespace fxquant
