// From what a Decoder holds to pixels: any region, at 1, 1/2, 1/4, ... of the size, with as many basis dimensions as
// asked.
//
// Rendering is a projection of the coefficients that touch the region; nothing else of the picture is computed.
// Deterministic: the same chunks and view give the same bytes on every machine and with any number of threads.
//
// Tiles that are not decoded yet are decoded first. Rendering and decoding use up to `threads` threads, the caller's
// among them; the decoder must not be used meanwhile.
#pragma once

#include <cstdint>

#include "common/codec/codec.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::render {

inline constexpr std::uint32_t kMaxScaleLog2 = 24;

struct View {
  pixels::Rect region;           // level-0 pixels, inside the picture; empty: all of it
  std::uint32_t scale_log2 = 0;  // output pixels are 2^scale_log2 picture pixels wide and high
  std::uint32_t k = 0;           // basis dimensions used per patch, means included; 0: all that have arrived
  // Whether a picture of full size, of all dimensions, is smoothed as its file says: nearer to the original, at a fifth
  // of the speed. Without it pixels are the projection itself.
  bool smooth = true;
};

// Size of the output of `view`: the region in output pixels, outward to whole ones.
//   x from floor(region.x / s) to ceil((region.x + region.width) / s), s = 2^scale_log2
struct OutputRect {
  std::uint32_t x = 0, y = 0, width = 0, height = 0;
};
[[nodiscard]] OutputRect OutputRectOf(const View& view);

// kOutOfRange for a region outside the picture or a scale above kMaxScaleLog2. The output has the asset's channels and
// sample type and its metadata.
[[nodiscard]] Result<pixels::Picture> Render(const codec::Decoder& decoder, const View& view, unsigned threads = 1);

// Renders into part of an existing picture: `target` covers `target_region` at the same scale (as OutputRectOf says),
// and only the pixels of view.region are overwritten. For incremental display.
[[nodiscard]] Result<void> RenderInto(const codec::Decoder& decoder, const View& view, const OutputRect& target_rect,
                                      pixels::Picture& target, unsigned threads = 1);

}  // namespace holo::render
