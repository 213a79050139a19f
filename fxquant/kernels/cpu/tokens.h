// Codes with a scale and a zero point for each row, from the range of its values and zero.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "vector.h"

namespace fxquant {

// The smallest and the largest of the values so far, and zero; and where a NaN was, which neither of them keeps.
struct Range {
  Floats least = all(0), most = all(0);
  Mask unordered = none();

  void widen(Floats x) {
    unordered = unordered | is_nan(x);
    least = minimum(least, x);
    most = maximum(most, x);
  }
};

// What rows become, and where; `codes` are `width` wide.
struct TokenCodes {
  bool symmetric;
  float qmin, qmax;
  int32_t offset;
  int64_t width;
  int8_t* codes;
  float* scale;
  int32_t* zero_point;  // as the codes are stored

  // The steps are those of `token_qparams` in fxquant/numerics/arithmetic.py.
  Quantizer quantizer(const Range& range) const {
    const float least = smallest(range.least), most = largest(range.most);
    const bool centred = symmetric && qmin < 0;
    const float found = centred ? std::max(-least, most) : symmetric ? most : most - least;
    const float width = any(range.unordered) ? NAN : found;
    const float steps = centred ? (qmax - qmin) / 2 : symmetric ? qmax : qmax - qmin;
    const float step = std::max(width / steps, FLT_EPSILON), zero = qmin - std::nearbyint(least / step);
    const float centre = symmetric ? 0 : std::min(zero > qmin ? zero : qmin, qmax);  // what is no number as well
    return {step, 0, 0, centre, qmin, qmax, offset, nullptr};
  }

  // Rows whose scales are computed before the codes of the first: each is a chain of reductions and divisions.
  static constexpr int64_t AT_ONCE = 4;

  // Make codes of the rows `first` to `last`; `values` are those of `first`, and `range(i, row)` finds the range of a row.
  template <typename T, typename FindRange>
  void write(int64_t first, int64_t last, T* values, int64_t stride, const FindRange& range) const {
    Quantizer quantizers[AT_ONCE]{};
    for (int64_t some = first; some < last; some += AT_ONCE, values += AT_ONCE * stride) {
      const int64_t count = std::min(AT_ONCE, last - some);
      for (int64_t k = 0; k < count; ++k) quantizers[k] = quantizer(range(some + k, values + k * stride));
      for (int64_t k = 0; k < count; ++k) write_row(some + k, values + k * stride, quantizers[k]);
    }
  }

  template <typename T>
  void write(int64_t first, int64_t last, const T* values, int64_t stride) const {
    write(first, last, values, stride, [&](int64_t, const T* row) {
      Range range;
      each_register(width, [&](int64_t j, auto which) { range.widen(load(row + j, which)); });
      return range;
    });
  }

 private:
  template <typename T>
  void write_row(int64_t row, const T* values, const Quantizer& q) const {
    scale[row] = q.scale;
    zero_point[row] = static_cast<int32_t>(q.zero_point) - offset;
    int8_t* out = codes + row * width;
    each_register(width, [&](int64_t j, auto which) { store_codes<false>(out + j, which, load(values + j, which), q, j); });
  }
};

}  // namespace fxquant
