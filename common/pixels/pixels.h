// Pictures in memory: a move-only buffer of interleaved integer samples, and what is known about them.
//
// Samples are row-major, channels interleaved: sample(x, y, c) is at (y * width + x) * channels + c. Buffers are never
// copied silently; Clone() is the explicit copy. Objects are not synchronised; const access from many threads is fine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/status/status.h"

namespace holo::pixels {

// Enumerators are stored in .holo files: never renumber.
enum class SampleType : std::uint8_t { kU8 = 0, kU16 = 1 };

// What the channels before an alpha channel mean. kGeneric: nothing is known (multispectral, matrices).
enum class ColorModel : std::uint8_t { kGeneric = 0, kGray = 1, kRgb = 2 };

inline constexpr std::uint32_t kMaxDimension = 1u << 30;
inline constexpr std::uint64_t kMaxPixels = std::uint64_t{1} << 31;
inline constexpr std::uint32_t kMaxChannels = 32;

// Shape and meaning of a picture's samples.
struct Layout {
  std::uint32_t width = 0;     // pixels, 1..kMaxDimension; width * height at most kMaxPixels
  std::uint32_t height = 0;    // pixels
  std::uint32_t channels = 0;  // 1..kMaxChannels, alpha included
  SampleType sample_type = SampleType::kU8;
  ColorModel color_model = ColorModel::kGeneric;  // kGray: 1 colour channel, kRgb: 3 in the order R, G, B
  bool has_alpha = false;                         // the last channel is straight (unassociated) alpha

  friend bool operator==(const Layout&, const Layout&) = default;
};

// kInvalidArgument, with the member's name and the limit, unless `layout` is consistent and inside the limits above.
[[nodiscard]] Result<void> Validate(const Layout& layout);

[[nodiscard]] inline std::size_t SampleBytes(SampleType type) {
  return type == SampleType::kU8 ? 1 : 2;
}
[[nodiscard]] inline float MaxSample(SampleType type) {
  return type == SampleType::kU8 ? 255.0f : 65535.0f;
}

// Carried from file to file, never interpreted by the codec.
struct Metadata {
  std::vector<std::uint8_t> icc_profile;  // empty: sRGB or unknown
  // EXIF orientation 1..8 of the file the picture came from. Pixels are always upright: it has been applied.
  std::uint8_t source_orientation = 1;

  friend bool operator==(const Metadata&, const Metadata&) = default;
};

// A rectangle in pixels; empty when width or height is 0.
struct Rect {
  std::uint32_t x = 0;
  std::uint32_t y = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;

  [[nodiscard]] bool empty() const { return width == 0 || height == 0; }
  [[nodiscard]] std::uint64_t area() const { return std::uint64_t{width} * height; }
  friend bool operator==(const Rect&, const Rect&) = default;
};

// The common part of two rectangles, empty if there is none.
[[nodiscard]] Rect Intersect(const Rect& a, const Rect& b);
// The smallest rectangle that holds both; an empty one counts for nothing.
[[nodiscard]] Rect Union(const Rect& a, const Rect& b);

// An owned picture.
class Picture {
 public:
  // An empty picture: no pixels. Only for members that are filled later.
  Picture() = default;
  // Zeroed samples. Fails as Validate(layout) does.
  [[nodiscard]] static Result<Picture> Create(const Layout& layout);
  // The same with undefined samples, for those who write every one.
  [[nodiscard]] static Result<Picture> CreateForOverwrite(const Layout& layout);

  Picture(Picture&&) noexcept = default;
  Picture& operator=(Picture&&) noexcept = default;
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;
  [[nodiscard]] Picture Clone() const;

  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] std::uint32_t width() const { return layout_.width; }
  [[nodiscard]] std::uint32_t height() const { return layout_.height; }
  [[nodiscard]] std::uint32_t channels() const { return layout_.channels; }
  [[nodiscard]] const Metadata& metadata() const { return metadata_; }
  [[nodiscard]] Metadata& metadata() { return metadata_; }

  // width * channels samples in native byte order, as bytes.
  [[nodiscard]] std::size_t row_bytes() const { return row_bytes_; }
  [[nodiscard]] std::span<std::uint8_t> bytes() { return {bytes_.get(), size()}; }
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return {bytes_.get(), size()}; }

  // Row `y` as samples; the sample type must be the one asked for. y < height.
  [[nodiscard]] std::span<std::uint8_t> RowU8(std::uint32_t y);
  [[nodiscard]] std::span<const std::uint8_t> RowU8(std::uint32_t y) const;
  [[nodiscard]] std::span<std::uint16_t> RowU16(std::uint32_t y);
  [[nodiscard]] std::span<const std::uint16_t> RowU16(std::uint32_t y) const;

  // One sample of either type; for tests and slow paths.
  [[nodiscard]] std::uint16_t At(std::uint32_t x, std::uint32_t y, std::uint32_t c) const;
  void Set(std::uint32_t x, std::uint32_t y, std::uint32_t c, std::uint16_t value);

  // A copy of `region`, which must lie inside; kOutOfRange otherwise.
  [[nodiscard]] Result<Picture> Crop(const Rect& region) const;

 private:
  [[nodiscard]] std::size_t size() const { return bytes_ != nullptr ? row_bytes_ * layout_.height : 0; }

  Layout layout_;
  Metadata metadata_;
  std::size_t row_bytes_ = 0;
  std::unique_ptr<std::uint8_t[]> bytes_;
};

}  // namespace holo::pixels
