#include "common/image_io/tiff.h"

#include <tiffio.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "common/image_io/formats.h"

namespace holo::image_io {
namespace {

// No single allocation inside libtiff may be larger: a strip or tile is one, and its size is a claim of the file.
constexpr tmsize_t kMaxLibraryAllocation = tmsize_t{1} << 30;

// What libtiff reads from or writes to, and the first thing it complained about.
struct Stream {
  std::span<const std::uint8_t> input;
  std::vector<std::uint8_t> output;
  bool writing = false;
  std::uint64_t position = 0;
  std::string complaint;

  [[nodiscard]] std::uint64_t size() const { return writing ? output.size() : input.size(); }
};

Stream& StreamOf(thandle_t handle) {
  return *static_cast<Stream*>(handle);
}

tmsize_t ReadCallback(thandle_t handle, void* out, tmsize_t count) {
  Stream& stream = StreamOf(handle);
  if (stream.position >= stream.size() || count <= 0) return 0;
  const std::size_t available =
      std::min<std::uint64_t>(static_cast<std::uint64_t>(count), stream.size() - stream.position);
  const std::uint8_t* data = stream.writing ? stream.output.data() : stream.input.data();
  std::memcpy(out, data + stream.position, available);
  stream.position += available;
  return static_cast<tmsize_t>(available);
}

tmsize_t WriteCallback(thandle_t handle, void* data, tmsize_t count) {
  Stream& stream = StreamOf(handle);
  if (!stream.writing || count < 0) return -1;
  const std::uint64_t end = stream.position + static_cast<std::uint64_t>(count);
  if (stream.output.size() < end) stream.output.resize(end);
  std::memcpy(stream.output.data() + stream.position, data, static_cast<std::size_t>(count));
  stream.position = end;
  return count;
}

toff_t SeekCallback(thandle_t handle, toff_t offset, int whence) {
  Stream& stream = StreamOf(handle);
  if (whence == SEEK_SET) stream.position = offset;
  if (whence == SEEK_CUR) stream.position += offset;
  if (whence == SEEK_END) stream.position = stream.size() + offset;
  return stream.position;
}

int CloseCallback(thandle_t) {
  return 0;
}

toff_t SizeCallback(thandle_t handle) {
  return StreamOf(handle).size();
}

int ErrorCallback(TIFF*, void* user_data, const char* module, const char* format, va_list arguments) {
  Stream& stream = StreamOf(user_data);
  if (stream.complaint.empty()) {
    char text[256];
    std::vsnprintf(text, sizeof(text), format, arguments);
    stream.complaint = (module != nullptr ? std::string(module) + ": " : std::string()) + text;
  }
  return 1;  // do not print
}

int WarningCallback(TIFF*, void*, const char*, const char*, va_list) {
  return 1;
}

using Handle = std::unique_ptr<TIFF, decltype(&TIFFClose)>;

Handle OpenTiff(Stream& stream, const char* mode) {
  const std::unique_ptr<TIFFOpenOptions, decltype(&TIFFOpenOptionsFree)> options(TIFFOpenOptionsAlloc(),
                                                                                 &TIFFOpenOptionsFree);
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), kMaxLibraryAllocation);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), &ErrorCallback, &stream);
  TIFFOpenOptionsSetWarningHandlerExtR(options.get(), &WarningCallback, &stream);
  return {TIFFClientOpenExt("TIFF", mode, &stream, &ReadCallback, &WriteCallback, &SeekCallback, &CloseCallback,
                            &SizeCallback, nullptr, nullptr, options.get()),
          &TIFFClose};
}

// One page's shape, as far as it matters here.
struct Page {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint16_t channels = 1;
  std::uint16_t bits = 1;
  std::uint16_t sample_format = SAMPLEFORMAT_UINT;
  std::uint16_t photometric = PHOTOMETRIC_MINISBLACK;
  std::uint16_t planar = PLANARCONFIG_CONTIG;
  bool has_straight_alpha = false;
  bool has_premultiplied_alpha = false;

  // Samples can be taken as they are.
  [[nodiscard]] bool is_direct() const {
    return sample_format == SAMPLEFORMAT_UINT && (bits == 8 || bits == 16) &&
           (photometric == PHOTOMETRIC_MINISBLACK || photometric == PHOTOMETRIC_RGB);
  }
  [[nodiscard]] bool can_be_channel_of(const Page& other) const {
    return is_direct() && channels == 1 && width == other.width && height == other.height && bits == other.bits &&
           photometric == PHOTOMETRIC_MINISBLACK;
  }
};

