// The schemas of the operators, for programs without Python, which load this library before the kernels.
#include <torch/csrc/stable/library.h>

#include <sstream>
#include <string>

STABLE_TORCH_LIBRARY_FRAGMENT(fxquant, m) {
  std::istringstream lines(
#include "schemas.inc"
  );
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) m.def(line.c_str());
}
