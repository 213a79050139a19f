// The operators `fxquant::cpu_*`: they check their operands, allocate and share out the work.
#include <cmath>
#include <tuple>

#include "attention.h"
#include "check.h"
#include "gemm.h"
#include "layer_norm.h"
#include "operator_list.h"
#include "tokens.h"

namespace {

using namespace fxquant;
constexpr int64_t ROWS = 8;  // of a layer norm that one task normalizes
constexpr int64_t TOKEN_ROWS = 24;  // that one task makes codes of: their values stay in the second-level cache

bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

std::vector<int64_t> sizes_with_last(const Tensor& t, int64_t last) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  sizes.back() = last;
  return sizes;
}

// scale, zero point, low scale, split, noise and the range, as `fxquant.ops.quantize` and `quantize_twin` have them, for results
// of so many columns. The quantiser points into `noise`.
Quantizer read_quantizer(const Tensor& scale, const Maybe& zero_point, const Maybe& low, const Maybe& split, Maybe& noise,
                         int64_t qmin, int64_t qmax, int64_t columns) {
  const bool twin = low.has_value();
  if (twin != split.has_value() || (twin && zero_point.has_value()))
    refuse("expected both a low scale and a split and no zero point, or neither of the two");
  check_within(qmax, "qmax", -128, twin ? 127 : 255);
  check_within(qmin, "qmin", qmax > 127 ? 0 : -128, qmax);
  const float lower = read_one<float>(low, "the low scale", ScalarType::Float);
  if (twin && lower == 0) refuse("expected a low scale that is not zero");
  noise = read(noise, "the noise", ScalarType::Float, {columns});
  return {read_one<float>(scale, "the scale", ScalarType::Float),
          lower,
          read_one<float>(split, "the split", ScalarType::Float),
          static_cast<float>(read_one<int32_t>(zero_point, "the zero point", ScalarType::Int)),
          static_cast<float>(qmin),
          static_cast<float>(qmax),
          qmax > 127 ? 128 : 0,
          pointer<float>(noise)};
}

void check_depth(int64_t depth) {
  if (depth < 4 || depth > DEEPEST || depth % 4 != 0)
    refuse("expected a depth that is a multiple of 4 from 4 to ", DEEPEST, ", found ", depth);
}

std::tuple<Tensor, Tensor> pack(Tensor weight, int64_t outputs, int64_t depth) {
  weight = read(weight, "the weight", ScalarType::Char, {ANY, ANY});
  const int64_t stride = weight.size(1);
  check_depth(depth);
  if (outputs < 1 || outputs > weight.size(0) || depth > stride)
    refuse("expected a weight of at least ", show({outputs, depth}), " and at least one output, found ", show(weight));
  const int64_t width = round_up(outputs, LANES);
  Tensor packed = make(weight, {width * depth}, ScalarType::Char), compensation = make(weight, {width}, ScalarType::Int);
  const int8_t* from = pointer<int8_t>(weight);
  int8_t* to = static_cast<int8_t*>(packed.mutable_data_ptr());
  int32_t* sums = static_cast<int32_t*>(compensation.mutable_data_ptr());
  share((outputs + PANEL - 1) / PANEL, [&] {
    return [&](int64_t p) { pack_panel(from, stride, outputs, depth, p * PANEL, to, sums); };
  });
  return {packed, compensation};
}

