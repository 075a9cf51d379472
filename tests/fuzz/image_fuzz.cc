// A picture file of any known format.
#include "common/image_io/image_io.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  holo::image_io::LoadOptions options;
  options.max_pixels = 100'000;
  (void)holo::image_io::Decode({data, size}, "input", options);
  return 0;
}
