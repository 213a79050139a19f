// The operators `fxquant::cpu_*`: they check nothing that their Python callers have checked, allocate and share out the work.
#include <cmath>
#include <tuple>

#include "attention.h"
#include "gemm.h"
#include "layer_norm.h"
#include "stable.h"

namespace {

using namespace fxquant;
constexpr int64_t ROWS = 16;  // of a layer norm that one task normalizes

bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

std::vector<int64_t> sizes_with_last(const Tensor& t, int64_t last) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  sizes.back() = last;
  return sizes;
}

// Values in a dtype that the kernels read.
Tensor readable(const Tensor& t) {
  const bool read = t.scalar_type() == ScalarType::Float || is_bfloat16(t);
  return whole(read ? t : torch::stable::to(t, ScalarType::Float));
}

const Tensor& expect(const Tensor& t, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == dtype, "fxquant: expected ", name, dtype == ScalarType::Float ? " in float32" : " in int32",
                  ", found another dtype: a converted model is not cast, choose float_dtype before");
  return t;
}

const Maybe& expect(const Maybe& t, ScalarType dtype, const char* name) {
  if (t.has_value()) expect(*t, dtype, name);
  return t;
}

// scale, zero point, low scale, split, noise and the range, as `fxquant.ops.quantize` and `quantize_twin` have them.
Quantizer quantizer(const Tensor& scale, const Maybe& zero_point, const Maybe& low, const Maybe& split, const Maybe& noise,
                    int64_t qmin, int64_t qmax) {
  Quantizer q{};
  q.scale = *pointer<float>(expect(scale, ScalarType::Float, "a scale"));
  q.low = low.has_value() ? *pointer<float>(expect(*low, ScalarType::Float, "a scale")) : 0.0f;
  q.split = split.has_value() ? *pointer<float>(expect(*split, ScalarType::Float, "a split")) : 0.0f;
  q.zero_point = 0.0f;
  if (zero_point.has_value()) q.zero_point = static_cast<float>(*pointer<int32_t>(expect(*zero_point, ScalarType::Int, "a zero point")));
  q.qmin = static_cast<float>(qmin);
  q.qmax = static_cast<float>(qmax);
  q.offset = qmax > 127 ? 128 : 0;
  q.noise = pointer<float>(expect(noise, ScalarType::Float, "noise"));
  return q;
}

std::tuple<Tensor, Tensor> pack(Tensor weight, int64_t outputs, int64_t depth) {
  const int64_t width = round_up(outputs, LANES), stride = weight.size(1);
  Tensor packed = make(weight, {width * depth}, ScalarType::Char), compensation = make(weight, {width}, ScalarType::Int);
  const int8_t* from = pointer<int8_t>(weight);
  int8_t* to = static_cast<int8_t*>(packed.mutable_data_ptr());
  int32_t* sums = static_cast<int32_t*>(compensation.mutable_data_ptr());
  share((outputs + PANEL - 1) / PANEL, [&] {
    return [&](int64_t p) { pack_panel(from, stride, outputs, depth, p * PANEL, to, sums); };
  });
  return {packed, compensation};
}

template <typename T, bool TWIN>
void multiply_blocks(const Tensor& codes, const Tensor& packed, int64_t rows, int64_t depth, const Epilogue& e) {
  const int64_t panels = (e.outputs + PANEL - 1) / PANEL, threads = torch::stable::get_num_threads();
  // Few rows: smaller blocks, so that every thread has some.
  int64_t block = BLOCK_ROWS;
  while (block > TILE_ROWS && panels * ((rows + block - 1) / block) < 4 * threads) block = round_up(block / 2, TILE_ROWS);
  const int64_t blocks = (rows + block - 1) / block;
  const int8_t *a = pointer<int8_t>(codes), *b = pointer<int8_t>(packed);
  share(blocks * panels, [&] {
    return [&](int64_t task) {
      const int64_t first = task / panels * block;
      gemm_block<T, TWIN>(a, b, depth, first, std::min(rows, first + block), task % panels * PANEL, e);
    };
  });
}

