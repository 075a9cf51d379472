// The naive form of the idea, kept as the yardstick: 8x8 patches, the principal components of this one picture, float16
// numbers, nothing coded. See FORMAT.md.
//
//     patch = coefficients[1 x k] @ basis[k x D] + mean[D]        D = 64 * channels
//
// A Kodak picture (768x512, RGB) takes 380,544 bytes of numbers at k = 30, whatever it shows. The picture's profile and
// orientation are not kept. An Asset is a value; const access from many threads is fine.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::plain {

inline constexpr std::uint8_t kFormatVersion = 1;
inline constexpr std::uint32_t kPatchPx = 8;

struct Asset {
  pixels::Layout layout;
  std::uint32_t k = 0;              // 1..D
  std::vector<float> mean;          // [D] in the order [channel][row][column]; samples are scaled to 0..1
  std::vector<float> basis;         // [k, D] row-major, orthonormal, by falling variance
  std::vector<float> coefficients;  // [patches, k] row-major, patches row by row

  [[nodiscard]] std::uint32_t dimension() const { return kPatchPx * kPatchPx * layout.channels; }
  [[nodiscard]] std::uint32_t patches_x() const { return (layout.width + kPatchPx - 1) / kPatchPx; }
  [[nodiscard]] std::uint32_t patches_y() const { return (layout.height + kPatchPx - 1) / kPatchPx; }
  // Bytes of the float16 numbers: all of the file except its header and checksum.
  [[nodiscard]] std::uint64_t payload_bytes() const;
};

struct Options {
  std::uint32_t k = 30;                            // dimensions kept; more than D means D
  std::optional<double> variance = std::nullopt;   // 0..1: instead of k, as many as hold so much of the variance
  std::function<bool(double)> progress = nullptr;  // fraction done, 0..1; false cancels (kCancelled)
};

// The numbers are rounded to float16 already: what Parse(Serialize()) gives back is the same.
[[nodiscard]] Result<Asset> Encode(const pixels::Picture& picture, const Options& options);

[[nodiscard]] std::vector<std::uint8_t> Serialize(const Asset& asset);
// True if `bytes` begin like such a file.
[[nodiscard]] bool IsPlain(std::span<const std::uint8_t> bytes);
// kDataLoss, with what was expected and found where; kUnimplemented for another version.
[[nodiscard]] Result<Asset> Parse(std::span<const std::uint8_t> bytes);

// The pixels of `region` (empty: all) from the first `k` dimensions (0: all there are). kOutOfRange for a region that
// is not inside the picture.
[[nodiscard]] Result<pixels::Picture> Render(const Asset& asset, const pixels::Rect& region, std::uint32_t k);

}  // namespace holo::plain
