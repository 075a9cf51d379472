// Picture files to pictures and back.
//
// Reads PNG, JPEG, TIFF, WebP, BMP, PNM (PBM, PGM, PPM) and JPEG 2000, told apart by their first bytes, never by name.
// Samples keep their 8 or 16 bits and come in the order R, G, B, A; grey stays one channel, and grey with alpha two;
// palettes are expanded; 1-, 2- and 4-bit samples become 8-bit. Pixels are turned upright as the file's EXIF (or TIFF)
// orientation says, and metadata().source_orientation records it. The ICC profile of PNG, JPEG, WebP and TIFF is kept.
//
// A TIFF may have up to pixels::kMaxChannels channels; with no RGB or grey meaning, or when it has several pages of one
// channel and one size, which become channels, it loads as ColorModel::kGeneric. Of other files with several pictures
// the first is loaded.
//
// Files are checked before they are decoded: size in pixels, checksums (PNG), and that they end where they should, so
// that a truncated picture is an error and not half a picture. All functions may be called from any thread. This code
// prints nothing, but the decoders behind it may mention damage on standard error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "common/files/files.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::image_io {

struct LoadOptions {
  // Width x height beyond which a picture is refused before any memory is taken for it. Besides, no side may exceed
  // 1,048,576 and no picture 2^30 pixels except in TIFF files: the decoders behind this go no further.
  std::uint64_t max_pixels = 400'000'000;
};

// kInvalidArgument, naming the known formats, for what is no picture; kResourceExhausted, with the size found and the
// limit, for one that is too large; kDataLoss for a damaged or truncated one; kUnimplemented for a variant of a known
// format that cannot be represented (floating point samples).
[[nodiscard]] Result<pixels::Picture> Load(const std::filesystem::path& path, const LoadOptions& options = {});
// The same from memory; `name` stands for the path in messages.
[[nodiscard]] Result<pixels::Picture> Decode(std::span<const std::uint8_t> bytes, std::string_view name,
                                             const LoadOptions& options = {});

// True for a name with the extension of a format that Load reads. Only a hint, for choosing files in a folder.
[[nodiscard]] bool IsPictureName(const std::filesystem::path& path);
// kInvalidArgument, listing the extensions that Save writes, unless `path` has one of them. For asking before work
// is done.
[[nodiscard]] Result<void> CheckSaveName(const std::filesystem::path& path);

struct SaveOptions {
  int quality = 95;  // JPEG and JPEG 2000, 1..100; WebP is written without loss
  files::IfExists if_exists = files::IfExists::kReplace;
};

// Writes atomically, in the format that the extension names: .png .jpg .jpeg .tif .tiff .webp .bmp .ppm .pgm .jp2.
// PNG, TIFF and JPEG carry the ICC profile. JPEG, BMP and PNM know no alpha: the picture is laid on white; JPEG, BMP
// and WebP know 8 bits only: 16-bit samples are rounded. Generic channels are written as grey (1) or RGB (3); any other
// number needs TIFF, otherwise kInvalidArgument.
[[nodiscard]] Result<void> Save(const std::filesystem::path& path, const pixels::Picture& picture,
                                const SaveOptions& options = {});

// The bytes of a PNG file of a grey or RGB picture, with or without alpha, 8 or 16 bit, with its ICC profile.
// `zlib_level` is 1 (fast) to 9 (small). The same picture gives the same bytes.
[[nodiscard]] Result<std::vector<std::uint8_t>> EncodePng(const pixels::Picture& picture, int zlib_level = 4);

}  // namespace holo::image_io