Tensor gemm(Tensor codes, Tensor packed, Tensor compensation, Tensor scale, Maybe scale_low, Tensor bias,
            Maybe activation, Maybe residual, Maybe q_scale, Maybe q_zero_point, Maybe q_low, Maybe q_split,
            Maybe q_noise, int64_t qmin, int64_t qmax, bool bfloat16) {
  const ScalarType dtype = bfloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  codes = whole(codes);
  for (const Tensor& t : {scale, bias}) expect(t, ScalarType::Float, "scales and biases");
  expect(scale_low, ScalarType::Float, "scales");
  STD_TORCH_CHECK(!residual.has_value() || (!q_scale.has_value() && !activation.has_value()),
                  "cpu_gemm: a residual is added to float results without GELU only");
  if (residual.has_value()) {
    residual = whole(residual->scalar_type() == dtype ? *residual : torch::stable::to(*residual, dtype));
    STD_TORCH_CHECK(residual->numel() * codes.size(codes.dim() - 1) == codes.numel() * scale.size(0),
                    "cpu_gemm: the residual has another size than the result");
  }
  const int64_t depth = codes.size(codes.dim() - 1), rows = codes.numel() / depth, outputs = scale.size(0);
  Tensor out = make(codes, sizes_with_last(codes, outputs), q_scale.has_value() ? ScalarType::Char : dtype);
  Quantizer q{};
  if (q_scale.has_value()) q = quantizer(*q_scale, q_zero_point, q_low, q_split, q_noise, qmin, qmax);
  const Epilogue e{pointer<int32_t>(compensation), pointer<float>(scale),        pointer<float>(scale_low),
                   pointer<float>(bias),           pointer<float>(activation),   pointer<void>(residual),
                   q_scale.has_value() ? &q : nullptr, out.mutable_data_ptr(), outputs};
  if (bfloat16 && e.scale_low) multiply_blocks<bf16, true>(codes, packed, rows, depth, e);
  else if (bfloat16) multiply_blocks<bf16, false>(codes, packed, rows, depth, e);
  else if (e.scale_low) multiply_blocks<float, true>(codes, packed, rows, depth, e);
  else multiply_blocks<float, false>(codes, packed, rows, depth, e);
  return out;
}

template <typename T>
void normalize_rows(const Tensor& x, const Maybe& weight, const Maybe& bias, double epsilon, const Quantizer& q,
                    int8_t* codes) {
  const int64_t width = x.size(x.dim() - 1), rows = x.numel() / width;
  share((rows + ROWS - 1) / ROWS, [&] {
    return [&, row = std::vector<float>(round_up(width, LANES))](int64_t task) mutable {
      for (int64_t i = task * ROWS; i < std::min(rows, (task + 1) * ROWS); ++i)
        normalize_row(pointer<T>(x) + i * width, width, pointer<float>(weight), pointer<float>(bias),
                      static_cast<float>(epsilon), q, row.data(), codes + i * width);
    };
  });
}

Tensor layer_norm_quantize(Tensor x, Maybe weight, Maybe bias, double epsilon, Tensor scale, Maybe zero_point,
                           int64_t qmin, int64_t qmax, Maybe noise) {
  x = readable(x);
  expect(weight, ScalarType::Float, "weights of a layer norm");
  expect(bias, ScalarType::Float, "biases of a layer norm");
  Tensor codes = make(x, {x.sizes().begin(), x.sizes().end()}, ScalarType::Char);
  const Quantizer q = quantizer(scale, zero_point, std::nullopt, std::nullopt, noise, qmin, qmax);
  int8_t* out = static_cast<int8_t*>(codes.mutable_data_ptr());
  if (is_bfloat16(x)) normalize_rows<bf16>(x, weight, bias, epsilon, q, out);
  else normalize_rows<float>(x, weight, bias, epsilon, q, out);
  return codes;
}

template <typename T>
void quantize_rows(const Tensor& x, const Quantizer& q, int8_t* codes) {
  const int64_t width = x.size(x.dim() - 1), rows = x.numel() / width;
  const int64_t some = 1 + 16384 / width;
  share((rows + some - 1) / some, [&] {
    return [&](int64_t task) {
      for (int64_t i = task * some; i < std::min(rows, (task + 1) * some); ++i)
        for (int64_t j = 0; j < width; j += LANES) {
          const __mmask16 mask = tail_mask(width - j);
          const __m512 value = load(pointer<T>(x) + i * width + j, mask);
          if (q.low == 0) store_codes<false>(codes + i * width + j, mask, value, q, j);
          else store_codes<true>(codes + i * width + j, mask, value, q, j);
        }
    };
  });
}

Tensor quantize_tensor(Tensor x, Tensor scale, Maybe zero_point, Maybe low, Maybe split, int64_t qmin, int64_t qmax,
                       Maybe noise) {
  x = readable(x);
  Tensor codes = make(x, {x.sizes().begin(), x.sizes().end()}, ScalarType::Char);
  const Quantizer q = quantizer(scale, zero_point, low, split, noise, qmin, qmax);
  int8_t* out = static_cast<int8_t*>(codes.mutable_data_ptr());
  if (is_bfloat16(x)) quantize_rows<bf16>(x, q, out);
  else quantize_rows<float>(x, q, out);
  return codes;
}

