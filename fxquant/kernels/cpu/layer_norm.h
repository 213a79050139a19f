// Layer norm of one row.
#pragma once
#include <cmath>

#include "vector.h"

namespace fxquant {

// `row` is scratch memory for the width rounded up to whole registers. `write(j, which, y)` is given the values from column j; lanes
// beyond the row are zero.
template <typename T, typename Write>
inline void normalize_row(const T* x, int64_t width, const float* weight, const float* bias, float epsilon, float* row,
                          const Write& write) {
  Floats sum = all(0);
  each_register(width, [&](int64_t j, auto which) {
    const Floats v = load(x + j, which);
    store(row + j, Whole{}, v);
    sum = sum + v;
  });
  const Floats mean = all(total(sum) / static_cast<float>(width));
  Floats squares = all(0);
  each_register(width, [&](int64_t j, auto which) {
    const Floats d = keep(which, load(row + j, Whole{}) - mean);
    store(row + j, Whole{}, d);
    squares = multiply_add(d, d, squares);
  });
  const float variance = total(squares) / static_cast<float>(width);
  const Floats inverse = all(1.0f / std::sqrt(variance + epsilon));
  each_register(width, [&](int64_t j, auto which) {
    Floats y = load(row + j, Whole{}) * inverse;
    if (weight != nullptr) y = y * load(weight + j, which);
    if (bias != nullptr) y = y + load(bias + j, which);
    write(j, which, keep(which, y));
  });
}

}  // namespace fxquant
