#include "common/image_io/image_io.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <string>

#include "common/image_io/formats.h"
#include "common/image_io/png.h"
#include "common/image_io/tiff.h"

namespace holo::image_io {
namespace {

using pixels::ColorModel;
using pixels::Layout;
using pixels::Picture;
using pixels::SampleType;

// OpenCV's own limits, fixed when its library is loaded.
constexpr std::uint64_t kMaxSide = 1u << 20;
constexpr std::uint64_t kMaxDecodedPixels = std::uint64_t{1} << 30;

constexpr std::string_view kReadable = "PNG, JPEG, TIFF, WebP, BMP, PNM or JPEG 2000";
constexpr std::string_view kWritable = ".png, .jpg, .jpeg, .tif, .tiff, .webp, .bmp, .ppm, .pgm or .jp2";

std::string Extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

bool IsOneOf(std::string_view value, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string SizeText(std::uint64_t width, std::uint64_t height) {
  return std::to_string(width) + "x" + std::to_string(height);
}

Result<void> CheckSize(const Probe& probe, std::string_view name, const LoadOptions& options) {
  const std::uint64_t limit = std::min(options.max_pixels, kMaxDecodedPixels);
  if (probe.height != 0 && probe.width <= limit / probe.height && probe.width <= kMaxSide && probe.height <= kMaxSide) {
    return {};
  }
  return Fail(Code::kResourceExhausted, std::string(name) + ": expected at most " + std::to_string(limit) +
                                            " pixels and sides of at most " + std::to_string(kMaxSide) + ", found " +
                                            SizeText(probe.width, probe.height));
}

// The border to OpenCV: its exceptions end here, and it prints nothing.
Result<cv::Mat> DecodePixels(std::span<const std::uint8_t> bytes, std::string_view name) {
  static const bool silenced = [] {
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    return true;
  }();
  static_cast<void>(silenced);
  if (bytes.size() > INT32_MAX) {
    return Fail(Code::kResourceExhausted, std::string(name) + ": expected a file of at most " +
                                              std::to_string(INT32_MAX) + " bytes, found " +
                                              std::to_string(bytes.size()));
  }
  try {
    // OpenCV takes no const buffer, but only reads it.
    const cv::Mat buffer(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<std::uint8_t*>(bytes.data()));
    cv::Mat decoded = cv::imdecode(buffer, cv::IMREAD_UNCHANGED);
    if (!decoded.empty()) return decoded;
  } catch (const std::exception& exception) {
    return Fail(Code::kDataLoss, std::string(name) + ": damaged picture: " + exception.what());
  }
  return Fail(Code::kDataLoss, std::string(name) + ": damaged or truncated picture");
}

// How decoded channels (B, G, R, A) become ours.
struct Mapping {
  bool gray = false;   // keep one of three equal colours
  bool alpha = false;  // the source's fourth channel is alpha
  // One transparent colour in decoded samples, R, G, B; empty if there is none.
  std::vector<std::uint16_t> transparent_color;
};

template <typename Sample>
void MapRow(const Sample* from, std::uint32_t from_channels, const Mapping& mapping, Sample* to, std::uint32_t width) {
  constexpr auto kOpaque = static_cast<Sample>(-1);
  const std::uint32_t colors = mapping.gray ? 1 : 3;
  const bool keyed = !mapping.transparent_color.empty();
  for (std::uint32_t x = 0; x < width; ++x, from += from_channels) {
    bool matches = keyed;
    for (std::uint32_t c = 0; c < colors; ++c) {
      const Sample value = from_channels >= 3 ? from[2 - c] : from[0];
      *to++ = value;
      if (keyed) matches = matches && value == mapping.transparent_color[c];
    }
    if (mapping.alpha) *to++ = from[3];
    if (keyed) *to++ = matches ? Sample{0} : kOpaque;
  }
}

Result<Picture> FromMat(const cv::Mat& decoded, const Mapping& mapping, std::string_view name) {
  const int depth = decoded.depth();
  if ((depth != CV_8U && depth != CV_16U) ||
      (decoded.channels() != 1 && decoded.channels() != 3 && decoded.channels() != 4)) {
    return Fail(Code::kUnimplemented, std::string(name) +
                                          ": expected 8- or 16-bit samples in 1, 3 or 4 channels, found " +
                                          cv::typeToString(decoded.type()));
  }
  Layout layout;
  layout.width = static_cast<std::uint32_t>(decoded.cols);
  layout.height = static_cast<std::uint32_t>(decoded.rows);
  layout.sample_type = depth == CV_8U ? SampleType::kU8 : SampleType::kU16;
  layout.color_model = mapping.gray ? ColorModel::kGray : ColorModel::kRgb;
  layout.has_alpha = mapping.alpha || !mapping.transparent_color.empty();
  layout.channels = (mapping.gray ? 1u : 3u) + (layout.has_alpha ? 1u : 0u);
  HOLO_ASSIGN_OR_RETURN(Picture picture, Picture::Create(layout));
  const auto channels = static_cast<std::uint32_t>(decoded.channels());
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    if (depth == CV_8U) {
      MapRow(decoded.ptr<std::uint8_t>(static_cast<int>(y)), channels, mapping, picture.RowU8(y).data(), layout.width);
    } else {
      MapRow(decoded.ptr<std::uint16_t>(static_cast<int>(y)), channels, mapping, picture.RowU16(y).data(),
             layout.width);
    }
  }
  return picture;
}

Result<Picture> DecodePng(std::span<const std::uint8_t> bytes, std::string_view name, const LoadOptions& options) {
  HOLO_ASSIGN_OR_RETURN(PngFile png, ReadPng(bytes, name));
  HOLO_RETURN_IF_ERROR(CheckSize(png.probe, name, options));
  HOLO_ASSIGN_OR_RETURN(const cv::Mat decoded, DecodePixels(png.essential, name));
  Mapping mapping;
  mapping.gray = png.is_gray;
  mapping.alpha = decoded.channels() == 4;
  for (const std::uint16_t value : png.transparent_color) {
    // Samples of fewer than 8 bits have been stretched to 0..255.
    const auto scale = static_cast<std::uint16_t>(png.bit_depth < 8 ? 255 / ((1 << png.bit_depth) - 1) : 1);
    mapping.transparent_color.push_back(static_cast<std::uint16_t>(value * scale));
  }
  HOLO_ASSIGN_OR_RETURN(Picture picture, FromMat(decoded, mapping, name));
  picture.metadata() = {std::move(png.probe.icc_profile), png.probe.orientation};
  return picture;
}

// PNM samples of an unusual range, stretched to 8 or 16 bits.
void Stretch(Picture& picture, std::uint32_t max_value) {
  const bool is_8_bit = picture.layout().sample_type == SampleType::kU8;
  const std::uint32_t target = is_8_bit ? 255 : 65535;
  if (max_value == target || max_value <= 1) return;
  const auto stretch = [&](auto row) {
    for (auto& value : row) {
      const std::uint32_t stretched = (std::min<std::uint32_t>(value, max_value) * target + max_value / 2) / max_value;
      value = static_cast<std::decay_t<decltype(value)>>(stretched);
    }
  };
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    if (is_8_bit) {
      stretch(picture.RowU8(y));
    } else {
      stretch(picture.RowU16(y));
    }
  }
}

Result<Probe> ProbeOther(Format format, std::span<const std::uint8_t> bytes, std::string_view name) {
  switch (format) {
    case Format::kJpeg:
      return ProbeJpeg(bytes, name);
    case Format::kWebp:
      return ProbeWebp(bytes, name);
    case Format::kBmp:
      return ProbeBmp(bytes, name);
    case Format::kPnm:
      return ProbePnm(bytes, name);
    default:
      return ProbeJpeg2000(bytes, name);
  }
}

bool IsTransparentEverywhere(const cv::Mat& decoded) {
  for (int y = 0; y < decoded.rows; ++y) {
    const std::uint8_t* row = decoded.ptr<std::uint8_t>(y);
    for (int x = 0; x < decoded.cols; ++x) {
      if (row[4 * x + 3] != 0) return false;
    }
  }
  return true;
}

Result<Picture> DecodeOther(Format format, std::span<const std::uint8_t> bytes, std::string_view name,
                            const LoadOptions& options) {
  HOLO_ASSIGN_OR_RETURN(Probe probe, ProbeOther(format, bytes, name));
  HOLO_RETURN_IF_ERROR(CheckSize(probe, name, options));
  HOLO_ASSIGN_OR_RETURN(const cv::Mat decoded, DecodePixels(bytes, name));
  Mapping mapping;
  mapping.gray = decoded.channels() == 1;
  mapping.alpha = decoded.channels() == 4;
  // The fourth byte of a BMP's pixels is padding more often than alpha.
  if (format == Format::kBmp && mapping.alpha && IsTransparentEverywhere(decoded)) mapping.alpha = false;
  HOLO_ASSIGN_OR_RETURN(Picture picture, FromMat(decoded, mapping, name));
  if (format == Format::kPnm) Stretch(picture, probe.max_value);
  picture.metadata() = {std::move(probe.icc_profile), probe.orientation};
  return picture;
}

// EXIF orientations 2..8 as what has to be done: first exchange rows and columns, then mirror.
struct Turn {
  bool transpose = false;
  bool mirror_x = false;
  bool mirror_y = false;
};

Turn TurnFor(std::uint8_t orientation) {
  switch (orientation) {
    case 2:
      return {false, true, false};
    case 3:
      return {false, true, true};
    case 4:
      return {false, false, true};
    case 5:
      return {true, false, false};
    case 6:
      return {true, true, false};
    case 7:
      return {true, true, true};
    case 8:
      return {true, false, true};
    default:
      return {};
  }
}

Result<Picture> TurnUpright(Picture picture) {
  const Turn turn = TurnFor(picture.metadata().source_orientation);
  if (!turn.transpose && !turn.mirror_x && !turn.mirror_y) return picture;
  Layout layout = picture.layout();
  if (turn.transpose) std::swap(layout.width, layout.height);
  HOLO_ASSIGN_OR_RETURN(Picture upright, Picture::Create(layout));
  const std::size_t pixel_bytes = layout.channels * pixels::SampleBytes(layout.sample_type);
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    std::uint8_t* to = upright.bytes().data() + y * upright.row_bytes();
    const std::uint32_t v = turn.mirror_y ? layout.height - 1 - y : y;
    for (std::uint32_t x = 0; x < layout.width; ++x, to += pixel_bytes) {
      const std::uint32_t u = turn.mirror_x ? layout.width - 1 - x : x;
      const std::size_t source_x = turn.transpose ? v : u;
      const std::size_t source_y = turn.transpose ? u : v;
      std::memcpy(to, picture.bytes().data() + source_y * picture.row_bytes() + source_x * pixel_bytes, pixel_bytes);
    }
  }
  upright.metadata() = std::move(picture.metadata());
  return upright;
}

