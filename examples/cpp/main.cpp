// Run a package of fxquant.export_aoti: no Python, libtorch and the libraries of fxquant alone.
//
//   fxquant_run PACKAGE LIBRARIES IMAGES SIZES OUTPUT
//
// PACKAGE: the .pt2 file. LIBRARIES: the folder that `fxquant env --libraries` writes. IMAGES: raw float32 values, normalised.
// SIZES: their shape, such as 8x3x224x224. OUTPUT: where the raw float32 values of the result go.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The schemas first: the second library registers the operators, and takes the best kernels beside it for this processor.
void load_operators(const std::string& folder) {
  for (const char* name : {"/schemas.so", "/dispatch.so"})
    if (dlopen((folder + name).c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
}

std::vector<int64_t> parse_sizes(const std::string& text) {
  std::vector<int64_t> sizes;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, 'x');) sizes.push_back(std::stoll(part));
  return sizes;
}

torch::Tensor read_images(const std::string& path, const std::vector<int64_t>& sizes) {
  torch::Tensor images = torch::empty(sizes);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(static_cast<char*>(images.data_ptr()), images.nbytes()))
    throw std::runtime_error(path + ": expected " + std::to_string(images.nbytes()) + " bytes of float32 values");
  return images;
}

void run(char** arguments) {
  load_operators(arguments[2]);
  torch::inductor::AOTIModelPackageLoader model(arguments[1]);
  for (const auto& [key, value] : model.get_metadata())
    if (key.rfind("fxquant.", 0) == 0) std::printf("%s: %.200s\n", key.c_str(), value.c_str());
  const std::vector<torch::Tensor> inputs = {read_images(arguments[3], parse_sizes(arguments[4]))};
  const torch::Tensor logits = model.run(inputs)[0].to(torch::kFloat32).contiguous();
  const auto start = std::chrono::steady_clock::now();
  model.run(inputs);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  std::printf("%.2f ms on %d threads\n", took.count(), torch::get_num_threads());
  std::ofstream(arguments[5], std::ios::binary).write(static_cast<const char*>(logits.data_ptr()), logits.nbytes());
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 6) throw std::runtime_error("expected PACKAGE LIBRARIES IMAGES SIZES OUTPUT");
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
