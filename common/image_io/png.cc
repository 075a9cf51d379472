#include "common/image_io/png.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/image_io/image_io.h"

namespace holo::image_io {
namespace {

constexpr std::array<std::uint8_t, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

enum ColorType : std::uint8_t { kGrayType = 0, kRgbType = 2, kPaletteType = 3, kGrayAlphaType = 4, kRgbAlphaType = 6 };

tl::unexpected<Error> Damaged(std::string_view what, const std::string& problem) {
  return Fail(Code::kDataLoss, std::string(what) + ": " + problem);
}

// Inflates an embedded profile; empty if it is damaged or longer than kMaxIccBytes.
std::vector<std::uint8_t> Inflate(std::span<const std::uint8_t> packed) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return {};
  std::vector<std::uint8_t> out;
  std::array<std::uint8_t, 16384> block;
  stream.next_in = const_cast<Bytef*>(packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  int state = Z_OK;
  while (state == Z_OK && out.size() <= kMaxIccBytes) {
    stream.next_out = block.data();
    stream.avail_out = block.size();
    state = inflate(&stream, Z_NO_FLUSH);
    out.insert(out.end(), block.begin(), block.end() - stream.avail_out);
  }
  inflateEnd(&stream);
  if (state != Z_STREAM_END || out.size() > kMaxIccBytes) out.clear();
  return out;
}

std::vector<std::uint8_t> ReadIccChunk(std::span<const std::uint8_t> body) {
  const auto zero = std::find(body.begin(), body.end(), std::uint8_t{0});
  // Name, its terminator, and the compression method, which is always 0.
  if (body.end() - zero < 2 || zero[1] != 0) return {};
  return Inflate(body.subspan(static_cast<std::size_t>(zero - body.begin()) + 2));
}

Result<void> ReadHeader(std::span<const std::uint8_t> body, std::string_view what, PngFile& png) {
  bytes::ByteReader reader(body, what);
  HOLO_ASSIGN_OR_RETURN(png.probe.width, ReadBe32(reader));
  HOLO_ASSIGN_OR_RETURN(png.probe.height, ReadBe32(reader));
  HOLO_ASSIGN_OR_RETURN(png.bit_depth, reader.ReadU8());
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t color_type, reader.ReadU8());
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> methods, reader.ReadSpan(3));
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  const std::uint8_t depth = png.bit_depth;
  bool depth_fits = depth == 8 || depth == 16;
  if (color_type == kGrayType) depth_fits = depth_fits || depth == 1 || depth == 2 || depth == 4;
  if (color_type == kPaletteType) depth_fits = depth == 1 || depth == 2 || depth == 4 || depth == 8;
  const bool type_fits = color_type <= kRgbAlphaType && color_type != 1 && color_type != 5;
  if (!type_fits || !depth_fits || methods[0] != 0 || methods[1] != 0 || methods[2] > 1) {
    return Damaged(what, "expected a valid PNG header, found colour type " + std::to_string(color_type) + " with " +
                             std::to_string(depth) + " bits, methods " + std::to_string(methods[0]) + " " +
                             std::to_string(methods[1]) + " " + std::to_string(methods[2]));
  }
  if (png.probe.width == 0 || png.probe.height == 0 || png.probe.width > INT32_MAX || png.probe.height > INT32_MAX) {
    return Damaged(what, "expected a PNG with pixels, found " + std::to_string(png.probe.width) + "x" +
                             std::to_string(png.probe.height));
  }
  png.is_gray = color_type == kGrayType || color_type == kGrayAlphaType;
  png.is_palette = color_type == kPaletteType;
  png.has_alpha_channel = color_type == kGrayAlphaType || color_type == kRgbAlphaType;
  return {};
}

void WriteBe32(std::vector<std::uint8_t>& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(value >> shift));
}

void WriteChunk(std::vector<std::uint8_t>& out, std::string_view name, std::span<const std::uint8_t> body) {
  WriteBe32(out, static_cast<std::uint32_t>(body.size()));
  const std::size_t start = out.size();
  out.insert(out.end(), name.begin(), name.end());
  out.insert(out.end(), body.begin(), body.end());
  // zlib's is the fastest CRC-32 at hand.
  const uLong crc = crc32_z(0, out.data() + start, out.size() - start);
  WriteBe32(out, static_cast<std::uint32_t>(crc));
}

