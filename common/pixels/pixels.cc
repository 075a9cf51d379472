#include "common/pixels/pixels.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>

namespace holo::pixels {
namespace {

Result<void> ExpectRange(const char* name, std::uint64_t value, std::uint64_t low, std::uint64_t high) {
  if (value >= low && value <= high) return {};
  return Fail(Code::kInvalidArgument, std::string("picture: expected ") + name + " between " + std::to_string(low) +
                                          " and " + std::to_string(high) + ", found " + std::to_string(value));
}

}  // namespace

Result<void> Validate(const Layout& layout) {
  HOLO_RETURN_IF_ERROR(ExpectRange("width", layout.width, 1, kMaxDimension));
  HOLO_RETURN_IF_ERROR(ExpectRange("height", layout.height, 1, kMaxDimension));
  HOLO_RETURN_IF_ERROR(ExpectRange("width x height", std::uint64_t{layout.width} * layout.height, 1, kMaxPixels));
  HOLO_RETURN_IF_ERROR(ExpectRange("channels", layout.channels, 1, kMaxChannels));
  HOLO_RETURN_IF_ERROR(ExpectRange("sample type", static_cast<std::uint8_t>(layout.sample_type), 0, 1));
  HOLO_RETURN_IF_ERROR(ExpectRange("colour model", static_cast<std::uint8_t>(layout.color_model), 0, 2));
  const std::uint32_t color_channels = layout.channels - (layout.has_alpha ? 1 : 0);
  switch (layout.color_model) {
    case ColorModel::kGeneric:
      return ExpectRange("colour channels", color_channels, 1, kMaxChannels);
    case ColorModel::kGray:
      return ExpectRange("colour channels of a grey picture", color_channels, 1, 1);
    case ColorModel::kRgb:
      return ExpectRange("colour channels of an RGB picture", color_channels, 3, 3);
  }
  return {};
}

Rect Intersect(const Rect& a, const Rect& b) {
  const std::uint64_t left = std::max(a.x, b.x);
  const std::uint64_t top = std::max(a.y, b.y);
  const std::uint64_t right = std::min(std::uint64_t{a.x} + a.width, std::uint64_t{b.x} + b.width);
  const std::uint64_t bottom = std::min(std::uint64_t{a.y} + a.height, std::uint64_t{b.y} + b.height);
  if (left >= right || top >= bottom) return {};
  return {static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(top), static_cast<std::uint32_t>(right - left),
          static_cast<std::uint32_t>(bottom - top)};
}

Rect Union(const Rect& a, const Rect& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  const std::uint32_t left = std::min(a.x, b.x);
  const std::uint32_t top = std::min(a.y, b.y);
  const std::uint64_t right = std::max(std::uint64_t{a.x} + a.width, std::uint64_t{b.x} + b.width);
  const std::uint64_t bottom = std::max(std::uint64_t{a.y} + a.height, std::uint64_t{b.y} + b.height);
  return {left, top, static_cast<std::uint32_t>(right - left), static_cast<std::uint32_t>(bottom - top)};
}

Result<Picture> Picture::Create(const Layout& layout) {
  HOLO_ASSIGN_OR_RETURN(Picture picture, CreateForOverwrite(layout));
  std::fill_n(picture.bytes_.get(), picture.size(), std::uint8_t{0});
  return picture;
}

Result<Picture> Picture::CreateForOverwrite(const Layout& layout) {
  HOLO_RETURN_IF_ERROR(Validate(layout));
  Picture picture;
  picture.layout_ = layout;
  picture.row_bytes_ = std::size_t{layout.width} * layout.channels * SampleBytes(layout.sample_type);
  picture.bytes_.reset(new std::uint8_t[picture.row_bytes_ * layout.height]);
  return picture;
}

Picture Picture::Clone() const {
  Picture copy;
  copy.layout_ = layout_;
  copy.metadata_ = metadata_;
  copy.row_bytes_ = row_bytes_;
  if (bytes_ != nullptr) {
    copy.bytes_.reset(new std::uint8_t[size()]);
    std::copy_n(bytes_.get(), size(), copy.bytes_.get());
  }
  return copy;
}

std::span<std::uint8_t> Picture::RowU8(std::uint32_t y) {
  assert(layout_.sample_type == SampleType::kU8 && y < layout_.height);
  return {bytes_.get() + y * row_bytes_, row_bytes_};
}

std::span<const std::uint8_t> Picture::RowU8(std::uint32_t y) const {
  assert(layout_.sample_type == SampleType::kU8 && y < layout_.height);
  return {bytes_.get() + y * row_bytes_, row_bytes_};
}

std::span<std::uint16_t> Picture::RowU16(std::uint32_t y) {
  assert(layout_.sample_type == SampleType::kU16 && y < layout_.height);
  return {reinterpret_cast<std::uint16_t*>(bytes_.get() + y * row_bytes_), row_bytes_ / 2};
}

std::span<const std::uint16_t> Picture::RowU16(std::uint32_t y) const {
  assert(layout_.sample_type == SampleType::kU16 && y < layout_.height);
  return {reinterpret_cast<const std::uint16_t*>(bytes_.get() + y * row_bytes_), row_bytes_ / 2};
}

std::uint16_t Picture::At(std::uint32_t x, std::uint32_t y, std::uint32_t c) const {
  const std::size_t index = std::size_t{x} * layout_.channels + c;
  return layout_.sample_type == SampleType::kU8 ? RowU8(y)[index] : RowU16(y)[index];
}

void Picture::Set(std::uint32_t x, std::uint32_t y, std::uint32_t c, std::uint16_t value) {
  const std::size_t index = std::size_t{x} * layout_.channels + c;
  if (layout_.sample_type == SampleType::kU8) {
    RowU8(y)[index] = static_cast<std::uint8_t>(value);
  } else {
    RowU16(y)[index] = value;
  }
}

Result<Picture> Picture::Crop(const Rect& region) const {
  if (region.empty() || std::uint64_t{region.x} + region.width > layout_.width ||
      std::uint64_t{region.y} + region.height > layout_.height) {
    return Fail(Code::kOutOfRange, "crop: expected a region inside " + std::to_string(layout_.width) + "x" +
                                       std::to_string(layout_.height) + ", found " + std::to_string(region.width) +
                                       "x" + std::to_string(region.height) + " at " + std::to_string(region.x) + "," +
                                       std::to_string(region.y));
  }
  Layout layout = layout_;
  layout.width = region.width;
  layout.height = region.height;
  HOLO_ASSIGN_OR_RETURN(Picture out, Create(layout));
  out.metadata_ = metadata_;
  const std::size_t pixel_bytes = std::size_t{layout_.channels} * SampleBytes(layout_.sample_type);
  for (std::uint32_t y = 0; y < region.height; ++y) {
    std::memcpy(out.bytes_.get() + y * out.row_bytes_,
                bytes_.get() + (region.y + y) * row_bytes_ + region.x * pixel_bytes, out.row_bytes_);
  }
  return out;
}

}  // namespace holo::pixels
