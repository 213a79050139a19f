// What becomes of the sums of products, for one register of them at a time.
#pragma once
#include "products.h"

namespace fxquant {

enum class Input { ONE_SCALE, TWIN, TOKENS };
enum class Result { FLOAT, CODES, TWIN_CODES };

// Null where a step is left out. Rows of `out` and `residual` are `outputs` wide.
struct Epilogue {
  const int32_t* compensation;  // -128 * sum_k weight[o, k]: the codes are multiplied as code + 128; where the sums start
  const float* scale;
  const float* scale_low;  // of the negative codes of a twin-uniform input
  const float* row_scale;  // of each row of the codes, and its zero point as these are stored
  const int32_t* row_zero_point;
  const float* bias;
  const float* activation;
  const void* residual;
  const Quantizer* quantizer;
  void* out;
  int64_t outputs;
  int64_t out_row = 0;  // which of the rows `out` begins with
};

// A kind of epilogue. The products and sums come in the order of the reference, so that float32 results are the same bits.
template <typename T, Input INPUT, bool ACTIVATION, bool RESIDUAL, Result RESULT>
struct Finish {
  // The parts in which a register is finished beside products: short ones, as what waits for its operands keeps products waiting.
  static constexpr int64_t PARTS = ACTIVATION ? 3 : 1;

  // `below`: the sums of the negative codes of a twin-uniform input, else not read.
  template <typename W>
  static inline __attribute__((always_inline)) void whole(const Epilogue& e, const int32_t* sums, const int32_t* below,
                                                          int64_t row, int64_t c, W which) {
    Floats y = value(e, sums, below, row, c, which);
    if constexpr (ACTIVATION) y = round_to<T>(activate(y, e.activation));
    write(e, y, row, c, which);
  }

  // Between the parts the values are kept in place of the sums.
  static inline __attribute__((always_inline)) void part(int64_t number, const Epilogue& e, int32_t* sums,
                                                         const int32_t* below, int64_t row, int64_t c) {
    if constexpr (PARTS == 1) return whole(e, sums, below, row, c, Whole{});
    const auto kept = [&] { return floats_of(load_words(sums, Whole{})); };
    if (number == 0) store_words(sums, bits_of(value(e, sums, below, row, c, Whole{})));
    else if (number == 1) store_words(sums, bits_of(round_to<T>(activate(kept(), e.activation))));
    else write(e, kept(), row, c, Whole{});
  }

 private:
  template <typename W>
  static inline __attribute__((always_inline)) Floats value(const Epilogue& e, const int32_t* sums, const int32_t* below,
                                                            int64_t row, int64_t c, W which) {
    Words sum = load_words(sums, Whole{});
    if constexpr (INPUT == Input::TOKENS) {
      const Words weights = shift_right<7>(load_words(e.compensation + c, Whole{}));  // the sum of the weight
      sum = sum + all_words(e.row_zero_point[row]) * weights;
    }
    Floats y = to_floats(sum) * load(e.scale + c, which);
    if constexpr (INPUT == Input::TOKENS) y = y * all(e.row_scale[row]);
    if constexpr (INPUT == Input::TWIN) y = y + to_floats(all_words(0) - load_words(below, Whole{})) * load(e.scale_low + c, which);
    return round_to<T>(y + load(e.bias + c, which));
  }

  template <typename W>
  static inline __attribute__((always_inline)) void write(const Epilogue& e, Floats y, int64_t row, int64_t c,
                                                          W which) {
    const int64_t at = (row - e.out_row) * e.outputs + c;
    if constexpr (RESIDUAL) y = y + load(static_cast<const T*>(e.residual) + at, which);
    if constexpr (RESULT == Result::FLOAT) store(static_cast<T*>(e.out) + at, which, y);
    else store_codes<RESULT == Result::TWIN_CODES>(static_cast<int8_t*>(e.out) + at, which, y, *e.quantizer, c);
  }
};

// Call `use` with the kind of an epilogue: (activation | residual) of float results, activation of codes.
template <typename T, Input INPUT, typename Use>
inline void with_finish(const Epilogue& e, const Use& use) {
  const bool activation = e.activation != nullptr;
  if (e.quantizer == nullptr) {
    if (e.residual != nullptr) use(Finish<T, INPUT, false, true, Result::FLOAT>{});
    else if (activation) use(Finish<T, INPUT, true, false, Result::FLOAT>{});
    else use(Finish<T, INPUT, false, false, Result::FLOAT>{});
  } else if (e.quantizer->low == 0) {
    if (activation) use(Finish<T, INPUT, true, false, Result::CODES>{});
    else use(Finish<T, INPUT, false, false, Result::CODES>{});
  } else {
    if (activation) use(Finish<T, INPUT, true, false, Result::TWIN_CODES>{});
    else use(Finish<T, INPUT, false, false, Result::TWIN_CODES>{});
  }
}

// Ask for the rows that a tile will add and write while its products are still being summed.
template <typename T>
inline void prefetch(const Epilogue& e, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  constexpr int64_t LINE = 64;
  const int64_t width = e.quantizer != nullptr ? 1 : sizeof(T);
  for (int64_t i = row; i < row + rows; ++i) {
    const int64_t at = (i - e.out_row) * e.outputs + column;
    for (int64_t byte = 0; byte < columns * width; byte += LINE) __builtin_prefetch(static_cast<char*>(e.out) + at * width + byte, 1);
    if (e.residual == nullptr) continue;
    for (int64_t byte = 0; byte < columns * static_cast<int64_t>(sizeof(T)); byte += LINE)
      __builtin_prefetch(static_cast<const char*>(e.residual) + at * sizeof(T) + byte);
  }
}

}  // namespace fxquant
