#include "common/image_io/formats.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>

namespace holo::image_io {
namespace {

bool StartsWith(std::span<const std::uint8_t> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

tl::unexpected<Error> Damaged(std::string_view what, std::string_view problem, std::size_t offset) {
  return Fail(Code::kDataLoss,
              std::string(what) + ": " + std::string(problem) + " at offset " + std::to_string(offset));
}

// Where the next marker of a JPEG lies behind entropy-coded data; bytes.size() if there is none.
std::size_t SkipScan(std::span<const std::uint8_t> bytes, std::size_t at) {
  while (at < bytes.size()) {
    const void* found = std::memchr(bytes.data() + at, 0xFF, bytes.size() - at);
    if (found == nullptr) return bytes.size();
    at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - bytes.data());
    if (at + 1 >= bytes.size()) return bytes.size();
    const std::uint8_t next = bytes[at + 1];
    const bool is_data = next == 0x00 || (next >= 0xD0 && next <= 0xD7);
    if (!is_data && next != 0xFF) return at;
    at += is_data ? 2 : 1;
  }
  return at;
}

Result<std::uint32_t> ReadExif32(bytes::ByteReader& reader, bool big_endian) {
  return big_endian ? ReadBe32(reader) : reader.ReadU32();
}

Result<std::uint16_t> ReadExif16(bytes::ByteReader& reader, bool big_endian) {
  return big_endian ? ReadBe16(reader) : reader.ReadU16();
}

Result<std::uint8_t> ParseExifOrientation(std::span<const std::uint8_t> exif) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  if (StartsWith(exif, kPrefix)) exif = exif.subspan(kPrefix.size());
  const bool big_endian = StartsWith(exif, "MM");
  if (!big_endian && !StartsWith(exif, "II")) return 1;
  bytes::ByteReader header(exif.subspan(2), "EXIF");
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t magic, ReadExif16(header, big_endian));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t offset, ReadExif32(header, big_endian));
  if (magic != 42 || offset > exif.size()) return 1;
  bytes::ByteReader directory(exif.subspan(offset), "EXIF");
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t count, ReadExif16(directory, big_endian));
  for (std::uint16_t i = 0; i < count; ++i) {
    HOLO_ASSIGN_OR_RETURN(const std::uint16_t tag, ReadExif16(directory, big_endian));
    HOLO_ASSIGN_OR_RETURN(const std::uint16_t type, ReadExif16(directory, big_endian));
    HOLO_RETURN_IF_ERROR(directory.ReadSpan(4));
    HOLO_ASSIGN_OR_RETURN(const std::uint16_t value, ReadExif16(directory, big_endian));
    HOLO_RETURN_IF_ERROR(directory.ReadSpan(2));
    constexpr std::uint16_t kOrientationTag = 0x0112;
    constexpr std::uint16_t kShort = 3;
    if (tag == kOrientationTag && type == kShort && value >= 1 && value <= 8) return static_cast<std::uint8_t>(value);
  }
  return 1;
}

// The parts of an ICC profile in APP2 segments, by their number.
struct IccParts {
  std::map<std::uint8_t, std::span<const std::uint8_t>> parts;
  std::uint8_t count = 0;

  // A profile that is not all there is worth nothing and left out.
  [[nodiscard]] std::vector<std::uint8_t> Join() const {
    std::vector<std::uint8_t> profile;
    if (count == 0 || parts.size() != count || parts.begin()->first != 1 || parts.rbegin()->first != count) return {};
    for (const auto& [number, part] : parts) {
      if (profile.size() + part.size() > kMaxIccBytes) return {};
      profile.insert(profile.end(), part.begin(), part.end());
    }
    return profile;
  }
};

