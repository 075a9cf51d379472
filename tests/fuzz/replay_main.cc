// Runs every file of a folder through the fuzz target, then each file cut short and with bytes changed, the same way
// every time. A crash, a sanitizer report or an endless loop (ctest's timeout) is the failure.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

// In a buffer of exactly that size, so that reading beyond it is seen.
void Run(const std::vector<std::uint8_t>& bytes) {
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " FOLDER\n";
    return 2;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  if (paths.empty()) {
    std::cerr << argv[1] << ": expected a corpus, found no file\n";
    return 1;
  }
  constexpr std::size_t kDamagedCopies = 40;
  std::size_t runs = 0;
  std::mt19937 random(1);
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<std::uint8_t> whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    Run(whole);
    for (std::size_t i = 0; i < kDamagedCopies && !whole.empty(); ++i, ++runs) {
      std::vector<std::uint8_t> damaged = whole;
      if (i % 2 == 0) damaged.resize(random() % damaged.size());
      for (std::size_t n = random() % 4; n > 0 && !damaged.empty(); --n) {
        damaged[random() % damaged.size()] = static_cast<std::uint8_t>(random());
      }
      Run(damaged);
    }
    ++runs;
  }
  std::cout << runs << " inputs\n";
  return 0;
}