// The picture as OpenCV wants it (B, G, R, A); at most 8 bits and without alpha where asked.
Result<cv::Mat> ToMat(const Picture& picture, bool only_8_bit, bool without_alpha) {
  const Layout& layout = picture.layout();
  const std::uint32_t colors = layout.channels - (layout.has_alpha ? 1 : 0);
  if (colors != 1 && colors != 3) {
    return Fail(Code::kInvalidArgument, "save: expected 1 or 3 colour channels, found " + std::to_string(colors) +
                                            "; a .tif file holds any number of channels");
  }
  if (layout.width > INT32_MAX / 8 || layout.height > INT32_MAX / 8) {
    return Fail(Code::kResourceExhausted,
                "save: expected a smaller picture, found " + SizeText(layout.width, layout.height));
  }
  const bool keep_alpha = layout.has_alpha && !without_alpha;
  // OpenCV knows no grey with alpha.
  const std::uint32_t channels = keep_alpha ? 4 : colors;
  const bool to_8_bit = only_8_bit || layout.sample_type == SampleType::kU8;
  cv::Mat out(static_cast<int>(layout.height), static_cast<int>(layout.width),
              CV_MAKETYPE(to_8_bit ? CV_8U : CV_16U, static_cast<int>(channels)));
  const std::uint32_t max = layout.sample_type == SampleType::kU8 ? 255 : 65535;
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    auto* row8 = out.ptr<std::uint8_t>(static_cast<int>(y));
    auto* row16 = out.ptr<std::uint16_t>(static_cast<int>(y));
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < channels; ++c) {
        const std::uint32_t source = c == 3 ? layout.channels - 1 : (colors == 3 ? 2 - c : 0);
        std::uint32_t value = picture.At(x, y, source);
        if (layout.has_alpha && without_alpha) {
          const std::uint64_t alpha = picture.At(x, y, layout.channels - 1);
          value = static_cast<std::uint32_t>((value * alpha + max * (max - alpha) + max / 2) / max);
        }
        const std::size_t index = std::size_t{x} * channels + c;
        if (!to_8_bit) {
          row16[index] = static_cast<std::uint16_t>(value);
        } else {
          row8[index] = static_cast<std::uint8_t>(max == 255 ? value : (value * 255 + 32767) / 65535);
        }
      }
    }
  }
  return out;
}

