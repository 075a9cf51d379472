// .holo files of this user: opening them, finding the bases they name, and reading what a view needs.
//
// A basis is looked for among the built-in ones, in the file itself, in files that the caller names, beside the asset
// (any *.basis), and in the user's cache (client::BasisCache). What is found is trusted only if its bytes have the
// wanted hash. One thread at a time per object.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/basis/basis.h"
#include "common/codec/codec.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::asset_file {

// A basis from its file. kDataLoss, naming the path, for what is none.
[[nodiscard]] Result<std::shared_ptr<const basis::Basis>> LoadBasis(const std::filesystem::path& path);

struct OpenOptions {
  std::optional<std::filesystem::path> basis = std::nullopt;  // looked into first
  // Only the first so many bytes count: what somebody has who received no more.
  std::optional<std::uint64_t> prefix_bytes = std::nullopt;
};

struct AssetFile {
  container::AssetReader reader;
  codec::BasisResolver resolve;
};

// kNotFound, kDataLoss, ... with the path.
[[nodiscard]] Result<AssetFile> Open(const std::filesystem::path& path, const OpenOptions& options = {});

// What is needed to render `region` (empty: all) at 1/2^scale_log2, as far as the file goes. `progress` gets the
// fraction done and cancels with false; it may be null.
[[nodiscard]] Result<codec::Decoder> Decode(const AssetFile& asset, const pixels::Rect& region,
                                            std::uint32_t scale_log2,
                                            const std::function<bool(double)>& progress = nullptr);

}  // namespace holo::asset_file