Page ReadPage(TIFF* tiff) {
  Page page;
  TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &page.width);
  TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &page.height);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &page.channels);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &page.bits);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &page.sample_format);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &page.planar);
  if (TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &page.photometric) == 0 && page.channels == 3) {
    page.photometric = PHOTOMETRIC_RGB;
  }
  std::uint16_t extra_count = 0;
  std::uint16_t* extras = nullptr;
  TIFFGetFieldDefaulted(tiff, TIFFTAG_EXTRASAMPLES, &extra_count, &extras);
  const std::uint32_t colors = page.photometric == PHOTOMETRIC_RGB ? 3 : 1;
  if (extra_count == 1 && extras != nullptr && page.channels == colors + 1) {
    page.has_straight_alpha = extras[0] == EXTRASAMPLE_UNASSALPHA;
    page.has_premultiplied_alpha = extras[0] == EXTRASAMPLE_ASSOCALPHA;
  }
  return page;
}

pixels::Layout LayoutOf(const Page& page) {
  pixels::Layout layout;
  layout.width = page.width;
  layout.height = page.height;
  layout.channels = page.channels;
  layout.sample_type = page.bits == 8 ? pixels::SampleType::kU8 : pixels::SampleType::kU16;
  layout.has_alpha = page.has_straight_alpha || page.has_premultiplied_alpha;
  const std::uint32_t colors = page.channels - (layout.has_alpha ? 1u : 0u);
  if (page.photometric == PHOTOMETRIC_RGB && colors == 3) layout.color_model = pixels::ColorModel::kRgb;
  if (page.photometric == PHOTOMETRIC_MINISBLACK && colors == 1) layout.color_model = pixels::ColorModel::kGray;
  return layout;
}

class Reader {
 public:
  Reader(TIFF* tiff, Stream& stream, std::string_view name) : tiff_(tiff), stream_(stream), name_(name) {}

  // Copies the page's samples into channels [first_channel, first_channel + page.channels) of `out`.
  [[nodiscard]] Result<void> ReadSamples(const Page& page, std::uint32_t first_channel, pixels::Picture& out) {
    const std::size_t sample_bytes = page.bits / 8u;
    const bool separate = page.planar == PLANARCONFIG_SEPARATE;
    const std::uint32_t planes = separate ? page.channels : 1;
    const std::uint32_t samples = separate ? 1 : page.channels;
    for (std::uint32_t plane = 0; plane < planes; ++plane) {
      const Target target{first_channel + plane, samples, sample_bytes};
      HOLO_RETURN_IF_ERROR(TIFFIsTiled(tiff_) != 0 ? ReadTiles(page, plane, target, out)
                                                   : ReadStrips(page, plane, target, out));
    }
    return {};
  }

  [[nodiscard]] tl::unexpected<Error> Damaged() const {
    return Fail(Code::kDataLoss,
                std::string(name_) + ": " + (stream_.complaint.empty() ? "damaged TIFF" : stream_.complaint));
  }

 private:
  struct Target {
    std::uint32_t channel;   // of the output, the first
    std::uint32_t channels;  // interleaved in the source
    std::size_t sample_bytes;
  };

  static void CopyRow(const std::uint8_t* from, std::uint32_t x, std::uint32_t y, std::uint32_t count,
                      const Target& target, pixels::Picture& out) {
    const std::size_t source_bytes = target.channels * target.sample_bytes;
    const std::size_t pixel_bytes = out.channels() * target.sample_bytes;
    std::uint8_t* to =
        out.bytes().data() + y * out.row_bytes() + x * pixel_bytes + target.channel * target.sample_bytes;
    if (source_bytes == pixel_bytes) {
      std::memcpy(to, from, count * pixel_bytes);
      return;
    }
    for (std::uint32_t i = 0; i < count; ++i) std::memcpy(to + i * pixel_bytes, from + i * source_bytes, source_bytes);
  }

