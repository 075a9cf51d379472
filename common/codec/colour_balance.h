// How finely colour differences are quantised for the best PSNR 6:1:1. Private to codec/.
#pragma once

#include <span>
#include <vector>

#include "common/codec/codec.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"

namespace holo::codec {

// The step weights of Cb and Cr, of 1 for Y, with which a byte raises (6 PSNR(Y) + PSNR(Cb) + PSNR(Cr)) / 8 as much
// wherever it is spent: a picture with little colour gets it finely, one quantised finely gets it coarsely.
//
// `header` is that of a picture with YCbCr as its colour transform and a group for each of the three planes, without
// levels; `parts` are what is looked at. Bits are taken to be proportional to the coefficients that are not zero, with a
// little more for larger ones (He and Mitra, IEEE Trans. Circuits and Systems for Video Technology 12(10), 2002). A plane
// without anything in it keeps its weight.
struct ColourWeights {
  float cb = 1;
  float cr = 1;
};
[[nodiscard]] Result<ColourWeights> BalanceColour(std::span<const pixels::Picture> parts,
                                                  const container::AssetHeader& header, const BasisResolver& resolve,
                                                  unsigned threads);

}  // namespace holo::codec
