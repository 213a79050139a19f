// Rows of tensors of one shape and different strides, in the order in which the first lies in memory.
#pragma once
#include <array>
#include <numeric>

#include "stable.h"

namespace fxquant {

// N tensors as rows of `length` values next to each other. A row is in one group: its index along `axis`, where that is kept.
template <int N>
struct Walk {
  struct Axis {
    int64_t size;
    std::array<int64_t, N> strides;
    bool groups;
  };
  struct Row {
    std::array<int64_t, N> offsets;
    int64_t group;
  };
  std::vector<Axis> outer;
  int64_t length = 1, rows = 1;
  bool adjacent = true;  // whether each row's values lie next to each other in all tensors

  // axis: the one that the groups are along, or -1 where there is one group.
  Walk(const std::array<const Tensor*, N>& tensors, int64_t axis) {
    std::vector<int64_t> order(tensors[0]->dim());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return tensors[0]->stride(a) > tensors[0]->stride(b); });
    for (const int64_t d : order) {
      Axis each{tensors[0]->size(d), {}, d == axis};
      if (each.size == 1) continue;
      for (int n = 0; n < N; ++n) each.strides[n] = tensors[n]->stride(d);
      if (!outer.empty() && merges(outer.back(), each)) {
        each.size *= outer.back().size;
        outer.back() = each;
      } else {
        outer.push_back(each);
      }
    }
    if (!outer.empty() && !outer.back().groups) {
      for (const int64_t stride : outer.back().strides) adjacent &= stride == 1;
      length = outer.back().size;
      outer.pop_back();
    }
    for (const Axis& each : outer) rows *= each.size;
  }

  static bool merges(const Axis& a, const Axis& b) {
    bool merged = !a.groups && !b.groups;
    for (int n = 0; n < N; ++n) merged &= a.strides[n] == b.strides[n] * b.size;
    return merged;
  }

  // Call `use` with each of the rows from `first` to before `last`.
  template <typename Use>
  void visit(int64_t first, int64_t last, const Use& use) const {
    std::vector<int64_t> at(outer.size());
    Row row{};
    for (int64_t d = static_cast<int64_t>(outer.size()) - 1, rest = first; d >= 0; --d) {
      at[d] = rest % outer[d].size;
      rest /= outer[d].size;
      move(row, outer[d], at[d]);
    }
    for (int64_t r = first; r < last; ++r) {
      use(row);
      for (int64_t d = static_cast<int64_t>(outer.size()) - 1; d >= 0; --d) {
        move(row, outer[d], 1);
        if (++at[d] < outer[d].size) break;
        move(row, outer[d], -at[d]);
        at[d] = 0;
      }
    }
  }

  static void move(Row& row, const Axis& axis, int64_t steps) {
    for (int n = 0; n < N; ++n) row.offsets[n] += steps * axis.strides[n];
    if (axis.groups) row.group += steps;
  }
};

}  // namespace fxquant