  Result<void> ReadStrips(const Page& page, std::uint32_t plane, const Target& target, pixels::Picture& out) {
    const std::size_t row_bytes = std::size_t{page.width} * target.channels * target.sample_bytes;
    std::uint32_t strip_rows = 0;
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_ROWSPERSTRIP, &strip_rows);
    strip_rows = std::clamp<std::uint32_t>(strip_rows, 1, page.height);
    std::vector<std::uint8_t> buffer(row_bytes * strip_rows);
    for (std::uint32_t y = 0; y < page.height; y += strip_rows) {
      const std::uint32_t rows = std::min(strip_rows, page.height - y);
      const std::uint32_t strip = TIFFComputeStrip(tiff_, y, static_cast<std::uint16_t>(plane));
      const auto wanted = static_cast<tmsize_t>(rows * row_bytes);
      if (TIFFReadEncodedStrip(tiff_, strip, buffer.data(), wanted) != wanted) return Damaged();
      for (std::uint32_t row = 0; row < rows; ++row) {
        CopyRow(buffer.data() + row * row_bytes, 0, y + row, page.width, target, out);
      }
    }
    return {};
  }

  Result<void> ReadTiles(const Page& page, std::uint32_t plane, const Target& target, pixels::Picture& out) {
    std::uint32_t tile_width = 0;
    std::uint32_t tile_height = 0;
    TIFFGetField(tiff_, TIFFTAG_TILEWIDTH, &tile_width);
    TIFFGetField(tiff_, TIFFTAG_TILELENGTH, &tile_height);
    const tmsize_t tile_bytes = TIFFTileSize(tiff_);
    const std::size_t row_bytes = std::size_t{tile_width} * target.channels * target.sample_bytes;
    if (tile_width == 0 || tile_height == 0 || tile_bytes <= 0 || tile_bytes > kMaxLibraryAllocation ||
        static_cast<std::size_t>(tile_bytes) < row_bytes * tile_height) {
      return Damaged();
    }
    std::vector<std::uint8_t> buffer(static_cast<std::size_t>(tile_bytes));
    for (std::uint32_t y = 0; y < page.height; y += std::min(tile_height, page.height - y)) {
      for (std::uint32_t x = 0; x < page.width; x += std::min(tile_width, page.width - x)) {
        const std::uint32_t tile = TIFFComputeTile(tiff_, x, y, 0, static_cast<std::uint16_t>(plane));
        if (TIFFReadEncodedTile(tiff_, tile, buffer.data(), tile_bytes) != tile_bytes) return Damaged();
        const std::uint32_t columns = std::min(tile_width, page.width - x);
        for (std::uint32_t row = 0; row < std::min(tile_height, page.height - y); ++row) {
          CopyRow(buffer.data() + row * row_bytes, x, y + row, columns, target, out);
        }
      }
    }
    return {};
  }

  TIFF* tiff_;
  Stream& stream_;
  std::string_view name_;
};

template <typename Sample>
void Unpremultiply(std::span<Sample> row, std::uint32_t channels, std::uint32_t max) {
  for (std::size_t i = 0; i + channels <= row.size(); i += channels) {
    const std::uint32_t alpha = row[i + channels - 1];
    if (alpha == 0) continue;
    for (std::uint32_t c = 0; c + 1 < channels; ++c) {
      row[i + c] = static_cast<Sample>(std::min(max, (row[i + c] * max + alpha / 2) / alpha));
    }
  }
}

void MakeAlphaStraight(pixels::Picture& picture) {
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    if (picture.layout().sample_type == pixels::SampleType::kU8) {
      Unpremultiply(picture.RowU8(y), picture.channels(), 255);
    } else {
      Unpremultiply(picture.RowU16(y), picture.channels(), 65535);
    }
  }
}