// Scale and zero point of each row of codes (..., K), which are of the shape (...), or none of the two.
void read_rows(Maybe& scale, Maybe& zero_point, const Tensor& codes, bool twin) {
  if (scale.has_value() != zero_point.has_value()) refuse("expected both scale and zero point of each row, or neither of the two");
  if (!scale.has_value()) return;
  if (twin) refuse("expected one scale, or one for each row, of twin-uniform codes only the former");
  check_within(codes.size(codes.dim() - 1), "the depth", 0, DEEPEST_ROWS);
  const std::vector<int64_t> sizes(codes.sizes().begin(), codes.sizes().end() - 1);
  const auto check = [&](Maybe& rows, const char* name, ScalarType dtype) {
    check_defined(*rows, name);
    const auto found = rows->sizes();
    if (rows->scalar_type() != dtype || !std::equal(found.begin(), found.end(), sizes.begin(), sizes.end()))
      refuse("expected ", name, " in ", name_of(dtype), " of shape ", show(sizes), ", found ", show(*rows));
    check_memory(*rows, name);
    rows = whole(*rows);
  };
  check(scale, "the scale of each row", ScalarType::Float);
  check(zero_point, "the zero point of each row", ScalarType::Int);
}

Tensor read_residual(const Tensor& residual, ScalarType dtype, const std::vector<int64_t>& sizes, bool more) {
  if (more) refuse("a residual is added to float results without GELU only");
  const auto found = residual.sizes();
  if (!is_floating(residual) || !std::equal(found.begin(), found.end(), sizes.begin(), sizes.end()))
    refuse("expected a residual in a float dtype of shape ", show(sizes), ", found ", show(residual));
  check_memory(residual, "the residual");
  return whole(residual.scalar_type() == dtype ? residual : torch::stable::to(residual, dtype));
}

// Without a scale there is no quantiser, and nothing that is part of one.
void refuse_any(std::initializer_list<const Maybe*> parts) {
  for (const Maybe* part : parts)
    if (part->has_value()) refuse("expected the scale of a quantiser beside its zero point, low scale, split or noise");
}

// What is multiplied, and what becomes of the sums before a residual or a quantiser.
struct Product {
  Tensor codes, packed, compensation, scale, bias;
  Maybe scale_low, activation, row_scale, row_zero_point;

  int64_t depth() const { return codes.size(codes.dim() - 1); }
  int64_t rows() const { return codes.numel() / depth(); }
  int64_t outputs() const { return scale.size(0); }
  std::vector<int64_t> sizes() const { return sizes_with_last(codes, outputs()); }

  void read_all() {
    if (codes.scalar_type() != ScalarType::Char || codes.dim() == 0) refuse("expected codes in int8 with rows, found ", show(codes));
    check_memory(codes, "codes");
    codes = whole(codes);
    check_depth(depth());
    scale = read(scale, "the scale", ScalarType::Float, {ANY});
    const int64_t width = round_up(outputs(), LANES);
    if (outputs() == 0) refuse("expected a scale for at least one output");
    scale_low = read(scale_low, "the low scale of the input", ScalarType::Float, {outputs()});
    bias = read(bias, "the bias", ScalarType::Float, {outputs()});
    packed = read(packed, "the packed weight", ScalarType::Char, {width * depth()});
    compensation = read(compensation, "the compensation", ScalarType::Int, {width});
    activation = read(activation, "the table of the activation", ScalarType::Float, {TABLE_ROWS, SEGMENTS});
    read_rows(row_scale, row_zero_point, codes, scale_low.has_value());
  }

  Epilogue epilogue() const {
    return {pointer<int32_t>(compensation), pointer<float>(scale), pointer<float>(scale_low), pointer<float>(row_scale),
            pointer<int32_t>(row_zero_point), pointer<float>(bias), pointer<float>(activation), nullptr, nullptr, nullptr,
            outputs()};
  }
};

// Rows for a task: as many as `most`, fewer where not every thread would have some of the `panels` of each block.
int64_t rows_of_block(int64_t rows, int64_t panels, int64_t most) {
  const int64_t threads = torch::stable::get_num_threads();
  int64_t block = most;
  while (block > TILE_ROWS && panels * ((rows + block - 1) / block) < 4 * threads) block = round_up(block / 2, TILE_ROWS);
  return block;
}

