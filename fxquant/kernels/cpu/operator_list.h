// The operators that each library of kernels has, in the order of its table.
#pragma once
#include <torch/csrc/stable/library.h>

#include <cstdint>

#define FXQUANT_OPERATORS(EACH) \
  EACH(pack)                    \
  EACH(gemm)                    \
  EACH(gemm_tokens)             \
  EACH(layer_norm_quantize)     \
  EACH(layer_norm_quantize_tokens) \
  EACH(quantize)                \
  EACH(quantize_tokens)         \
  EACH(attention)               \
  EACH(learned_step)            \
  EACH(learned_step_backward)   \
  EACH(variation)               \
  EACH(weight_scales)

namespace fxquant {

// An operator as torch calls it: operands and results on one stack.
using Boxed = void (*)(StableIValue* stack, uint64_t operands, uint64_t results);

#define FXQUANT_DECLARE(NAME) extern const Boxed boxed_##NAME;
FXQUANT_OPERATORS(FXQUANT_DECLARE)
#undef FXQUANT_DECLARE

}  // namespace fxquant