// Palettes, CMYK, YCbCr, Lab, 1 to 4 bits: libtiff's own conversion to 8-bit RGBA.
Result<pixels::Picture> ReadConverted(TIFF* tiff, const Page& page, const Reader& reader) {
  const std::uint64_t count = std::uint64_t{page.width} * page.height;
  std::vector<std::uint32_t> rgba(count);
  // Orientation stays as in the file, so that it is applied in one place only.
  std::uint16_t orientation = ORIENTATION_TOPLEFT;
  TIFFGetFieldDefaulted(tiff, TIFFTAG_ORIENTATION, &orientation);
  TIFFSetField(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
  const int converted =
      TIFFReadRGBAImageOriented(tiff, page.width, page.height, rgba.data(), ORIENTATION_TOPLEFT, /*stop_on_error=*/1);
  TIFFSetField(tiff, TIFFTAG_ORIENTATION, orientation);
  if (converted == 0) return reader.Damaged();
  const bool gray = page.photometric == PHOTOMETRIC_MINISBLACK || page.photometric == PHOTOMETRIC_MINISWHITE;
  const bool alpha = page.has_straight_alpha || page.has_premultiplied_alpha;
  pixels::Layout layout;
  layout.width = page.width;
  layout.height = page.height;
  layout.color_model = gray ? pixels::ColorModel::kGray : pixels::ColorModel::kRgb;
  layout.has_alpha = alpha;
  layout.channels = (gray ? 1u : 3u) + (alpha ? 1u : 0u);
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::Create(layout));
  std::size_t at = 0;
  for (const std::uint32_t pixel : rgba) {
    picture.bytes()[at++] = static_cast<std::uint8_t>(TIFFGetR(pixel));
    if (!gray) {
      picture.bytes()[at++] = static_cast<std::uint8_t>(TIFFGetG(pixel));
      picture.bytes()[at++] = static_cast<std::uint8_t>(TIFFGetB(pixel));
    }
    if (alpha) picture.bytes()[at++] = static_cast<std::uint8_t>(TIFFGetA(pixel));
  }
  if (alpha) MakeAlphaStraight(picture);  // TIFFReadRGBA premultiplies
  return picture;
}

// Pages from `first` on that continue it as channels of one picture; 1 if it stands alone.
std::uint32_t CountChannelPages(TIFF* tiff, const Page& first) {
  std::uint32_t pages = 1;
  if (first.can_be_channel_of(first)) {
    while (pages < pixels::kMaxChannels && TIFFReadDirectory(tiff) != 0 && ReadPage(tiff).can_be_channel_of(first))
      ++pages;
    // More pages than channels can be, or of another kind: the first page is the picture.
    if (TIFFLastDirectory(tiff) == 0 || !ReadPage(tiff).can_be_channel_of(first)) pages = 1;
    TIFFSetDirectory(tiff, 0);
  }
  return pages;
}

}  // namespace

Result<pixels::Picture> ReadTiff(std::span<const std::uint8_t> bytes, std::string_view name,
                                 const LoadOptions& options) {
  Stream stream;
  stream.input = bytes;
  const Handle tiff = OpenTiff(stream, "rm");
  Reader reader(tiff.get(), stream, name);
  if (tiff == nullptr) return reader.Damaged();
  const Page page = ReadPage(tiff.get());
  if (page.width == 0 || page.height == 0) return reader.Damaged();
  if (std::uint64_t{page.width} * page.height > std::min(options.max_pixels, pixels::kMaxPixels)) {
    return Fail(Code::kResourceExhausted, std::string(name) + ": expected at most " +
                                              std::to_string(options.max_pixels) + " pixels, found " +
                                              std::to_string(page.width) + "x" + std::to_string(page.height));
  }
  if (page.sample_format != SAMPLEFORMAT_UINT || page.bits > 16) {
    return Fail(Code::kUnimplemented,
                std::string(name) + ": expected unsigned samples of at most 16 bits, found " +
                    std::to_string(page.bits) + " bits of " +
                    (page.sample_format == SAMPLEFORMAT_IEEEFP ? "floating point" : "sign or type") +
                    " (TIFF sample format " + std::to_string(page.sample_format) + ")");
  }
  // Rows that cannot be in the file: refused before their memory is taken. Deflate reaches 1000:1, blank fax pages more.
  const std::uint64_t claimed = std::uint64_t{page.width} * page.height * page.channels * page.bits / 8;
  if (claimed / 65536 > bytes.size()) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected about " + std::to_string(claimed) +
                                     " bytes of samples, found a file of " + std::to_string(bytes.size()) + " bytes");
  }

  pixels::Metadata metadata;
  std::uint16_t orientation = ORIENTATION_TOPLEFT;
  TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_ORIENTATION, &orientation);
  if (orientation >= 1 && orientation <= 8) metadata.source_orientation = static_cast<std::uint8_t>(orientation);
  std::uint32_t icc_bytes = 0;
  const std::uint8_t* icc = nullptr;
  if (TIFFGetField(tiff.get(), TIFFTAG_ICCPROFILE, &icc_bytes, &icc) != 0 && icc != nullptr &&
      icc_bytes <= kMaxIccBytes) {
    metadata.icc_profile.assign(icc, icc + icc_bytes);
  }

  if (!page.is_direct()) {
    HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, ReadConverted(tiff.get(), page, reader));
    picture.metadata() = std::move(metadata);
    return picture;
  }
  pixels::Layout layout = LayoutOf(page);
  const std::uint32_t pages = CountChannelPages(tiff.get(), page);
  if (pages > 1) {
    layout.channels = pages;
    layout.color_model = pixels::ColorModel::kGeneric;
  }
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::Create(layout));
  for (std::uint32_t i = 0; i < pages; ++i) {
    if (i > 0 && TIFFSetDirectory(tiff.get(), static_cast<tdir_t>(i)) == 0) return reader.Damaged();
    HOLO_RETURN_IF_ERROR(reader.ReadSamples(ReadPage(tiff.get()), i, picture));
  }
  if (page.has_premultiplied_alpha) MakeAlphaStraight(picture);
  picture.metadata() = std::move(metadata);
  return picture;
}

