// This project's codec as a Coder, and files as it sees them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "benchmarks/codec/coder.h"
#include "common/codec/codec.h"
#include "common/container/container.h"
#include "common/status/status.h"

namespace holo::benchmarks {

// One for each tuning. Settings are EncodeOptions::quality. One thread; the built-in bases.
[[nodiscard]] std::vector<std::unique_ptr<Coder>> MakeHoloCoders();

// A file, or the first part of one, opened.
[[nodiscard]] Result<container::AssetReader> OpenBytes(std::span<const std::uint8_t> file);
// A decoder for it without any chunk: bases come from the file or are built in.
[[nodiscard]] Result<codec::Decoder> MakeDecoder(const container::AssetReader& reader,
                                                 codec::Decoder::Options options = {});
// Gives `decoder` all chunks that are there, the last one in part if need be.
[[nodiscard]] Result<void> AddAllChunks(const container::AssetReader& reader, codec::Decoder& decoder);
// All three.
[[nodiscard]] Result<codec::Decoder> DecoderWithAllChunks(std::span<const std::uint8_t> file,
                                                          codec::Decoder::Options options = {});

}  // namespace holo::benchmarks
