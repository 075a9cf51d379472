// The first byte says what the rest is: 0, the manifest of a compressed model; otherwise, a chat's template. What is
// accepted has to come out of being written again.
#include <cstdlib>

#include "common/language_model/model_directory/model_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> rest(data + 1, size - 1);
  if (data[0] != 0) {
    const auto value = holo::chat::ParseTemplate(rest, "input");
    if (value && !holo::chat::Check(*value)) std::abort();
    return 0;
  }
  const auto manifest = holo::model_directory::ParseManifest(rest, "input");
  if (!manifest) return 0;
  const std::string text = holo::model_directory::SerialiseManifest(*manifest);
  const auto again =
      holo::model_directory::ParseManifest({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, "again");
  if (!again || *again != *manifest) std::abort();
  return 0;
}