std::uint8_t Paeth(int left, int above, int corner) {
  const int estimate = left + above - corner;
  const int by_left = std::abs(estimate - left);
  const int by_above = std::abs(estimate - above);
  const int by_corner = std::abs(estimate - corner);
  if (by_left <= by_above && by_left <= by_corner) return static_cast<std::uint8_t>(left);
  return static_cast<std::uint8_t>(by_above <= by_corner ? above : corner);
}

// Filters one row in each of PNG's five ways and keeps the one with the smallest sum of absolute differences, which is
// the specification's advice (section 12.7). `row` and `above` have `pixel_bytes` zeros before their first byte.
class RowFilter {
 public:
  RowFilter(std::size_t row_bytes, std::size_t pixel_bytes) : row_bytes_(row_bytes), pixel_bytes_(pixel_bytes) {
    for (auto& candidate : candidates_) candidate.resize(row_bytes + 1);
  }

  [[nodiscard]] std::span<const std::uint8_t> Filter(const std::uint8_t* row, const std::uint8_t* above) {
    std::array<std::uint64_t, 5> costs{};
    for (std::size_t kind = 0; kind < 5; ++kind) candidates_[kind][0] = static_cast<std::uint8_t>(kind);
    for (std::size_t i = 0; i < row_bytes_; ++i) {
      const std::uint8_t value = row[i];
      const std::uint8_t left = *(row + i - pixel_bytes_);
      const std::uint8_t up = above[i];
      const std::uint8_t corner = *(above + i - pixel_bytes_);
      const std::array<std::uint8_t, 5> predictions = {0, left, up, static_cast<std::uint8_t>((left + up) / 2),
                                                       Paeth(left, up, corner)};
      for (std::size_t kind = 0; kind < 5; ++kind) {
        const auto difference = static_cast<std::uint8_t>(value - predictions[kind]);
        candidates_[kind][i + 1] = difference;
        costs[kind] += difference < 128 ? difference : 256u - difference;
      }
    }
    const auto best = std::min_element(costs.begin(), costs.end()) - costs.begin();
    return candidates_[static_cast<std::size_t>(best)];
  }

 private:
  std::size_t row_bytes_;
  std::size_t pixel_bytes_;
  std::array<std::vector<std::uint8_t>, 5> candidates_;
};

// Deflates the filtered rows into IDAT chunks.
Result<void> WriteRows(const pixels::Picture& picture, int zlib_level, std::vector<std::uint8_t>& out) {
  z_stream stream{};
  if (deflateInit(&stream, std::clamp(zlib_level, 1, 9)) != Z_OK) {
    return Fail(Code::kResourceExhausted, "PNG: zlib could not start");
  }
  const std::size_t row_bytes = picture.row_bytes();
  const std::size_t pixel_bytes = picture.channels() * pixels::SampleBytes(picture.layout().sample_type);
  const bool is_16_bit = picture.layout().sample_type == pixels::SampleType::kU16;
  RowFilter filter(row_bytes, pixel_bytes);
  std::vector<std::uint8_t> row(pixel_bytes + row_bytes);
  std::vector<std::uint8_t> above(pixel_bytes + row_bytes);
  std::vector<std::uint8_t> block(256u << 10);
  stream.next_out = block.data();
  stream.avail_out = static_cast<uInt>(block.size());
  const auto pump = [&](int flush) {
    while (true) {
      const int state = deflate(&stream, flush);
      const bool full = stream.avail_out == 0;
      if (full || state == Z_STREAM_END) {
        WriteChunk(out, "IDAT", std::span(block).first(block.size() - stream.avail_out));
        stream.next_out = block.data();
        stream.avail_out = static_cast<uInt>(block.size());
      }
      if (state == Z_STREAM_END || (flush == Z_NO_FLUSH && !full)) return;
    }
  };
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    std::uint8_t* samples = row.data() + pixel_bytes;
    std::memcpy(samples, picture.bytes().data() + y * row_bytes, row_bytes);
    if (is_16_bit) {
      for (std::size_t i = 0; i + 1 < row_bytes; i += 2) std::swap(samples[i], samples[i + 1]);
    }
    const std::span<const std::uint8_t> filtered = filter.Filter(samples, above.data() + pixel_bytes);
    stream.next_in = const_cast<Bytef*>(filtered.data());
    stream.avail_in = static_cast<uInt>(filtered.size());
    pump(Z_NO_FLUSH);
    row.swap(above);
  }
  pump(Z_FINISH);
  deflateEnd(&stream);
  return {};
}

}  // namespace

