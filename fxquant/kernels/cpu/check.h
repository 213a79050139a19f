// What operators ask of their operands before they read them: one that does not fit becomes a Python exception.
#pragma once
#include <cfloat>
#include <cmath>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

#include "stable.h"

namespace fxquant {

constexpr int64_t ANY = -1;                          // a size that may be any
constexpr int64_t MOST = (int64_t{1} << 31) - 1;     // elements of a tensor that is copied to be in one piece
constexpr int64_t DEEPEST_ROWS = int64_t{1} << 16;   // of which each has a zero point of its own
constexpr int64_t DEEPEST = (int64_t{1} << 17) - 1;  // products of two int8 codes whose sum int32 holds

template <typename... Parts>
[[noreturn]] __attribute__((noinline, cold)) void refuse(const Parts&... parts) {
  std::ostringstream message;
  ((message << parts), ...);
  throw std::runtime_error(message.str());
}

inline const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Double: return "float64";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    default: return "another dtype";
  }
}

inline std::string show(torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  std::ostringstream text;
  for (const int64_t n : sizes) {
    if (text.tellp() > 0) text << ", ";
    if (n == ANY) text << "*";
    else text << n;
  }
  return "(" + text.str() + ")";
}

inline std::string show(const Tensor& t) { return std::string(name_of(t.scalar_type())) + " of shape " + show(t.sizes()); }

inline bool is_floating(const Tensor& t) {
  const ScalarType dtype = t.scalar_type();
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half || dtype == ScalarType::Double;
}

inline bool has_sizes(const Tensor& t, std::initializer_list<int64_t> sizes) {
  if (t.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t d = 0;
  for (const int64_t n : sizes)
    if (const int64_t found = t.size(d++); n != found && n != ANY) return false;
  return true;
}

// What is expanded to a size that no memory holds cannot be copied, and a storage that was cut short holds less than the strides
// of its tensor reach.
inline void check_memory(const Tensor& t, const char* name) {
  if (t.numel() > MOST && !t.is_contiguous())
    refuse("expected ", name, " of at most ", MOST, " elements, or in one piece, found ", show(t));
  if (t.numel() == 0) return;
  int64_t size = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &size));
  __int128 reach = static_cast<__int128>(t.storage_offset()) + 1;
  for (int64_t d = 0; d < t.dim(); ++d) reach += static_cast<__int128>(t.size(d) - 1) * t.stride(d);
  if (reach * static_cast<int64_t>(t.element_size()) > size)
    refuse("expected ", name, " within its storage, found one of ", size, " bytes for ", show(t));
}

// An operator that is called with None for a tensor is given one that is not defined.
inline void check_defined(const Tensor& t, const char* name) {
  if (!t.defined()) refuse("expected ", name, ", found none");
}

// Return an operand of this dtype and these sizes, in one piece.
inline Tensor read(const Tensor& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  check_defined(t, name);
  if (t.scalar_type() != dtype || !has_sizes(t, sizes))
    refuse("expected ", name, " in ", name_of(dtype), " of shape ", show(sizes), ", found ", show(t),
           t.scalar_type() != dtype ? "; a converted model is not cast: choose float_dtype before" : "");
  check_memory(t, name);
  return whole(t);
}

inline Maybe read(const Maybe& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  return t.has_value() ? Maybe(read(*t, name, dtype, sizes)) : std::nullopt;
}

// Return the element of a tensor () or (1).
template <typename T>
T read_one(const Tensor& t, const char* name, ScalarType dtype) {
  check_defined(t, name);
  if (t.scalar_type() != dtype || t.dim() > 1 || t.numel() != 1)
    refuse("expected ", name, " in ", name_of(dtype), " of one element, found ", show(t));
  check_memory(t, name);
  return *pointer<T>(t);
}

template <typename T>
T read_one(const Maybe& t, const char* name, ScalarType dtype) { return t.has_value() ? read_one<T>(*t, name, dtype) : T{0}; }

// Return values in a dtype that the kernels read, in rows of at least one.
inline Tensor read_values(const Tensor& t, const char* name) {
  if (!is_floating(t) || t.dim() == 0 || t.size(t.dim() - 1) == 0)
    refuse("expected ", name, " of a float dtype with a last axis that is not empty, found ", show(t));
  check_memory(t, name);
  const bool reads = t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16;
  return whole(reads ? t : torch::stable::to(t, ScalarType::Float));
}

inline float read_float(double value, const char* name, double least = -FLT_MAX) {
  if (!(value >= least && value <= FLT_MAX)) refuse("expected ", name, " between ", least, " and ", FLT_MAX, ", found ", value);
  return static_cast<float>(value);
}

// Return a bound, which may be infinite.
inline float read_bound(double value) { return std::isinf(value) ? static_cast<float>(value) : read_float(value, "a bound"); }

inline void check_within(int64_t value, const char* name, int64_t least, int64_t most) {
  if (value < least || value > most) refuse("expected ", name, " between ", least, " and ", most, ", found ", value);
}

}  // namespace fxquant
