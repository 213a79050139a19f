// Sixteen lanes in arrays: what every processor has, and what the others are compared with. Operations give what x86 processors
// give, also of what is no number: of two values, one of them NaN, minimum and maximum are the second.
#pragma once
#include <cmath>
#include <cstring>

namespace fxquant {

constexpr int64_t WIDE = 1;  // registers of sums side by side in one tile of attention

struct Mask {
  bool v[LANES];
};

struct Floats {
  float v[LANES];
};

struct Words {
  int32_t v[LANES];
};

// Call `f` with the number of each lane, and return what it gives.
template <typename Result, typename F>
inline Result lanes(const F& f) {
  Result r;
  for (int i = 0; i < LANES; ++i) r.v[i] = f(i);
  return r;
}
template <typename F>
inline Floats floats(const F& f) { return lanes<Floats>(f); }
template <typename F>
inline Words words(const F& f) { return lanes<Words>(f); }
template <typename F>
inline Mask mask(const F& f) { return lanes<Mask>(f); }

inline int32_t wrapped(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }

inline Floats all(float x) { return floats([&](int) { return x; }); }
inline Words all_words(int32_t x) { return words([&](int) { return x; }); }

inline Floats operator+(const Floats& a, const Floats& b) { return floats([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats operator-(const Floats& a, const Floats& b) { return floats([&](int i) { return a.v[i] - b.v[i]; }); }
inline Floats operator*(const Floats& a, const Floats& b) { return floats([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats operator/(const Floats& a, const Floats& b) { return floats([&](int i) { return a.v[i] / b.v[i]; }); }
inline Words operator+(const Words& a, const Words& b) { return words([&](int i) { return wrapped(int64_t{a.v[i]} + b.v[i]); }); }
inline Words operator-(const Words& a, const Words& b) { return words([&](int i) { return wrapped(int64_t{a.v[i]} - b.v[i]); }); }
inline Words operator*(const Words& a, const Words& b) { return words([&](int i) { return wrapped(int64_t{a.v[i]} * b.v[i]); }); }
inline Words operator&(const Words& a, const Words& b) { return words([&](int i) { return a.v[i] & b.v[i]; }); }
inline Words operator|(const Words& a, const Words& b) { return words([&](int i) { return a.v[i] | b.v[i]; }); }
template <int BITS>
inline Words shift_right(const Words& a) { return words([&](int i) { return a.v[i] >> BITS; }); }  // the sign is repeated
template <int BITS>
inline Words shift_right_zeros(const Words& a) {
  return words([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> BITS); });
}

inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return floats([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Floats multiply_subtract(const Floats& a, const Floats& b, const Floats& c) {
  return floats([&](int i) { return std::fma(a.v[i], b.v[i], -c.v[i]); });
}
inline Floats subtract_product(const Floats& c, const Floats& a, const Floats& b) {
  return floats([&](int i) { return std::fma(-a.v[i], b.v[i], c.v[i]); });
}
inline float minimum(float a, float b) { return a < b ? a : b; }
inline float maximum(float a, float b) { return a > b ? a : b; }
inline Floats minimum(const Floats& a, const Floats& b) { return floats([&](int i) { return minimum(a.v[i], b.v[i]); }); }
inline Floats maximum(const Floats& a, const Floats& b) { return floats([&](int i) { return maximum(a.v[i], b.v[i]); }); }
inline Floats magnitude(const Floats& a) { return floats([&](int i) { return std::fabs(a.v[i]); }); }
inline Floats clamp_magnitude(const Floats& a, const Floats& limit) {
  return floats([&](int i) { return std::copysign(minimum(std::fabs(a.v[i]), limit.v[i]), a.v[i]); });
}
inline Floats round_even(const Floats& a) { return floats([&](int i) { return std::nearbyint(a.v[i]); }); }
inline Floats times_power_of_two(const Floats& a, const Floats& whole) {
  return floats([&](int i) { return std::ldexp(a.v[i], static_cast<int>(whole.v[i])); });
}

inline Mask less(const Floats& a, const Floats& b) { return mask([&](int i) { return a.v[i] < b.v[i]; }); }
inline Mask at_most(const Floats& a, const Floats& b) { return mask([&](int i) { return a.v[i] <= b.v[i]; }); }
inline Mask is_nan(const Floats& a) { return mask([&](int i) { return std::isnan(a.v[i]); }); }
inline Mask operator|(const Mask& a, const Mask& b) { return mask([&](int i) { return a.v[i] || b.v[i]; }); }
inline Mask none() { return mask([](int) { return false; }); }
inline bool any(const Mask& m) { return std::any_of(m.v, m.v + LANES, [](bool b) { return b; }); }
inline Floats select(const Mask& m, const Floats& yes, const Floats& no) {
  return floats([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline Floats keep(Whole, const Floats& x) { return x; }
inline Floats keep(Tail tail, const Floats& x) { return floats([&](int i) { return i < tail.count ? x.v[i] : 0.0f; }); }
inline Floats keep(Whole, const Floats& x, const Floats&) { return x; }
inline Floats keep(Tail tail, const Floats& x, const Floats& otherwise) {
  return floats([&](int i) { return i < tail.count ? x.v[i] : otherwise.v[i]; });
}

// What does not fit becomes the smallest int32.
inline Words round_to_words(const Floats& a) {
  return words([&](int i) {
    const float x = std::nearbyint(a.v[i]);
    return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN;
  });
}
inline Floats to_floats(const Words& a) { return floats([&](int i) { return static_cast<float>(a.v[i]); }); }
inline Words bits_of(const Floats& a) {
  Words r;
  std::memcpy(&r, &a, sizeof r);
  return r;
}
inline Floats floats_of(const Words& a) {
  Floats r;
  std::memcpy(&r, &a, sizeof r);
  return r;
}

inline int64_t count_of(Whole) { return LANES; }
inline int64_t count_of(Tail tail) { return std::min(tail.count, LANES); }

template <typename Result, typename T, typename W>
inline Result load_some(const T* p, W w) {
  Result r{};
  std::memcpy(&r, p, count_of(w) * sizeof(T));
  return r;
}
template <typename W>
inline Floats load(const float* p, W w) { return load_some<Floats>(p, w); }
template <typename W>
inline Words load_words(const void* p, W w) { return load_some<Words>(static_cast<const int32_t*>(p), w); }

struct Halves {
  bf16 v[LANES];
};

inline Floats widen(const Halves& halves) {
  return floats_of(words([&](int i) { return static_cast<int32_t>(uint32_t{halves.v[i]} << 16); }));
}
inline Halves narrow(const Floats& x) {
  const Words upper = upper_half(x);
  return lanes<Halves>([&](int i) { return static_cast<bf16>(upper.v[i]); });
}
template <typename W>
inline Floats load(const bf16* p, W w) { return widen(load_some<Halves>(p, w)); }

template <typename W>
inline void store(float* p, W w, const Floats& x) { std::memcpy(p, x.v, count_of(w) * sizeof(float)); }
template <typename W>
inline void store(bf16* p, W w, const Floats& x) {
  const Halves halves = narrow(x);
  std::memcpy(p, halves.v, count_of(w) * sizeof(bf16));
}
inline void store_words(void* p, const Words& x) { std::memcpy(p, x.v, sizeof x); }
// The low byte of each word.
template <typename W>
inline void store_bytes(int8_t* p, W w, const Words& x) {
  for (int64_t i = 0; i < count_of(w); ++i) p[i] = static_cast<int8_t>(x.v[i]);
}

// The order of AVX-512's reductions: halves, quarters, pairs.
template <typename T, typename Join>
inline T reduce(const T (&x)[LANES], const Join& join) {
  T r[LANES];
  std::copy(x, x + LANES, r);
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) r[i] = join(r[i + half], r[i]);
  return r[0];
}
inline float total(const Floats& x) { return reduce(x.v, [](float a, float b) { return a + b; }); }
inline float smallest(const Floats& x) { return reduce(x.v, [](float a, float b) { return minimum(a, b); }); }
inline float largest(const Floats& x) { return reduce(x.v, [](float a, float b) { return maximum(a, b); }); }

// The entries of a table of 32 that the low five bits of the index name.
inline Floats look_up_32(const float* table, const Words& index) {
  return floats([&](int i) { return table[index.v[i] & 31]; });
}
inline Floats gather(const float* table, const Words& index) { return floats([&](int i) { return table[index.v[i]]; }); }

// A float64 sum of float32 lanes, or of their products, which are exact.
struct Sum {
  double v[LANES] = {};

  void add(const Floats& a) {
    for (int i = 0; i < LANES; ++i) v[i] += a.v[i];
  }
  void add(const Floats& a, const Floats& b) {
    for (int i = 0; i < LANES; ++i) v[i] += double{a.v[i]} * b.v[i];
  }
  double total() const { return reduce(v, [](double a, double b) { return a + b; }); }
};

// Transpose 16 x 16 words in place.
inline void transpose(Words (&r)[16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) std::swap(r[i].v[j], r[j].v[i]);
}

// acc + the sum of the four signed bytes of each word.
inline Words add_bytes(const Words& acc, const Words& bytes) {
  int8_t each[4 * LANES];
  std::memcpy(each, &bytes, sizeof each);
  return acc + words([&](int i) { return each[4 * i] + each[4 * i + 1] + each[4 * i + 2] + each[4 * i + 3]; });
}

// How attention computes products: `STEP` elements of the summed axis at a time, one of them a 32-bit word.
struct Float32 {
  using Element = float;
  static constexpr int64_t STEP = 1;
  static Floats dot(const Floats& acc, float left, const float* right) {
    return multiply_add(all(left), load(right, Whole{}), acc);
  }
};
using BFloat16 = Float32;  // the operands are widened: exact, at the speed of float32

}  // namespace fxquant