template <typename T, Input INPUT>
void multiply_blocks(const Product& p, const Epilogue& e) {
  const int64_t rows = p.rows(), panels = (e.outputs + PANEL - 1) / PANEL, block = rows_of_block(rows, panels, BLOCK_ROWS);
  const int64_t blocks = (rows + block - 1) / block;
  const int8_t *codes = pointer<int8_t>(p.codes), *packed = pointer<int8_t>(p.packed);
  share(blocks * panels, [&] {
    return [&](int64_t task) {
      const int64_t first = task / panels * block;
      gemm_block<T, INPUT>(codes, packed, p.depth(), first, std::min(rows, first + block), task % panels * PANEL, e);
    };
  });
}

template <typename T>
void multiply_all(const Product& p, const Epilogue& e) {
  if (e.scale_low) multiply_blocks<T, Input::TWIN>(p, e);
  else if (e.row_scale) multiply_blocks<T, Input::TOKENS>(p, e);
  else multiply_blocks<T, Input::ONE_SCALE>(p, e);
}

Tensor gemm(Tensor codes, Tensor packed, Tensor compensation, Tensor scale, Maybe scale_low, Tensor bias,
            Maybe activation, Maybe residual, Maybe q_scale, Maybe q_zero_point, Maybe q_low, Maybe q_split,
            Maybe q_noise, int64_t qmin, int64_t qmax, bool bfloat16, Maybe row_scale, Maybe row_zero_point) {
  const ScalarType dtype = bfloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  Product p{codes, packed, compensation, scale, bias, scale_low, activation, row_scale, row_zero_point};
  p.read_all();
  const std::vector<int64_t> sizes = p.sizes();
  if (residual.has_value()) residual = read_residual(*residual, dtype, sizes, q_scale.has_value() || activation.has_value());
  Tensor out = make(p.codes, sizes, q_scale.has_value() ? ScalarType::Char : dtype);
  Quantizer q{};
  if (q_scale.has_value()) q = read_quantizer(*q_scale, q_zero_point, q_low, q_split, q_noise, qmin, qmax, p.outputs());
  else refuse_any({&q_zero_point, &q_low, &q_split, &q_noise});
  Epilogue e = p.epilogue();
  e.residual = pointer<void>(residual);
  e.quantizer = q_scale.has_value() ? &q : nullptr;
  e.out = out.mutable_data_ptr();
  if (bfloat16) multiply_all<bf16>(p, e);
  else multiply_all<float>(p, e);
  return out;
}

// `finish(first, last, buffer, normalize)` is given some rows at once and a buffer for them, and calls `normalize(i, row, write)`
// for each: a row of the buffer, and the `write` of `normalize_row`.
template <typename T, typename Finish>
void normalize_rows(const Tensor& x, const Maybe& weight, const Maybe& bias, double epsilon, const Finish& finish) {
  const int64_t width = x.size(x.dim() - 1), rows = x.numel() / width;
  const T* values = pointer<T>(x);
  const float *scale = pointer<float>(weight), *shift = pointer<float>(bias);
  const auto normalize = [=](int64_t i, float* row, const auto& write) {
    normalize_row(values + i * width, width, scale, shift, static_cast<float>(epsilon), row, write);
  };
  share((rows + ROWS - 1) / ROWS, [&] {
    return [&, buffer = std::vector<float>(TokenCodes::AT_ONCE * round_up(width, LANES))](int64_t task) mutable {
      const int64_t end = std::min(rows, (task + 1) * ROWS);
      for (int64_t first = task * ROWS; first < end; first += TokenCodes::AT_ONCE)
        finish(first, std::min(end, first + TokenCodes::AT_ONCE), buffer.data(), normalize);
    };
  });
}

// Read the operands of a layer norm in the dtypes in which `normalize_rows` takes them.
void read_norm(Tensor& x, Maybe& weight, Maybe& bias, double epsilon) {
  x = read_values(x, "values");
  const int64_t width = x.size(x.dim() - 1);
  weight = read(weight, "the weight of a layer norm", ScalarType::Float, {width});
  bias = read(bias, "the bias of a layer norm", ScalarType::Float, {width});
  read_float(epsilon, "epsilon", 0);
}

