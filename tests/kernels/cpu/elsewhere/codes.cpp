// The kernels without torch: what they make of the same operands, for comparing processors. Built and run by test_elsewhere.py.
#include <cmath>
#include <cstdio>
#include <limits>

#include "attention.h"
#include "gemm.h"
#include "layer_norm.h"
#include "tokens.h"

using namespace fxquant;

namespace {

struct Generator {
  uint64_t state;

  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  int8_t byte() { return static_cast<int8_t>(next()); }
  float real() { return static_cast<float>(static_cast<int32_t>(next() % 2000001) - 1000000) / 250000.0f; }
};

// What is printed of many values.
template <typename T>
uint64_t checksum(const std::vector<T>& values) {
  uint64_t sum = 14695981039346656037u;
  for (const T value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    sum = (sum ^ bits) * 1099511628211u;
  }
  return sum;
}

void products(int64_t rows, int64_t depth, int64_t outputs, bool twin, bool tokens) {
  Generator g{static_cast<uint64_t>(rows * 1000003 + depth * 1009 + outputs * 2 + twin)};
  const int64_t width = (outputs + LANES - 1) / LANES * LANES;
  std::vector<int8_t> codes(rows * depth), weight(outputs * depth), packed(width * depth);
  std::vector<int32_t> compensation(width), zero_points(rows);
  std::vector<float> scale(outputs, 1.0f), bias(outputs, 0.0f), out(rows * outputs), row_scale(rows, 1.0f);
  for (int8_t& c : codes) c = g.byte();
  for (int8_t& w : weight) w = g.byte();
  for (int32_t& z : zero_points) z = g.byte();
  for (int64_t column = 0; column < outputs; column += PANEL)
    pack_panel(weight.data(), depth, outputs, depth, column, packed.data(), compensation.data());
  Epilogue e{compensation.data(), scale.data(), twin ? scale.data() : nullptr, row_scale.data(), zero_points.data(),
             bias.data(), nullptr, nullptr, nullptr, out.data(), outputs};
  for (int64_t column = 0; column < outputs; column += PANEL) {
    if (twin) gemm_block<float, Input::TWIN>(codes.data(), packed.data(), depth, 0, rows, column, e);
    else if (tokens) gemm_block<float, Input::TOKENS>(codes.data(), packed.data(), depth, 0, rows, column, e);
    else gemm_block<float, Input::ONE_SCALE>(codes.data(), packed.data(), depth, 0, rows, column, e);
  }
  int64_t wrong = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t o = 0; o < outputs; ++o) {
      int64_t sum = 0;  // float32 holds each, and sums of the two parts of a twin
      for (int64_t k = 0; k < depth; ++k) sum += (codes[i * depth + k] - (tokens ? zero_points[i] : 0)) * weight[o * depth + k];
      wrong += out[i * outputs + o] != static_cast<float>(sum);
    }
  std::printf("products %ld %ld %ld twin %d tokens %d: %ld wrong\n", rows, depth, outputs, twin, tokens, wrong);
}

template <typename T>
void values(int64_t width) {
  Generator g{static_cast<uint64_t>(width)};
  std::vector<float> from(width), noise(width), table(TABLE_ROWS * SEGMENTS), row(width + LANES), weight(width), rounded(width);
  std::vector<T> x(width), gelu(width);
  std::vector<int8_t> codes(width), twin(width), norm(width), token(width);
  for (float& v : from) v = g.real();
  for (float& v : noise) v = g.real() / 100;
  for (float& v : weight) v = g.real();
  for (float& v : table) v = g.real();
  from[0] = std::numeric_limits<float>::infinity();
  if (width > 2) from[2] = -from[0];
  each_register(width, [&](int64_t j, auto which) { store(x.data() + j, which, load(from.data() + j, which)); });
  const Quantizer q{0.037f, 0, 0, 3, 0, 255, 128, noise.data()}, t{0.05f, 0.003f, 0.1f, 0, -127, 127, 0, nullptr};
  each_register(width, [&](int64_t j, auto which) {
    const Floats v = load(x.data() + j, which);
    store_codes<false>(codes.data() + j, which, v, q, j);
    store_codes<true>(twin.data() + j, which, v, t, j);
    store(gelu.data() + j, which, activate(v, table.data()));
  });
  from[0] = from[width > 2 ? 2 : 0] = 0.5f;
  each_register(width, [&](int64_t j, auto which) { store(x.data() + j, which, load(from.data() + j, which)); });
  each_register(width, [&](int64_t j, auto which) {
    store(rounded.data() + j, which, exp2_negative(load(x.data() + j, which) * all(40) - all(161)));
  });
  normalize_row(x.data(), width, weight.data(), noise.data(), 1e-6f, row.data(),
                [&](int64_t j, auto which, Floats y) { store_codes<false>(norm.data() + j, which, y, q, j); });
  float scale = 0;
  int32_t zero_point = 0;
  const TokenCodes tokens{false, 0, 255, 128, width, token.data(), &scale, &zero_point};
  tokens.write(0, 1, x.data(), width);
  std::printf("values %ld of %zu bytes: %016lx %016lx %016lx %016lx %016lx %016lx %d %a\n", width, sizeof(T), checksum(codes),
              checksum(twin), checksum(gelu), checksum(rounded), checksum(norm), checksum(token), zero_point, scale);
}

void attention(int64_t keys, int64_t depth) {
  Generator g{static_cast<uint64_t>(keys * depth)};
  std::vector<float> q(QUERIES * depth), k(keys * depth), v(keys * depth), bias(QUERIES * keys);
  for (auto* each : {&q, &k, &v, &bias})
    for (float& x : *each) x = g.real() / 4;
  Head<Float32> head(keys, depth);
  head.pack(Rows<float>{k.data(), depth}, Rows<float>{v.data(), depth});
  float inverse[QUERIES];
  head.attend(Rows<float>{q.data(), depth}, 0, QUERIES, 0.125f, bias.data(), nullptr, inverse);
  std::printf("attention %ld %ld: %016lx %a\n", keys, depth, checksum(head.context), inverse[3]);
}

}  // namespace

int main() {
  for (const int64_t rows : {1, 2, 5, 6, 7, 13})
    for (const int64_t depth : {4, 12, 16, 20, 60, 64, 68, 1020, 1024, 1028, 2056})
      for (const int64_t outputs : {1, 15, 16, 17, 63, 64, 65, 130}) {
        products(rows, depth, outputs, false, false);
        if (rows == 7 && depth < 1020) products(rows, depth, outputs, true, false);
        if (rows == 7) products(rows, depth, outputs, false, true);
      }
  for (const int64_t width : {1, 15, 16, 17, 31, 32, 33, 100, 768}) {
    values<float>(width);
    values<bf16>(width);
  }
  for (const int64_t keys : {1, 5, 16, 49, 197}) attention(keys, 32);
  return 0;
}