Result<void> ReadApplicationSegment(std::uint8_t marker, std::span<const std::uint8_t> body, Probe& probe,
                                    IccParts& icc) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr std::string_view kIcc("ICC_PROFILE\0", 12);
  if (marker == 0xE1 && StartsWith(body, kExif)) probe.orientation = ExifOrientation(body);
  if (marker == 0xE2 && StartsWith(body, kIcc) && body.size() >= kIcc.size() + 2) {
    icc.count = body[kIcc.size() + 1];
    icc.parts[body[kIcc.size()]] = body.subspan(kIcc.size() + 2);
  }
  return {};
}

// One number of a PNM header, behind white space and comments.
Result<std::uint64_t> ReadPnmNumber(bytes::ByteReader& reader, std::string_view what) {
  std::uint64_t value = 0;
  bool any = false;
  bool in_comment = false;
  while (true) {
    const std::size_t at = reader.offset();
    HOLO_ASSIGN_OR_RETURN(const std::uint8_t byte, reader.ReadU8());
    const auto c = static_cast<char>(byte);
    if (in_comment) {
      in_comment = c != '\n';
    } else if (c == '#') {
      in_comment = true;
    } else if (c >= '0' && c <= '9') {
      any = true;
      value = value * 10 + static_cast<std::uint64_t>(c - '0');
      if (value > UINT32_MAX) return Damaged(what, "expected a number below 2^32", at);
    } else if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
      return Damaged(what, "expected a number", at);
    } else if (any) {
      return value;
    }
  }
}

Result<Probe> ReadSizMarker(bytes::ByteReader& reader, std::string_view what) {
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t markers, ReadBe32(reader));
  if (markers != 0xFF4FFF51) return Damaged(what, "expected a JPEG 2000 codestream", reader.offset() - 4);
  HOLO_RETURN_IF_ERROR(reader.ReadSpan(4));  // segment length, capabilities
  std::array<std::uint32_t, 4> sizes{};      // right, bottom, left, top on the reference grid
  for (std::uint32_t& size : sizes) {
    HOLO_ASSIGN_OR_RETURN(size, ReadBe32(reader));
  }
  if (sizes[0] <= sizes[2] || sizes[1] <= sizes[3]) return Damaged(what, "expected a picture with pixels", 0);
  Probe probe;
  probe.width = sizes[0] - sizes[2];
  probe.height = sizes[1] - sizes[3];
  return probe;
}

}  // namespace

Result<std::uint16_t> ReadBe16(bytes::ByteReader& reader) {
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t value, reader.ReadU16());
  return __builtin_bswap16(value);
}

Result<std::uint32_t> ReadBe32(bytes::ByteReader& reader) {
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t value, reader.ReadU32());
  return __builtin_bswap32(value);
}

Format DetectFormat(std::span<const std::uint8_t> bytes) {
  using namespace std::string_view_literals;
  if (StartsWith(bytes, "\x89PNG\r\n\x1a\n"sv)) return Format::kPng;
  if (StartsWith(bytes, "\xFF\xD8\xFF"sv)) return Format::kJpeg;
  for (const std::string_view magic : {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv}) {
    if (StartsWith(bytes, magic)) return Format::kTiff;
  }
  if (StartsWith(bytes, "RIFF"sv) && bytes.size() >= 12 && StartsWith(bytes.subspan(8), "WEBP"sv)) return Format::kWebp;
  if (StartsWith(bytes, "BM"sv)) return Format::kBmp;
  if (bytes.size() >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
      (bytes[2] == ' ' || bytes[2] == '\n' || bytes[2] == '\r' || bytes[2] == '\t' || bytes[2] == '#')) {
    return Format::kPnm;
  }
  if (StartsWith(bytes, "\0\0\0\x0CjP  \r\n\x87\n"sv) || StartsWith(bytes, "\xFF\x4F\xFF\x51"sv)) {
    return Format::kJpeg2000;
  }
  return Format::kUnknown;
}

std::uint8_t ExifOrientation(std::span<const std::uint8_t> exif) {
  return ParseExifOrientation(exif).value_or(1);
}