Tensor layer_norm_quantize(Tensor x, Maybe weight, Maybe bias, double epsilon, Tensor scale, Maybe zero_point,
                           int64_t qmin, int64_t qmax, Maybe noise) {
  read_norm(x, weight, bias, epsilon);
  const int64_t width = x.size(x.dim() - 1);
  const Quantizer q = read_quantizer(scale, zero_point, std::nullopt, std::nullopt, noise, qmin, qmax, width);
  Tensor codes = make(x, {x.sizes().begin(), x.sizes().end()}, ScalarType::Char);
  int8_t* out = writable<int8_t>(codes);
  const auto finish = [&](int64_t first, int64_t last, float* buffer, const auto& normalize) {
    for (int64_t i = first; i < last; ++i)
      normalize(i, buffer, [&](int64_t j, auto which, Floats y) {
        store_codes<false>(out + i * width + j, which, y, q, j);
      });
  };
  if (is_bfloat16(x)) normalize_rows<bf16>(x, weight, bias, epsilon, finish);
  else normalize_rows<float>(x, weight, bias, epsilon, finish);
  return codes;
}

using Tokens = std::tuple<Tensor, Tensor, Tensor>;  // codes, scales, zero points

Tokens make_tokens(const Tensor& x, const std::vector<int64_t>& sizes) {
  const std::vector<int64_t> rows(sizes.begin(), sizes.end() - 1);
  return {make(x, sizes, ScalarType::Char), make(x, rows, ScalarType::Float), make(x, rows, ScalarType::Int)};
}

TokenCodes token_codes(Tokens& out, bool symmetric, int64_t qmin, int64_t qmax) {
  check_within(qmax, "qmax", -128, 255);
  check_within(qmin, "qmin", qmax > 127 ? 0 : -128, qmax);
  auto& [codes, scale, zero_point] = out;
  return {symmetric,
          static_cast<float>(qmin),
          static_cast<float>(qmax),
          qmax > 127 ? 128 : 0,
          codes.size(codes.dim() - 1),
          writable<int8_t>(codes),
          writable<float>(scale),
          writable<int32_t>(zero_point)};
}

Tokens layer_norm_quantize_tokens(Tensor x, Maybe weight, Maybe bias, double epsilon, bool symmetric, int64_t qmin,
                                  int64_t qmax) {
  read_norm(x, weight, bias, epsilon);
  Tokens out = make_tokens(x, {x.sizes().begin(), x.sizes().end()});
  const TokenCodes tokens = token_codes(out, symmetric, qmin, qmax);
  const int64_t stride = round_up(tokens.width, LANES);
  const auto finish = [&](int64_t first, int64_t last, float* buffer, const auto& normalize) {
    tokens.write(first, last, buffer, stride, [&](int64_t i, float* row) {
      Range range;
      normalize(i, row, [&](int64_t j, auto, Floats y) {
        range.widen(y);
        store(row + j, Whole{}, y);
      });
      return range;
    });
  };
  if (is_bfloat16(x)) normalize_rows<bf16>(x, weight, bias, epsilon, finish);
  else normalize_rows<float>(x, weight, bias, epsilon, finish);
  return out;
}

template <typename T>
void quantize_token_rows(const Tensor& x, const TokenCodes& tokens) {
  const int64_t width = tokens.width, rows = x.numel() / width;
  const int64_t some = 1 + 16384 / width;
  share((rows + some - 1) / some, [&] {
    return [&](int64_t task) {
      tokens.write(task * some, std::min(rows, (task + 1) * some), pointer<T>(x) + task * some * width, width);
    };
  });
}

