// The operators `fxquant::cpu_learned_step` and `cpu_learned_step_backward`.
#include "learned_step.h"

#include <tuple>

#include "check.h"
#include "operator_list.h"
#include "walk.h"

namespace {

using namespace fxquant;

constexpr int64_t CHUNK = 16384;  // values of one task: what it reads and writes stays in the cache between

struct Range {
  const float *scale, *zero_point, *limits;  // one for each group; limits: the lower ones, then the upper ones
  float low, high;
  int64_t groups;

  Step of(int64_t group) const {
    const auto one = [&](const float* values, float otherwise) {
      return all(values != nullptr ? values[group] : otherwise);
    };
    return {one(scale, 1), one(zero_point, 0), one(limits, low), one(limits == nullptr ? nullptr : limits + groups, high)};
  }
};

// Check and return what rounds `x`; the range points into what it is given.
Range read_range(const Tensor& x, Tensor& scale, Maybe& zero_point, Maybe& limits, double low, double high, int64_t axis) {
  check_within(axis, "the axis", -1, x.dim() - 1);
  scale = read(scale, "the scale", ScalarType::Float, {axis < 0 ? 1 : x.size(axis)});
  const int64_t groups = scale.numel();
  if (groups == 0) refuse("expected at least one scale");
  zero_point = read(zero_point, "the zero point", ScalarType::Float, {groups});
  limits = read(limits, "the limits", ScalarType::Float, {2, groups});
  return {pointer<float>(scale), pointer<float>(zero_point), pointer<float>(limits),
          read_bound(low), read_bound(high), groups};
}

// Check and return a tensor of the shape of `x` in float32, as it lies in memory.
const Tensor& read_like(const Tensor& t, const char* name, const Tensor& x) {
  check_defined(t, name);
  const auto found = t.sizes(), wanted = x.sizes();
  if (t.scalar_type() != ScalarType::Float || !std::equal(found.begin(), found.end(), wanted.begin(), wanted.end()))
    refuse("expected ", name, " in float32 of shape ", show(wanted), ", found ", show(t));
  check_memory(t, name);
  return t;
}

// Tasks of about `chunk` values: several rows, or part of a long one.
struct Parts {
  int64_t rows, length, per_task, pieces, chunk;

