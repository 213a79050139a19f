// What a library of kernels gives: its operators, in the order of the list.
#include "operator_list.h"

extern "C" __attribute__((visibility("default"))) const fxquant::Boxed* fxquant_operators() {
#define FXQUANT_TAKE(NAME) fxquant::boxed_##NAME,
  static const fxquant::Boxed table[] = {FXQUANT_OPERATORS(FXQUANT_TAKE)};
#undef FXQUANT_TAKE
  return table;
}