// A block of rows goes through all panels, and becomes codes while it is in the cache.
template <typename T, Input INPUT>
void multiply_to_tokens(const Product& p, const TokenCodes& tokens) {
  const int64_t rows = p.rows(), outputs = p.outputs(), block = rows_of_block(rows, 1, TOKEN_ROWS);
  const int8_t *codes = pointer<int8_t>(p.codes), *packed = pointer<int8_t>(p.packed);
  share((rows + block - 1) / block, [&] {
    return [&, values = std::vector<T>(block * outputs), e = p.epilogue()](int64_t task) mutable {
      const int64_t first = task * block, last = std::min(rows, first + block);
      e.out = values.data();
      e.out_row = first;
      for (int64_t column = 0; column < outputs; column += PANEL)
        gemm_block<T, INPUT>(codes, packed, p.depth(), first, last, column, e);
      tokens.write(first, last, values.data(), outputs);
    };
  });
}

template <typename T>
void multiply_all_to_tokens(const Product& p, const TokenCodes& tokens) {
  if (p.scale_low.has_value()) multiply_to_tokens<T, Input::TWIN>(p, tokens);
  else if (p.row_scale.has_value()) multiply_to_tokens<T, Input::TOKENS>(p, tokens);
  else multiply_to_tokens<T, Input::ONE_SCALE>(p, tokens);
}

Tokens gemm_tokens(Tensor codes, Tensor packed, Tensor compensation, Tensor scale, Maybe scale_low, Tensor bias,
                   Maybe activation, bool symmetric, int64_t qmin, int64_t qmax, bool bfloat16, Maybe row_scale,
                   Maybe row_zero_point) {
  Product p{codes, packed, compensation, scale, bias, scale_low, activation, row_scale, row_zero_point};
  p.read_all();
  Tokens out = make_tokens(p.codes, p.sizes());
  const TokenCodes tokens = token_codes(out, symmetric, qmin, qmax);
  if (bfloat16) multiply_all_to_tokens<bf16>(p, tokens);
  else multiply_all_to_tokens<float>(p, tokens);
  return out;
}

Tokens quantize_tokens(Tensor x, bool symmetric, int64_t qmin, int64_t qmax) {
  x = read_values(x, "values");
  Tokens out = make_tokens(x, {x.sizes().begin(), x.sizes().end()});
  const TokenCodes tokens = token_codes(out, symmetric, qmin, qmax);
  if (is_bfloat16(x)) quantize_token_rows<bf16>(x, tokens);
  else quantize_token_rows<float>(x, tokens);
  return out;
}

template <typename T>
void quantize_rows(const Tensor& x, const Quantizer& q, int8_t* codes) {
  const int64_t width = x.size(x.dim() - 1), rows = x.numel() / width;
  const int64_t some = 1 + 16384 / width;
  share((rows + some - 1) / some, [&] {
    return [&](int64_t task) {
      for (int64_t i = task * some; i < std::min(rows, (task + 1) * some); ++i)
        each_register(width, [&](int64_t j, auto which) {
          const Floats value = load(pointer<T>(x) + i * width + j, which);
          if (q.low == 0) store_codes<false>(codes + i * width + j, which, value, q, j);
          else store_codes<true>(codes + i * width + j, which, value, q, j);
        });
    };
  });
}

Tensor quantize_tensor(Tensor x, Tensor scale, Maybe zero_point, Maybe low, Maybe split, int64_t qmin, int64_t qmax,
                       Maybe noise) {
  x = read_values(x, "values");
  const Quantizer q = read_quantizer(scale, zero_point, low, split, noise, qmin, qmax, x.size(x.dim() - 1));
  Tensor codes = make(x, {x.sizes().begin(), x.sizes().end()}, ScalarType::Char);
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
            const Floats y = round_to<T>(load(&head.context[i * depth + d], Whole{}) * all(inverse[i]));
            const int64_t column = h * depth + d, at = (b * queries + first + i) * heads * depth + column;
            if (quantizer != nullptr) store_codes<false>(static_cast<int8_t*>(out) + at, Whole{}, y, *quantizer, column);
            else store(static_cast<T*>(out) + at, Whole{}, y);
          }
      }
    };
  });
}