  Parts(int64_t rows, int64_t length, int64_t chunk)
      : rows(rows), length(length), per_task(std::max<int64_t>(1, chunk / std::max<int64_t>(1, length))),
        pieces(std::max<int64_t>(1, (length + chunk - 1) / chunk)), chunk(chunk) {}
  int64_t tasks() const { return length == 0 ? 0 : (rows + per_task - 1) / per_task * pieces; }
  int64_t first(int64_t task) const { return task / pieces * per_task; }
  int64_t last(int64_t task) const { return std::min(rows, first(task) + per_task); }
  int64_t from(int64_t task) const { return task % pieces * chunk; }
  int64_t to(int64_t task) const { return pieces == 1 ? length : std::min(length, from(task) + chunk); }
};

// A tensor whose rows can be walked: one whose values do not lie next to each other along any axis is copied.
Tensor walkable(const Tensor& x, int64_t axis) {
  const Tensor like = torch::stable::empty_like(x);
  return Walk<2>({&x, &like}, axis).adjacent ? x : torch::stable::contiguous(x);
}

template <bool AFFINE>
void round_rows(const Walk<2>& walk, const float* x, const Range& range, float* out) {
  const Parts parts(walk.rows, walk.length, CHUNK);
  share(parts.tasks(), [&] {
    return [&, group = int64_t{-1}, step = Step{}](int64_t task) mutable {
      walk.visit(parts.first(task), parts.last(task), [&](const auto& row) {
        if (row.group != group) step = range.of(group = row.group);
        const int64_t from = parts.from(task);
        const float* values = x + row.offsets[0] + from;
        float* rounded = out + row.offsets[1] + from;
        each_register(parts.to(task) - from, [&](int64_t j, auto which) {
          store(rounded + j, which, fake_quantize<AFFINE>(load(values + j, which), step));
        });
      });
    };
  });
}

Tensor learned_step(Tensor x, Tensor scale, Maybe zero_point, Maybe limits, double low, double high, int64_t axis) {
  read_like(x, "values", x);
  const Range range = read_range(x, scale, zero_point, limits, low, high, axis);
  x = walkable(x, axis);
  Tensor out = torch::stable::empty_like(x);
  const Walk<2> walk({&x, &out}, axis);
  if (zero_point.has_value()) round_rows<true>(walk, pointer<float>(x), range, writable<float>(out));
  else round_rows<false>(walk, pointer<float>(x), range, writable<float>(out));
  return out;
}

template <bool AFFINE, bool BOUNDS>
void gradient_rows(const Walk<3>& walk, const float* x, const float* gradient, const Range& range, float* out, float* sums) {
  // So many values that a sum for each of the groups takes little beside them.
  const Parts parts(walk.rows, walk.length, std::max(CHUNK, 16 * range.groups));
  std::vector<double> found(parts.tasks() * range.groups * SUMS);
  share(parts.tasks(), [&] {
    return [&](int64_t task) {
      int64_t group = -1;
      Step step{};
      Sum running[SUMS];
      const auto finish = [&] {
        if (group < 0) return;
        for (int n = 0; n < SUMS; ++n) found[(task * range.groups + group) * SUMS + n] += running[n].total();
      };
      walk.visit(parts.first(task), parts.last(task), [&](const auto& row) {
        if (row.group != group) {
          finish();
          step = range.of(group = row.group);
          for (Sum& each : running) each = Sum{};
        }
        const int64_t from = parts.from(task);
        const float *values = x + row.offsets[0] + from, *arriving = gradient + row.offsets[1] + from;
        float* leaving = out + row.offsets[2] + from;
        each_register(parts.to(task) - from, [&](int64_t j, auto which) {
          const Floats value = load(values + j, which), g = load(arriving + j, which);
          store(leaving + j, which, step_gradients<AFFINE, BOUNDS>(value, g, which, step, running));
        });
      });
      finish();
    };
  });
  for (int64_t group = 0; group < range.groups; ++group)
    for (int n = 0; n < SUMS; ++n) {
      double total = 0;
      for (int64_t task = 0; task < parts.tasks(); ++task) total += found[(task * range.groups + group) * SUMS + n];
      sums[n * range.groups + group] = static_cast<float>(n == 0 ? total : total * range.scale[group]);
    }
}

std::tuple<Tensor, Tensor> learned_step_backward(Tensor gradient, Tensor x, Tensor scale, Maybe zero_point, Maybe limits,
                                                 double low, double high, int64_t axis) {
  read_like(x, "values", x);
  read_like(gradient, "the gradient", x);
  const Range range = read_range(x, scale, zero_point, limits, low, high, axis);
  x = walkable(x, axis);
  Tensor out = torch::stable::empty_like(x), sums = make(scale, {SUMS, scale.numel()}, ScalarType::Float);
  if (!Walk<3>({&x, &gradient, &out}, axis).adjacent) {
    Tensor ordered = torch::stable::empty_like(x);
    gradient = torch::stable::copy_(ordered, gradient);
  }
  const Walk<3> walk({&x, &gradient, &out}, axis);
  const auto run = [&](auto rows) {
    rows(walk, pointer<float>(x), pointer<float>(gradient), range, writable<float>(out), writable<float>(sums));
  };
  if (limits.has_value()) run(zero_point.has_value() ? gradient_rows<true, true> : gradient_rows<false, true>);
  else run(zero_point.has_value() ? gradient_rows<true, false> : gradient_rows<false, false>);
  return {out, sums};
}

}  // namespace

namespace fxquant {

const Boxed boxed_learned_step = TORCH_BOX(&learned_step);
const Boxed boxed_learned_step_backward = TORCH_BOX(&learned_step_backward);

}  // namespace fxquant
