// The operators `fxquant::cpu_*`: each calls the kernel of the library in use, which was built for one set of instructions.
//
// Python says which library that is. Where nobody does, as in a program in C++, it is the best that lies beside this one and that
// the processor can run; FXQUANT_ISA names another.
#include <dlfcn.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "operator_list.h"

namespace {

using fxquant::Boxed;

// From the best on.
constexpr const char* NAMES[] = {"avx512_bf16", "avx512_vnni", "avx_vnni", "avx2", "portable", "avx_vnni_evex"};
constexpr int CHOSEN = 5;  // of these one is chosen unless another is asked for

std::atomic<const Boxed*> table{nullptr};

bool supports(const char* name) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("portable")) return true;
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx);
  const bool avx_vnni = eax >> 4 & 1, bf16 = eax >> 5 & 1;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (is("avx2")) return avx2;
  if (is("avx_vnni")) return avx2 && avx_vnni;
  if (is("avx512_vnni") || is("avx_vnni_evex")) return avx512;
  if (is("avx512_bf16")) return avx512 && bf16;
#endif
  return false;
}

std::string load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  const auto operators = reinterpret_cast<const Boxed* (*)()>(dlsym(library, "fxquant_operators"));
  if (operators == nullptr) return path + " is no library of fxquant's kernels";
  table.store(operators(), std::memory_order_release);
  return "";
}

std::string folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&supports), &info) == 0) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

const Boxed* choose() {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (const Boxed* there = table.load(std::memory_order_acquire)) return there;
  const char* asked = std::getenv("FXQUANT_ISA");
  std::string failures;
  int chosen = 0;
  for (const char* name : NAMES) {
    const bool wanted = asked != nullptr && *asked != 0 ? std::strcmp(asked, name) == 0 : chosen++ < CHOSEN;
    if (!wanted || !supports(name)) continue;
    const std::string failure = load(folder() + "kernels_" + name + ".so");
    if (failure.empty()) return table.load(std::memory_order_acquire);
    failures += "\n  " + failure;
  }
  throw std::runtime_error("expected a library of fxquant's kernels that this processor can run in " + folder() +
                           (asked != nullptr ? ", for FXQUANT_ISA=" + std::string(asked) : "") + failures);
}

enum Place {
#define FXQUANT_PLACE(NAME) NAME,
  FXQUANT_OPERATORS(FXQUANT_PLACE)
#undef FXQUANT_PLACE
};

template <Place PLACE>
void forward(StableIValue* stack, uint64_t operands, uint64_t results) {
  const Boxed* operators = table.load(std::memory_order_acquire);
  (operators != nullptr ? operators : choose())[PLACE](stack, operands, results);
}

}  // namespace

#define FXQUANT_EXPORT extern "C" __attribute__((visibility("default")))

// Run the kernels of the library at `path` from now on; returns what went wrong, or an empty text.
FXQUANT_EXPORT const char* fxquant_use(const char* path) {
  static thread_local std::string failure;
  failure = load(path);
  return failure.c_str();
}

FXQUANT_EXPORT int fxquant_supports(const char* name) { return supports(name); }

STABLE_TORCH_LIBRARY_IMPL(fxquant, CPU, m) {
#define FXQUANT_REGISTER(NAME) m.impl("cpu_" #NAME, &forward<NAME>);
  FXQUANT_OPERATORS(FXQUANT_REGISTER)
#undef FXQUANT_REGISTER
}
