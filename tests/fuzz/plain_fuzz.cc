// A file of the plain profile.
#include <algorithm>

#include "common/plain/plain.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto asset = holo::plain::Parse({data, size});
  if (asset) (void)holo::plain::Render(*asset, {0, 0, 1, 1}, 0);
  return 0;
}
