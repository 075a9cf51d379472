// What the encoder of a tile knows and the decoder does not, and what follows from it. Private to codec/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/codec/tile_pass.h"

namespace holo::codec {

// Of a band.
struct BandTarget {
  std::vector<std::uint32_t> values;  // [cells, count] magnitude << 1 | sign, complete
  std::vector<float> exact;           // [cells, count] |coefficient| in steps
  std::vector<std::uint8_t> planes;   // [cells] of the patch's largest magnitude, before any is left out
  int most_planes = 0;
  const float* weights = nullptr;  // [count] see EncodeTile
};

// The encoder's side of a pass.
struct Encoding {
  entropy::RangeEncoder encoder;
  double bit_price = 0;                 // see Quantiser
  ContextObserver* observer = nullptr;  // or null
  BandTarget* target = nullptr;         // of the pass's band
  CutPoint cut;                         // what has been saved so far
};

// Whether a patch that is not active becomes active. May clear the patch's ones if they are not worth their bits.
[[nodiscard]] bool BecomesActive(const Pass& pass, Encoding& encoding, std::size_t cell,
                                 const entropy::Probability& context);

// Whether coefficient `i` of the band becomes significant; `fresh` as in significance::kFresh. May clear it if it is not
// worth its bits.
[[nodiscard]] bool BecomesSignificant(const Pass& pass, Encoding& encoding, std::size_t cell, std::size_t i, bool fresh,
                                      const entropy::Probability& context);

// Adds up what is saved by the magnitude at `at` of the band, of which this pass tells more.
void Count(const Pass& pass, Encoding& encoding, std::size_t at, std::uint32_t before, std::uint32_t after);

}  // namespace holo::codec
