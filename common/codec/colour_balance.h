// How finely colour differences are quantised for the best PSNR 6:1:1. Private to codec/.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "common/codec/codec.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"

namespace holo::codec {

// How Cb or Cr is coded beside Y: see container::ComponentGroup.
struct ColourShare {
  float step_weight = 1;
  std::uint32_t idle_slots = 0;
};

// The shares of Cb and Cr with which a byte raises (6 PSNR(Y) + PSNR(Cb) + PSNR(Cr)) / 8 as much wherever it is spent: a
// picture with little colour gets it finely, one quantised finely gets it coarsely, and what of it comes early in a
// stream that ends with it coarse is as much as suits the shorter stream.
//
// `header` is that of a picture with YCbCr as its colour transform and a group for each of the three planes, without
// levels; `parts` are what is looked at. Bits are taken to be proportional to the coefficients that are not zero, with a
// little more for larger ones (He and Mitra, IEEE Trans. Circuits and Systems for Video Technology 12(10), 2002). A plane
// without anything in it is coded as the header says.
[[nodiscard]] Result<std::array<ColourShare, 2>> BalanceColour(std::span<const pixels::Picture> parts,
                                                               const container::AssetHeader& header,
                                                               const BasisResolver& resolve, unsigned threads);

}  // namespace holo::codec