Result<std::vector<std::uint8_t>> EncodeWithOpenCv(const Picture& picture, const std::string& extension, int quality) {
  const bool is_jpeg = IsOneOf(extension, {".jpg", ".jpeg"});
  const bool is_pnm = IsOneOf(extension, {".ppm", ".pgm"});
  const bool only_8_bit = is_jpeg || IsOneOf(extension, {".bmp", ".webp"});
  HOLO_ASSIGN_OR_RETURN(const cv::Mat mat, ToMat(picture, only_8_bit, is_jpeg || is_pnm || extension == ".bmp"));
  quality = std::clamp(quality, 1, 100);
  std::vector<int> parameters;
  if (is_jpeg) parameters = {cv::IMWRITE_JPEG_QUALITY, quality, cv::IMWRITE_JPEG_OPTIMIZE, 1};
  if (extension == ".webp") parameters = {cv::IMWRITE_WEBP_QUALITY, 101};  // above 100: without loss
  if (extension == ".jp2") parameters = {cv::IMWRITE_JPEG2000_COMPRESSION_X1000, quality * 10};
  std::vector<std::uint8_t> bytes;
  try {
    // A grey picture is a PGM whatever the name says.
    const std::string kind = is_pnm ? (mat.channels() == 1 ? ".pgm" : ".ppm") : extension;
    if (cv::imencode(kind, mat, bytes, parameters)) return bytes;
  } catch (const std::exception& exception) {
    return Fail(Code::kInvalidArgument, "save as " + extension + ": " + exception.what());
  }
  return Fail(Code::kInvalidArgument, "save as " + extension + ": the picture of " +
                                          SizeText(picture.width(), picture.height()) + " does not fit this format");
}