Result<PngFile> ReadPng(std::span<const std::uint8_t> bytes, std::string_view what) {
  PngFile png;
  png.essential.reserve(bytes.size());
  png.essential.assign(kSignature.begin(), kSignature.end());
  bytes::ByteReader reader(bytes, what);
  HOLO_RETURN_IF_ERROR(reader.ReadSpan(kSignature.size()));
  bool has_header = false;
  bool has_pixels = false;
  while (true) {
    const std::size_t at = reader.offset();
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t length, ReadBe32(reader));
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> named, reader.ReadSpan(std::size_t{length} + 4));
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t expected_crc, ReadBe32(reader));
    const std::string name(named.begin(), named.begin() + 4);
    const std::span<const std::uint8_t> body = named.subspan(4);
    if (!has_header && name != "IHDR") return Damaged(what, "expected the PNG header first, found " + name);
    const bool is_critical = (named[0] & 0x20) == 0;
    const bool is_sound = crc32_z(0, named.data(), named.size()) == expected_crc;
    if (!is_sound && is_critical) {
      return Damaged(what, "checksum of " + name + " at offset " + std::to_string(at) + " does not fit its content");
    }
    if (!is_sound) continue;
    if (name == "IHDR") {
      if (has_header) return Damaged(what, "expected one PNG header, found two");
      HOLO_RETURN_IF_ERROR(ReadHeader(body, what, png));
      has_header = true;
    } else if (name == "iCCP") {
      png.probe.icc_profile = ReadIccChunk(body);
    } else if (name == "eXIf") {
      png.probe.orientation = ExifOrientation(body);
    } else if (name == "tRNS" && !png.is_palette && !png.has_alpha_channel && body.size() == (png.is_gray ? 2u : 6u)) {
      bytes::ByteReader colors(body, what);
      while (colors.remaining() > 0) {
        HOLO_ASSIGN_OR_RETURN(const std::uint16_t value, ReadBe16(colors));
        png.transparent_color.push_back(value);
      }
    }
    has_pixels = has_pixels || name == "IDAT";
    if (is_critical || (name == "tRNS" && png.is_palette)) {
      png.essential.insert(png.essential.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                           bytes.begin() + static_cast<std::ptrdiff_t>(reader.offset()));
    }
    if (name == "IEND") break;
  }
  if (!has_pixels) return Damaged(what, "expected pixels (IDAT), found none");
  return png;
}

Result<std::vector<std::uint8_t>> EncodePng(const pixels::Picture& picture, int zlib_level) {
  const pixels::Layout& layout = picture.layout();
  HOLO_RETURN_IF_ERROR(pixels::Validate(layout));
  const std::uint32_t colors = layout.channels - (layout.has_alpha ? 1 : 0);
  if (colors != 1 && colors != 3) {
    return Fail(Code::kInvalidArgument, "PNG: expected 1 or 3 colour channels, found " + std::to_string(colors) +
                                            "; a .tif file holds any number of channels");
  }
  const std::uint8_t color_type =
      colors == 1 ? (layout.has_alpha ? kGrayAlphaType : kGrayType) : (layout.has_alpha ? kRgbAlphaType : kRgbType);
  std::vector<std::uint8_t> out(kSignature.begin(), kSignature.end());
  std::vector<std::uint8_t> header;
  WriteBe32(header, layout.width);
  WriteBe32(header, layout.height);
  header.push_back(layout.sample_type == pixels::SampleType::kU8 ? 8 : 16);
  header.push_back(color_type);
  header.insert(header.end(), {0, 0, 0});
  WriteChunk(out, "IHDR", header);
  if (const auto& icc = picture.metadata().icc_profile; !icc.empty()) {
    constexpr std::string_view kName("ICC profile\0\0", 13);  // name, terminator, compression method
    std::vector<std::uint8_t> body(kName.begin(), kName.end());
    uLongf packed_bytes = compressBound(static_cast<uLong>(icc.size()));
    body.resize(kName.size() + packed_bytes);
    if (compress2(body.data() + kName.size(), &packed_bytes, icc.data(), static_cast<uLong>(icc.size()), 9) != Z_OK) {
      return Fail(Code::kInternal, "PNG: the ICC profile could not be packed");
    }
    body.resize(kName.size() + packed_bytes);
    WriteChunk(out, "iCCP", body);
  }
  HOLO_RETURN_IF_ERROR(WriteRows(picture, zlib_level, out));
  WriteChunk(out, "IEND", {});
  return out;
}

}  // namespace holo::image_io
