// PNG's own container. Private to image_io.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/image_io/formats.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::image_io {

struct PngFile {
  Probe probe;
  std::uint8_t bit_depth = 8;
  bool is_gray = false;  // grey or grey with alpha
  bool is_palette = false;
  bool has_alpha_channel = false;
  // The one colour that is transparent (tRNS of grey and RGB pictures), in samples of bit_depth; grey uses the first.
  std::vector<std::uint16_t> transparent_color;
  // The file with nothing but what makes pixels: no text, no profiles, no animation.
  std::vector<std::uint8_t> essential;
};

// Checks the order of things and every checksum that matters.
[[nodiscard]] Result<PngFile> ReadPng(std::span<const std::uint8_t> bytes, std::string_view what);

}  // namespace holo::image_io
