// Sixteen lanes on any processor: what `lanes/` has for each, and on it rounding as torch rounds, quantisers, exp and activations.
#pragma once
#include <algorithm>
#include <cstdint>

namespace fxquant {

using bf16 = uint16_t;
constexpr int64_t LANES = 16;

// Which of the lanes of a register count: all, or as many as are left of a row.
struct Whole {};
struct Tail {
  int64_t count;
};

// Call `f(column, which)` for each register of a row.
template <typename F>
inline void each_register(int64_t width, const F& f) {
  const int64_t whole = width / LANES * LANES;
  for (int64_t j = 0; j < whole; j += LANES) f(j, Whole{});
  if (whole < width) f(whole, Tail{width - whole});
}

// The address sanitizer does not see masked loads and stores: where it is on, read each element of theirs on its own first.
template <typename T>
inline void touch([[maybe_unused]] const T* p, [[maybe_unused]] Tail tail) {
#ifdef __SANITIZE_ADDRESS__
  const int64_t bytes = std::min(tail.count, LANES) * static_cast<int64_t>(sizeof(T));
  for (int64_t byte = 0; byte < bytes; ++byte) static_cast<void>(reinterpret_cast<const volatile int8_t*>(p)[byte]);
#endif
}

struct Floats;
struct Words;
inline Words upper_half(Floats x);

}  // namespace fxquant

#if defined(__AVX512F__) && !defined(FXQUANT_256_BITS)
#include "lanes/avx512.h"
#elif defined(__AVX2__)
#include "lanes/avx2.h"
#else
#include "lanes/portable.h"
#endif

namespace fxquant {

// The upper 16 bits of float32, rounded half to even: bfloat16.
inline Words upper_half(Floats x) {
  const Words bits = bits_of(select(is_nan(x), floats_of(all_words(0x7FC00000)), x));
  const Words odd = shift_right_zeros<16>(bits) & all_words(1);
  return shift_right_zeros<16>(bits + odd + all_words(0x7FFF));
}

// Round to the dtype that the values between two operators have.
template <typename T>
inline Floats round_to(Floats x) {
  if constexpr (sizeof(T) == sizeof(float)) return x;
  else return widen(narrow(x));
}

// x / scale, correctly rounded: one Newton step on the remainder (Markstein 1990), a third of the time of a division. Beyond
// 2^24 it only has to stay there, infinite or not.
inline Floats divide(Floats x, Floats scale, Floats reciprocal) {
  const Floats quotient = clamp_magnitude(x * reciprocal, all(16777216.0f));
  return multiply_add(subtract_product(x, quotient, scale), reciprocal, quotient);
}

// A quantiser of one scale: uniform, or twin-uniform where `low` is not zero. `offset`: unsigned 8-bit codes are stored minus it.
struct Quantizer {
  float scale, low, split, zero_point, qmin, qmax;
  int32_t offset;
  const float* noise;  // one value per column, or null
  float reciprocal = 1.0f / scale;
};

template <bool TWIN>
inline Words quantize(Floats x, const Quantizer& q) {
  Floats steps;
  if constexpr (TWIN) {
    const Mask above = at_most(all(q.split), x);
    const Floats scale = select(above, all(q.scale), all(q.low));
    steps = divide(x, scale, select(above, all(1.0f / q.scale), all(1.0f / q.low)));
  } else {
    steps = divide(x, all(q.scale), all(q.reciprocal)) + all(q.zero_point);
  }
  return round_to_words(minimum(maximum(steps, all(q.qmin)), all(q.qmax))) - all_words(q.offset);
}

template <bool TWIN, typename W>
inline void store_codes(int8_t* p, W which, Floats x, const Quantizer& q, int64_t column) {
  if (q.noise != nullptr) x = x + load(q.noise + column, which);
  store_bytes(p, which, quantize<TWIN>(x, q));
}

// 2^x for x <= 0, to a few units in the last place.
inline Floats exp2_negative(Floats x) {
  const Floats y = maximum(x, all(-200.0f));
  const Floats whole = round_even(y), f = y - whole;
  // Chebyshev interpolation of 2^f, |f| <= 1/2.
  Floats p = all(1.34004e-3f);
  p = multiply_add(p, f, all(9.67604e-3f));
  p = multiply_add(p, f, all(5.550327e-2f));
  p = multiply_add(p, f, all(2.4022107e-1f));
  p = multiply_add(p, f, all(6.9314721e-1f));
  p = multiply_add(p, f, all(1.0f));
  return times_power_of_two(p, whole);
}

// max(x, 0) - r(|x|), where r is a cubic on each of 32 segments of width `STEP`: see fxquant/kernels/activation_table.py.
constexpr int64_t SEGMENTS = 32, TABLE_ROWS = 4;  // a row of coefficients for each power
constexpr float STEP = 0.171875f;

inline Floats activate(Floats x, const float* table) {
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to an integer
  const Floats t = minimum(magnitude(x), all(STEP * (SEGMENTS - 0.75f)));
  const Floats shifted = multiply_add(t, all(1.0f / STEP), magic);
  const Words index = bits_of(shifted);
  const Floats d = subtract_product(t, shifted - magic, all(STEP));
  Floats r = look_up_32(table + 3 * SEGMENTS, index);
  for (int degree = 2; degree >= 0; --degree) r = multiply_add(r, d, look_up_32(table + degree * SEGMENTS, index));
  return maximum(x, all(0.0f)) - r;
}

}  // namespace fxquant
