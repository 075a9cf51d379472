// Prints common/codec/initial_probabilities.cc: how often each context of the entropy coder codes a 1 on the pictures
// that are named, at five qualities.
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <vector>

#include "common/codec/codec.h"
#include "common/image_io/image_io.h"

int main(int argc, char** argv) {
  using namespace holo;
  if (argc < 2) {
    std::cerr << "usage: holo_train_contexts PICTURE... > common/codec/initial_probabilities.cc\n";
    return 2;
  }
  std::vector<std::array<std::uint64_t, 2>> counts(codec::ContextCount());
  for (int i = 1; i < argc; ++i) {
    const auto picture = image_io::Load(argv[i]);
    if (!picture) {
      std::cerr << argv[i] << ": " << picture.error().message << "\n";
      return ToExitCode(picture.error().code);
    }
    for (const float quality : {30.0f, 45.0f, 60.0f, 75.0f, 85.0f}) {
      codec::EncodeOptions options;
      options.quality = quality;
      options.basis_choice = codec::BasisChoice::kUniversal;
      options.statistics = &counts;
      if (const auto encoded = codec::Encode(*picture, options); !encoded) {
        std::cerr << argv[i] << ": " << encoded.error().message << "\n";
        return ToExitCode(encoded.error().code);
      }
    }
  }
  std::cout << "// Made by holo_train_contexts on the training photographs (see common/basis/README.md).\n"
               "#include \"common/codec/tile_coder.h\"\n\nnamespace holo::codec {\nnamespace {\n\n// clang-format off\n"
               "constexpr std::array<std::uint16_t, kContexts> kTable = {\n";
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto ones = static_cast<double>(counts[i][1]);
    const auto all = ones + static_cast<double>(counts[i][0]);
    // A context never seen starts at one half; none starts so sure of itself that learning takes long.
    const long value = std::lround((ones + 0.4) / (all + 0.8) * 65536);
    std::cout << std::clamp(value, 500L, 65000L) << (i % 16 == 15 ? ",\n" : ", ");
  }
  std::cout << "\n};\n// clang-format on\n\n}  // namespace\n\nconst std::array<std::uint16_t, kContexts>& "
               "InitialProbabilities() { return kTable; }\n\n}  // namespace holo::codec\n";
  return 0;
}