Result<std::vector<std::uint8_t>> WriteTiff(const pixels::Picture& picture) {
  const pixels::Layout& layout = picture.layout();
  Stream stream;
  stream.writing = true;
  // BigTIFF where the offsets of the old form might not do.
  const bool big = picture.bytes().size() > (std::size_t{3} << 30);
  Handle tiff = OpenTiff(stream, big ? "w8" : "w");
  const auto failed = [&] {
    return Fail(Code::kInternal, "TIFF: " + (stream.complaint.empty() ? "could not be written" : stream.complaint));
  };
  if (tiff == nullptr) return failed();
  const bool rgb = layout.color_model == pixels::ColorModel::kRgb;
  const std::uint32_t extras = layout.channels - (rgb ? 3 : 1);
  const auto rows_per_strip =
      static_cast<std::uint32_t>(std::clamp<std::size_t>((1u << 20) / picture.row_bytes(), 1, layout.height));
  TIFFSetField(tiff.get(), TIFFTAG_IMAGEWIDTH, layout.width);
  TIFFSetField(tiff.get(), TIFFTAG_IMAGELENGTH, layout.height);
  TIFFSetField(tiff.get(), TIFFTAG_SAMPLESPERPIXEL, layout.channels);
  TIFFSetField(tiff.get(), TIFFTAG_BITSPERSAMPLE, static_cast<int>(8 * pixels::SampleBytes(layout.sample_type)));
  TIFFSetField(tiff.get(), TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
  TIFFSetField(tiff.get(), TIFFTAG_PHOTOMETRIC, rgb ? PHOTOMETRIC_RGB : PHOTOMETRIC_MINISBLACK);
  TIFFSetField(tiff.get(), TIFFTAG_COMPRESSION, COMPRESSION_ADOBE_DEFLATE);
  TIFFSetField(tiff.get(), TIFFTAG_PREDICTOR, PREDICTOR_HORIZONTAL);
  TIFFSetField(tiff.get(), TIFFTAG_ROWSPERSTRIP, rows_per_strip);
  if (extras > 0) {
    std::vector<std::uint16_t> kinds(extras, EXTRASAMPLE_UNSPECIFIED);
    if (layout.has_alpha) kinds.back() = EXTRASAMPLE_UNASSALPHA;
    TIFFSetField(tiff.get(), TIFFTAG_EXTRASAMPLES, static_cast<std::uint16_t>(extras), kinds.data());
  }
  if (const auto& icc = picture.metadata().icc_profile; !icc.empty()) {
    TIFFSetField(tiff.get(), TIFFTAG_ICCPROFILE, static_cast<std::uint32_t>(icc.size()), icc.data());
  }
  std::vector<std::uint8_t> row(picture.row_bytes());  // libtiff scribbles over what it is given
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    std::memcpy(row.data(), picture.bytes().data() + y * picture.row_bytes(), row.size());
    if (TIFFWriteScanline(tiff.get(), row.data(), y, 0) < 0) return failed();
  }
  if (TIFFWriteDirectory(tiff.get()) == 0) return failed();
  tiff.reset();
  return std::move(stream.output);
}

}  // namespace holo::image_io
