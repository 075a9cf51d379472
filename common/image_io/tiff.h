// TIFF through libtiff: OpenCV reads no more than four channels. Private to image_io.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/image_io/image_io.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::image_io {

// Not yet upright: `metadata().source_orientation` says how it lies. Has its ICC profile.
[[nodiscard]] Result<pixels::Picture> ReadTiff(std::span<const std::uint8_t> bytes, std::string_view name,
                                               const LoadOptions& options);
[[nodiscard]] Result<std::vector<std::uint8_t>> WriteTiff(const pixels::Picture& picture);

}  // namespace holo::image_io