Result<Probe> ProbeJpeg(std::span<const std::uint8_t> bytes, std::string_view what) {
  Probe probe;
  IccParts icc;
  bool has_scan = false;
  std::size_t at = 2;
  while (true) {
    // Fill bytes may stand before a marker.
    while (at + 1 < bytes.size() && bytes[at] == 0xFF && bytes[at + 1] == 0xFF) ++at;
    if (at + 2 > bytes.size()) return Damaged(what, "expected an end-of-picture marker, found the end of the file", at);
    if (bytes[at] != 0xFF) return Damaged(what, "expected a JPEG marker", at);
    const std::uint8_t marker = bytes[at + 1];
    at += 2;
    if (marker == 0xD9) break;
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD7)) continue;
    bytes::ByteReader reader(bytes.subspan(at), what);
    HOLO_ASSIGN_OR_RETURN(const std::uint16_t length, ReadBe16(reader));
    if (length < 2) return Damaged(what, "expected a segment of 2 bytes or more", at);
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> body, reader.ReadSpan(length - 2u));
    at += length;
    const bool is_frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (is_frame) {
      bytes::ByteReader frame(body, what);
      HOLO_RETURN_IF_ERROR(frame.ReadU8());
      HOLO_ASSIGN_OR_RETURN(probe.height, ReadBe16(frame));
      HOLO_ASSIGN_OR_RETURN(probe.width, ReadBe16(frame));
    } else if (marker == 0xDA) {
      has_scan = true;
      at = SkipScan(bytes, at);
    } else {
      HOLO_RETURN_IF_ERROR(ReadApplicationSegment(marker, body, probe, icc));
    }
  }
  if (!has_scan || probe.width == 0 || probe.height == 0)
    return Damaged(what, "expected a JPEG picture with pixels", at);
  probe.icc_profile = icc.Join();
  return probe;
}

Result<Probe> ProbeWebp(std::span<const std::uint8_t> bytes, std::string_view what) {
  Probe probe;
  bytes::ByteReader file(bytes.subspan(4), what);
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t riff_bytes, file.ReadU32());
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> riff, file.ReadSpan(riff_bytes));
  bytes::ByteReader reader(riff, what);
  HOLO_RETURN_IF_ERROR(reader.ReadU32());  // "WEBP", checked by DetectFormat
  while (reader.remaining() >= 8) {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> name, reader.ReadSpan(4));
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t length, reader.ReadU32());
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> body, reader.ReadSpan(length));
    if (length % 2 != 0 && reader.remaining() > 0) HOLO_RETURN_IF_ERROR(reader.ReadU8());
    bytes::ByteReader chunk(body, what);
    const bool first = probe.width == 0;
    if (StartsWith(name, "VP8X") && first) {
      HOLO_RETURN_IF_ERROR(chunk.ReadU32());
      std::array<std::uint32_t, 2> sizes{};
      for (std::uint32_t& size : sizes) {
        HOLO_ASSIGN_OR_RETURN(const std::uint16_t low, chunk.ReadU16());
        HOLO_ASSIGN_OR_RETURN(const std::uint8_t high, chunk.ReadU8());
        size = (std::uint32_t{high} << 16 | low) + 1;
      }
      probe.width = sizes[0];
      probe.height = sizes[1];
    } else if (StartsWith(name, "VP8L") && first) {
      HOLO_RETURN_IF_ERROR(chunk.ReadU8());
      HOLO_ASSIGN_OR_RETURN(const std::uint32_t bits, chunk.ReadU32());
      probe.width = (bits & 0x3FFF) + 1;
      probe.height = (bits >> 14 & 0x3FFF) + 1;
    } else if (StartsWith(name, "VP8 ") && first) {
      HOLO_RETURN_IF_ERROR(chunk.ReadSpan(6));
      HOLO_ASSIGN_OR_RETURN(const std::uint16_t width, chunk.ReadU16());
      HOLO_ASSIGN_OR_RETURN(const std::uint16_t height, chunk.ReadU16());
      probe.width = width & 0x3FFF;
      probe.height = height & 0x3FFF;
    } else if (StartsWith(name, "ICCP") && body.size() <= kMaxIccBytes) {
      probe.icc_profile.assign(body.begin(), body.end());
    } else if (StartsWith(name, "EXIF")) {
      probe.orientation = ExifOrientation(body);
    }
  }
  if (probe.width == 0 || probe.height == 0)
    return Damaged(what, "expected a WebP picture with pixels", reader.offset());
  return probe;
}