template <typename Dot, typename T>
void attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale, const Maybe& bias, const Maybe& mask,
            const Quantizer* quantizer, void* out) {
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), depth = q.size(3), keys = k.size(2);
  const int64_t windows = mask.has_value() ? mask->size(0) : 1;
  const float *biases = pointer<float>(bias), *masks = pointer<float>(mask);
  const int64_t biased = bias.has_value() && bias->size(0) > 1 ? queries * keys : 0;
  const auto rows = [](const Tensor& t, int64_t b, int64_t h) {
    return Rows<T>{pointer<T>(t) + b * t.stride(0) + h * t.stride(1), t.stride(2)};
  };
  // Fewer heads than keep all threads busy: their queries come in several parts.
  const int64_t threads = torch::stable::get_num_threads(), most = std::max<int64_t>(1, queries / LEAST_QUERIES);
  if (batch * heads * queries == 0) return;
  const int64_t parts = batch * heads % threads == 0 ? 1 : std::clamp<int64_t>(4 * threads / (batch * heads), 1, most);
  const int64_t part = round_up((queries + parts - 1) / parts, QUERIES);
  share(batch * heads * parts, [&] {
    return [&, head = Head<Dot>(keys, depth), packed = int64_t{-1}](int64_t task) mutable {
      const int64_t b = task / parts / heads, h = task / parts % heads;
      if (packed != task / parts) head.pack(rows(k, b, h), rows(v, b, h));
      packed = task / parts;
      const int64_t last = std::min(queries, (task % parts + 1) * part);
      float inverse[QUERIES];
      for (int64_t first = task % parts * part; first < last; first += QUERIES) {
        const int64_t count = std::min(QUERIES, last - first);
        head.attend(rows(q, b, h), first, count, static_cast<float>(scale), biases ? biases + h * biased : nullptr,
                    masks ? masks + b % windows * queries * keys : nullptr, inverse);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t d = 0; d < depth; d += LANES) {
            const __m512 y = round_to<T>(_mm512_mul_ps(load(&head.context[i * depth + d], 0xFFFF), _mm512_set1_ps(inverse[i])));
            const int64_t column = h * depth + d, at = (b * queries + first + i) * heads * depth + column;
            if (quantizer != nullptr) store_codes<false>(static_cast<int8_t*>(out) + at, 0xFFFF, y, *quantizer, column);
            else store(static_cast<T*>(out) + at, 0xFFFF, y);
          }
      }
    };
  });
}

Tensor attention(Tensor q, Tensor k, Tensor v, double scale, Maybe bias, Maybe mask, Maybe q_scale, Maybe q_zero_point,
                 int64_t qmin, int64_t qmax, Maybe noise) {
  for (const Tensor* t : {&k, &v}) {
    STD_TORCH_CHECK(t->dim() == 4 && t->size(0) == q.size(0) && t->size(1) == q.size(1) && t->size(3) == q.size(3) &&
                        t->size(2) == k.size(2) && t->scalar_type() == q.scalar_type(),
                    "cpu_attention: queries, keys and values do not fit together");
  }
  STD_TORCH_CHECK(is_bfloat16(q) || q.scalar_type() == ScalarType::Float, "cpu_attention: expected float32 or bfloat16");
  for (const Maybe* t : {&bias, &mask}) {
    STD_TORCH_CHECK(!t->has_value() || ((*t)->size((*t)->dim() - 2) == q.size(2) && (*t)->size((*t)->dim() - 1) == k.size(2)),
                    "cpu_attention: the bias or mask is not one of these queries and keys");
    expect(*t, ScalarType::Float, "the bias or mask");
  }
  for (Tensor* t : {&q, &k, &v})
    if (t->stride(3) != 1) *t = torch::stable::contiguous(*t);
  const std::vector<int64_t> sizes{q.size(0), q.size(2), q.size(1) * q.size(3)};
  Tensor out = make(q, sizes, q_scale.has_value() ? ScalarType::Char : q.scalar_type());
  Quantizer to{};
  if (q_scale.has_value()) to = quantizer(*q_scale, q_zero_point, std::nullopt, std::nullopt, noise, qmin, qmax);
  const Quantizer* quantizer = q_scale.has_value() ? &to : nullptr;
  if (is_bfloat16(q)) attend<BFloat16, bf16>(q, k, v, scale, bias, mask, quantizer, out.mutable_data_ptr());
  else attend<Float32, float>(q, k, v, scale, bias, mask, quantizer, out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxquant, CPU, m) {
  m.impl("cpu_pack", TORCH_BOX(&pack));
  m.impl("cpu_gemm", TORCH_BOX(&gemm));
  m.impl("cpu_layer_norm_quantize", TORCH_BOX(&layer_norm_quantize));
  m.impl("cpu_quantize", TORCH_BOX(&quantize_tensor));
  m.impl("cpu_attention", TORCH_BOX(&attention));
}
