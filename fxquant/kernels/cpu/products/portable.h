// Products of codes in plain C++.
#pragma once

namespace fxquant {

constexpr bool BESIDE = false;
constexpr int64_t TILE_ROWS = 2;

template <Codes KIND>
inline int32_t one_code(int8_t code) {
  if constexpr (KIND == Codes::SHIFTED) return code + 128;
  if constexpr (KIND == Codes::POSITIVE) return std::max<int32_t>(code, 0);
  return -std::min<int32_t>(code, 0);
}

template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t* start, int32_t* sums) {
  for (int64_t j = 0; j < vectors; ++j, panel += 64, start += LANES, sums += LANES) {
    int32_t acc[ROWS][LANES];
    for (auto& row : acc) std::copy(start, start + LANES, row);
    for (int64_t k = 0; k < depth; k += 4) {
      const int8_t* weights = panel + k / 4 * vectors * 64;
      for (int i = 0; i < ROWS; ++i) {
        const int8_t* four = codes + i * stride + k;
        const int32_t code[] = {one_code<KIND>(four[0]), one_code<KIND>(four[1]), one_code<KIND>(four[2]), one_code<KIND>(four[3])};
        for (int64_t lane = 0; lane < LANES; ++lane)
          for (int n = 0; n < 4; ++n) acc[i][lane] += code[n] * weights[4 * lane + n];
      }
    }
    for (int i = 0; i < ROWS; ++i) std::copy(acc[i], acc[i] + LANES, sums + i * PANEL);
  }
}

}  // namespace fxquant
