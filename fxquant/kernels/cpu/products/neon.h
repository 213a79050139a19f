// Products of codes by the dot products of ARMv8.2.
#pragma once
#include <arm_neon.h>

namespace fxquant {

constexpr bool BESIDE = false;
constexpr int64_t TILE_ROWS = 6;  // 6 x 4 registers of sums, 4 of weights, 1 of codes: 29 of 32

// Four codes of one row in every lane.
template <Codes KIND>
inline int8x16_t broadcast_codes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  if constexpr (KIND == Codes::POSITIVE) return vmaxq_s8(x, vdupq_n_s8(0));
  if constexpr (KIND == Codes::NEGATIVE) return vminq_s8(x, vdupq_n_s8(0));
  return x;
}

// Signed codes are multiplied as they are, so that sums start at zero; those of negative codes change their sign at the end.
template <int ROWS, Codes KIND>
inline void multiply_rows(int64_t vectors, const int8_t* codes, int64_t stride, const int8_t* panel, int64_t depth,
                          const int32_t*, int32_t* sums) {
  for (int64_t j = 0; j < vectors; ++j, panel += 64, sums += LANES) {
    int32x4_t acc[ROWS][4];
#pragma GCC unroll 8
    for (auto& row : acc)
#pragma GCC unroll 8
      for (int32x4_t& each : row) each = vdupq_n_s32(0);
    for (int64_t k = 0; k < depth; k += 4) {
      const int8_t* at = panel + k / 4 * vectors * 64;
      int8x16_t weights[4];
#pragma GCC unroll 8
      for (int n = 0; n < 4; ++n) weights[n] = vld1q_s8(at + 16 * n);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        const int8x16_t four = broadcast_codes<KIND>(codes + i * stride + k);
#pragma GCC unroll 8
        for (int n = 0; n < 4; ++n) acc[i][n] = vdotq_s32(acc[i][n], four, weights[n]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
      for (int n = 0; n < 4; ++n)
        vst1q_s32(sums + i * PANEL + 4 * n, KIND == Codes::NEGATIVE ? vnegq_s32(acc[i][n]) : acc[i][n]);
  }
}

}  // namespace fxquant
