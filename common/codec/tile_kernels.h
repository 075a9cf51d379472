// Parts of tile_coder.cc with vector instructions, for groups of at most 64 coefficients a patch: what is coded and
// every bit of the state are the same. Private to codec/.
#pragma once

#include <cstddef>

#include "common/codec/tile_target.h"

namespace holo::codec {

// Whether the kernels work on this machine, and on `tile`.
[[nodiscard]] bool CanUseKernels(const TileState& tile);

// Makes room for what the kernels keep: GroupState::sums. Before anything is coded.
void UseKernels(TileState& tile);

// What BeginSlot() of tile_coder.cc does, where the slot before has been begun or nothing is coded yet.
void LowerPlanes(TileState& tile, int slot);

// Decodes patches of the pass from `first` on, row by row; returns the first one that is not decoded. If `partial`, goes on
// while their bytes are sure to be there, otherwise until the code has ended.
[[nodiscard]] std::size_t DecodePatches(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first, bool partial);

// Encodes all patches of the pass. Not for an observer.
void EncodePatches(const Pass& pass, Encoding& encoding);

}  // namespace holo::codec