// Queries (B, H, N, D), keys and values (B, H, M, D), the last axis of each next to each other in memory.
void read_heads(Tensor& q, Tensor& k, Tensor& v) {
  if (q.dim() != 4 || q.size(3) == 0 || q.size(3) % LANES != 0 || (!is_bfloat16(q) && q.scalar_type() != ScalarType::Float))
    refuse("expected queries in float32 or bfloat16 of shape (*, *, *, D), D a multiple of ", LANES, ", found ", show(q));
  const int64_t keys = k.dim() == 4 ? k.size(2) : 0;
  if (keys == 0) refuse("expected keys of shape (*, *, M, D), M at least 1, found ", show(k));
  for (const Tensor* t : {&k, &v})
    if (t->scalar_type() != q.scalar_type() || !has_sizes(*t, {q.size(0), q.size(1), keys, q.size(3)}))
      refuse("queries, keys and values do not fit together: ", show(q), ", ", show(k), ", ", show(v));
  for (Tensor* t : {&q, &k, &v}) {
    check_memory(*t, "queries, keys and values");
    if (t->stride(3) != 1) *t = torch::stable::contiguous(*t);
  }
}

Tensor attention(Tensor q, Tensor k, Tensor v, double scale, Maybe bias, Maybe mask, Maybe q_scale, Maybe q_zero_point,
                 int64_t qmin, int64_t qmax, Maybe noise) {
  read_heads(q, k, v);
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), keys = k.size(2);
  bias = read(bias, "the bias of scores", ScalarType::Float, {ANY, queries, keys});
  mask = read(mask, "the mask of scores", ScalarType::Float, {ANY, queries, keys});
  if (bias.has_value() && bias->size(0) != 1 && bias->size(0) != heads)
    refuse("expected a bias for one head or for ", heads, ", found ", bias->size(0));
  if (mask.has_value() && (mask->size(0) == 0 || batch % mask->size(0) != 0))
    refuse("expected masks for windows that divide a batch of ", batch, ", found ", mask->size(0));
  read_float(scale, "the factor of scores", FLT_MIN);
  const std::vector<int64_t> sizes{q.size(0), q.size(2), q.size(1) * q.size(3)};
  Tensor out = make(q, sizes, q_scale.has_value() ? ScalarType::Char : q.scalar_type());
  Quantizer to{};
  if (q_scale.has_value()) to = read_quantizer(*q_scale, q_zero_point, std::nullopt, std::nullopt, noise, qmin, qmax, sizes[2]);
  else refuse_any({&q_zero_point, &noise});
  const Quantizer* quantizer = q_scale.has_value() ? &to : nullptr;
  if (is_bfloat16(q)) attend<BFloat16, bf16>(q, k, v, scale, bias, mask, quantizer, out.mutable_data_ptr());
  else attend<Float32, float>(q, k, v, scale, bias, mask, quantizer, out.mutable_data_ptr());
  return out;
}

}  // namespace

namespace fxquant {

const Boxed boxed_pack = TORCH_BOX(&pack);
const Boxed boxed_gemm = TORCH_BOX(&gemm);
const Boxed boxed_gemm_tokens = TORCH_BOX(&gemm_tokens);
const Boxed boxed_layer_norm_quantize = TORCH_BOX(&layer_norm_quantize);
const Boxed boxed_layer_norm_quantize_tokens = TORCH_BOX(&layer_norm_quantize_tokens);
const Boxed boxed_quantize = TORCH_BOX(&quantize_tensor);
const Boxed boxed_quantize_tokens = TORCH_BOX(&quantize_tokens);
const Boxed boxed_attention = TORCH_BOX(&attention);

}  // namespace fxquant
