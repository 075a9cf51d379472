// A .basis file.
#include "common/basis/basis.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)holo::basis::Basis::Parse({data, size});
  return 0;
}