Result<Probe> ProbeBmp(std::span<const std::uint8_t> bytes, std::string_view what) {
  bytes::ByteReader reader(bytes, what);
  HOLO_RETURN_IF_ERROR(reader.ReadSpan(14));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t header_bytes, reader.ReadU32());
  Probe probe;
  if (header_bytes == 12) {
    HOLO_ASSIGN_OR_RETURN(probe.width, reader.ReadU16());
    HOLO_ASSIGN_OR_RETURN(probe.height, reader.ReadU16());
  } else {
    HOLO_ASSIGN_OR_RETURN(probe.width, reader.ReadU32());
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t height, reader.ReadU32());
    // A negative height means that rows run downwards.
    probe.height = height > 0x80000000u ? 0x100000000u - height : height;
  }
  if (probe.width == 0 || probe.height == 0) return Damaged(what, "expected a BMP picture with pixels", 18);
  return probe;
}

Result<Probe> ProbePnm(std::span<const std::uint8_t> bytes, std::string_view what) {
  bytes::ByteReader reader(bytes, what);
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> magic, reader.ReadSpan(2));
  const char kind = static_cast<char>(magic[1]);
  Probe probe;
  HOLO_ASSIGN_OR_RETURN(probe.width, ReadPnmNumber(reader, what));
  HOLO_ASSIGN_OR_RETURN(probe.height, ReadPnmNumber(reader, what));
  if (probe.width == 0 || probe.height == 0) {
    return Damaged(what, "expected a PNM picture with pixels", reader.offset());
  }
  std::uint64_t max_value = 1;
  if (kind != '1' && kind != '4') {
    HOLO_ASSIGN_OR_RETURN(max_value, ReadPnmNumber(reader, what));
    if (max_value == 0 || max_value > 65535) {
      return Damaged(what, "expected a largest value between 1 and 65535", reader.offset());
    }
  }
  probe.max_value = static_cast<std::uint32_t>(max_value);
  if (kind >= '4') {
    const std::uint64_t samples = probe.width * (kind == '6' ? 3 : 1);
    const std::uint64_t row_bytes = kind == '4' ? (probe.width + 7) / 8 : samples * (max_value > 255 ? 2 : 1);
    if (reader.remaining() / probe.height < row_bytes) {
      return Damaged(what, "expected all rows of the picture, found the end of the file", bytes.size());
    }
  }
  return probe;
}

Result<Probe> ProbeJpeg2000(std::span<const std::uint8_t> bytes, std::string_view what) {
  bytes::ByteReader reader(bytes, what);
  if (bytes[0] != 0) {
    return ReadSizMarker(reader, what);
  }
  while (true) {
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t length, ReadBe32(reader));
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> name, reader.ReadSpan(4));
    if (StartsWith(name, "jp2c")) {
      // The last box may leave its length open, or give it in 64 bits.
      if (length == 1) HOLO_RETURN_IF_ERROR(reader.ReadU64());
      if (length > 1 && length - 8 > reader.remaining()) {
        return Damaged(what, "expected all of the codestream, found the end of the file", bytes.size());
      }
      return ReadSizMarker(reader, what);
    }
    if (length < 8) return Damaged(what, "expected a box of 8 bytes or more", reader.offset() - 8);
    HOLO_RETURN_IF_ERROR(reader.ReadSpan(length - 8));
  }
}

}  // namespace holo::image_io
