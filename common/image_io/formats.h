// What can be learnt about a picture file without decoding it. Private to image_io.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/bytes/bytes.h"
#include "common/status/status.h"

namespace holo::image_io {

enum class Format : std::uint8_t { kUnknown, kPng, kJpeg, kTiff, kWebp, kBmp, kPnm, kJpeg2000 };

// By the first bytes.
[[nodiscard]] Format DetectFormat(std::span<const std::uint8_t> bytes);

struct Probe {
  std::uint64_t width = 0;
  std::uint64_t height = 0;
  std::uint8_t orientation = 1;
  std::vector<std::uint8_t> icc_profile;
  // PNM: the largest value a sample may have; 0 for other formats.
  std::uint32_t max_value = 0;
};

inline constexpr std::size_t kMaxIccBytes = 16u << 20;

// Each walks its container with a bounds-checked reader to the end of the picture. kDataLoss, with the offset, where
// the file is cut off or makes no sense. `what` names the file in messages and outlives nothing.
[[nodiscard]] Result<Probe> ProbeJpeg(std::span<const std::uint8_t> bytes, std::string_view what);
[[nodiscard]] Result<Probe> ProbeWebp(std::span<const std::uint8_t> bytes, std::string_view what);
[[nodiscard]] Result<Probe> ProbeBmp(std::span<const std::uint8_t> bytes, std::string_view what);
[[nodiscard]] Result<Probe> ProbePnm(std::span<const std::uint8_t> bytes, std::string_view what);
[[nodiscard]] Result<Probe> ProbeJpeg2000(std::span<const std::uint8_t> bytes, std::string_view what);

// The orientation in an EXIF block (a TIFF header and directory, perhaps behind "Exif\0\0"); 1 if there is none or the
// block makes no sense.
[[nodiscard]] std::uint8_t ExifOrientation(std::span<const std::uint8_t> exif);

[[nodiscard]] Result<std::uint16_t> ReadBe16(bytes::ByteReader& reader);
[[nodiscard]] Result<std::uint32_t> ReadBe32(bytes::ByteReader& reader);

}  // namespace holo::image_io
