// A matrix as .npy or as .csv.
#include "common/spectrum/spectrum.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)holo::spectrum::ParseNpy({data, size}, "input");
  (void)holo::spectrum::ParseCsv({data, size}, "input");
  return 0;
}