// Puts the profile behind the first segment, where JFIF wants it.
std::vector<std::uint8_t> WithJpegProfile(std::vector<std::uint8_t> jpeg, std::span<const std::uint8_t> icc) {
  constexpr std::string_view kName("ICC_PROFILE\0", 12);
  constexpr std::size_t kMaxPart = 65533 - 2 - kName.size();
  const std::size_t parts = (icc.size() + kMaxPart - 1) / kMaxPart;
  if (icc.empty() || parts > 255 || jpeg.size() < 6) return jpeg;
  std::vector<std::uint8_t> segments;
  for (std::size_t i = 0; i < parts; ++i) {
    const std::span<const std::uint8_t> part = icc.subspan(i * kMaxPart, std::min(kMaxPart, icc.size() - i * kMaxPart));
    const std::size_t length = 2 + kName.size() + 2 + part.size();
    segments.insert(segments.end(),
                    {0xFF, 0xE2, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)});
    segments.insert(segments.end(), kName.begin(), kName.end());
    segments.push_back(static_cast<std::uint8_t>(i + 1));
    segments.push_back(static_cast<std::uint8_t>(parts));
    segments.insert(segments.end(), part.begin(), part.end());
  }
  const std::size_t first_segment_bytes = 2 + (std::size_t{jpeg[4]} << 8 | jpeg[5]);
  const std::size_t at = jpeg[3] == 0xE0 ? std::min(2 + first_segment_bytes, jpeg.size()) : 2;
  jpeg.insert(jpeg.begin() + static_cast<std::ptrdiff_t>(at), segments.begin(), segments.end());
  return jpeg;
}

}  // namespace

Result<Picture> Decode(std::span<const std::uint8_t> bytes, std::string_view name, const LoadOptions& options) {
  const auto decode = [&]() -> Result<Picture> {
    switch (const Format format = DetectFormat(bytes)) {
      case Format::kUnknown:
        return Fail(Code::kInvalidArgument, std::string(name) + ": expected a picture (" + std::string(kReadable) +
                                                "), found something else" +
                                                (bytes.empty() ? ": the file is empty" : ""));
      case Format::kPng:
        return DecodePng(bytes, name, options);
      case Format::kTiff:
        return ReadTiff(bytes, name, options);
      default:
        return DecodeOther(format, bytes, name, options);
    }
  };
  HOLO_ASSIGN_OR_RETURN(Picture picture, decode());
  return TurnUpright(std::move(picture));
}

Result<Picture> Load(const std::filesystem::path& path, const LoadOptions& options) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path));
  return Decode(bytes, path.string(), options);
}

bool IsPictureName(const std::filesystem::path& path) {
  return IsOneOf(Extension(path), {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".pbm",
                                   ".pnm", ".jp2", ".j2k"});
}

Result<void> CheckSaveName(const std::filesystem::path& path) {
  if (IsOneOf(Extension(path), {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".jp2"})) {
    return {};
  }
  return Fail(Code::kInvalidArgument,
              path.string() + ": expected a name that ends in " + std::string(kWritable) + ", found " +
                  (path.has_extension() ? path.extension().string() : std::string("no extension")));
}

Result<void> Save(const std::filesystem::path& path, const Picture& picture, const SaveOptions& options) {
  HOLO_RETURN_IF_ERROR(CheckSaveName(path));
  HOLO_RETURN_IF_ERROR(pixels::Validate(picture.layout()));
  const std::string extension = Extension(path);
  const auto encode = [&]() -> Result<std::vector<std::uint8_t>> {
    if (extension == ".png") return EncodePng(picture);
    if (IsOneOf(extension, {".tif", ".tiff"})) return WriteTiff(picture);
    return EncodeWithOpenCv(picture, extension, options.quality);
  };
  auto encoded = encode();
  if (!encoded) return tl::unexpected(WithContext(std::move(encoded).error(), path.string()));
  std::vector<std::uint8_t> bytes = std::move(*encoded);
  if (IsOneOf(extension, {".jpg", ".jpeg"})) bytes = WithJpegProfile(std::move(bytes), picture.metadata().icc_profile);
  return files::AtomicWrite(path, bytes, options.if_exists);
}

}  // namespace holo::image_io
