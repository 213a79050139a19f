// What all operators need of torch's stable ABI: pointers, fresh tensors, checks, and the sharing out of work.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

namespace fxquant {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

template <typename T>
const T* pointer(const Tensor& t) { return static_cast<const T*>(t.data_ptr()); }

template <typename T>
const T* pointer(const Maybe& t) { return t.has_value() ? pointer<T>(*t) : nullptr; }

template <typename T>
T* writable(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

inline Tensor whole(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor make(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

// Give each thread the next task when it has finished one: a thread that loses its core for a while costs one task, not its
// share of all. `make_worker` returns what a thread calls with the number of a task.
template <typename MakeWorker>
void share(int64_t tasks, const MakeWorker& make_worker) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t task = next++; task < tasks; task = next++) worker(task);
  });
}

}  // namespace fxquant
