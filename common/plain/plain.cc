#include "common/plain/plain.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "common/bytes/bytes.h"
#include "common/spectrum/spectrum.h"

namespace holo::plain {
namespace {

constexpr std::string_view kMagic = "HPLN";

float RoundToHalf(double value) {
  return static_cast<float>(Eigen::half(static_cast<float>(value)));
}

std::uint64_t PatchCount(const Asset& asset) {
  return std::uint64_t{asset.patches_x()} * asset.patches_y();
}

void WriteHalves(bytes::ByteWriter& writer, const std::vector<float>& values) {
  for (const float value : values) writer.WriteU16(Eigen::half(value).x);
}

Result<std::vector<float>> ReadHalves(bytes::ByteReader& reader, std::uint64_t count) {
  std::vector<float> values(count);
  for (float& value : values) {
    HOLO_ASSIGN_OR_RETURN(const std::uint16_t bits, reader.ReadU16());
    value = Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(bits));
    if (!std::isfinite(value)) {
      return Fail(Code::kDataLoss, "plain file: expected a finite number at offset " +
                                       std::to_string(reader.offset() - 2) + ", found NaN or infinity");
    }
  }
  return values;
}

Result<void> Expect(std::string_view what, std::uint64_t found, std::uint64_t low, std::uint64_t high) {
  if (found >= low && found <= high) return {};
  return Fail(Code::kDataLoss, "plain file: expected " + std::string(what) + " between " + std::to_string(low) +
                                   " and " + std::to_string(high) + ", found " + std::to_string(found));
}

}  // namespace

std::uint64_t Asset::payload_bytes() const {
  return 2 * (std::uint64_t{dimension()} * (1 + k) + std::uint64_t{patches_x()} * patches_y() * k);
}

Result<Asset> Encode(const pixels::Picture& picture, const Options& options) {
  // The covariance is the first half of the work, the projection the second.
  const auto half = [&](double from) -> spectrum::Progress {
    if (!options.progress) return nullptr;
    return [&options, from](double done) { return options.progress(from + done / 2); };
  };
  HOLO_ASSIGN_OR_RETURN(const spectrum::Spectrum spectrum, spectrum::OfPicture(picture, true, half(0)));
  Asset asset;
  asset.layout = picture.layout();
  const std::uint32_t dimension = asset.dimension();
  asset.k =
      std::clamp<std::uint32_t>(options.variance ? spectrum.SmallestK(*options.variance) : options.k, 1, dimension);
  const double scale = 1.0 / pixels::MaxSample(asset.layout.sample_type);
  for (const double value : spectrum.mean) asset.mean.push_back(RoundToHalf(value * scale));
  for (std::size_t i = 0; i < std::size_t{asset.k} * dimension; ++i) {
    asset.basis.push_back(RoundToHalf(spectrum.vectors[i]));
  }

  asset.coefficients.resize(PatchCount(asset) * asset.k);
  std::vector<float> patch(dimension);
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> basis(
      asset.basis.data(), asset.k, dimension);
  const Eigen::Map<const Eigen::VectorXf> mean(asset.mean.data(), dimension);
  Eigen::VectorXf centred(dimension);
  Eigen::VectorXf projected(asset.k);
  std::size_t at = 0;
  const spectrum::Progress progress = half(0.5);
  for (std::uint32_t y = 0; y < asset.patches_y(); ++y) {
    if (progress && !progress(static_cast<double>(y) / asset.patches_y())) return Fail(Code::kCancelled, "cancelled");
    for (std::uint32_t x = 0; x < asset.patches_x(); ++x) {
      spectrum::ReadPatch(picture, x, y, patch);
      centred = Eigen::Map<const Eigen::VectorXf>(patch.data(), dimension) * static_cast<float>(scale) - mean;
      projected.noalias() = basis * centred;
      for (std::uint32_t i = 0; i < asset.k; ++i) asset.coefficients[at++] = RoundToHalf(projected[i]);
    }
  }
  return asset;
}

std::vector<std::uint8_t> Serialize(const Asset& asset) {
  bytes::ByteWriter writer;
  writer.WriteSpan({reinterpret_cast<const std::uint8_t*>(kMagic.data()), kMagic.size()});
  writer.WriteU8(kFormatVersion);
  writer.WriteU8(kPatchPx);
  writer.WriteU8(static_cast<std::uint8_t>(asset.layout.sample_type));
  writer.WriteU8(static_cast<std::uint8_t>(asset.layout.color_model));
  writer.WriteU8(asset.layout.has_alpha ? 1 : 0);
  writer.WriteU8(static_cast<std::uint8_t>(asset.layout.channels));
  writer.WriteU16(static_cast<std::uint16_t>(asset.k));
  writer.WriteU32(asset.layout.width);
  writer.WriteU32(asset.layout.height);
  WriteHalves(writer, asset.mean);
  WriteHalves(writer, asset.basis);
  WriteHalves(writer, asset.coefficients);
  writer.WriteU32(bytes::Crc32(writer.bytes()));
  return writer.Take();
}

bool IsPlain(std::span<const std::uint8_t> bytes) {
  return bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<Asset> Parse(std::span<const std::uint8_t> bytes) {
  if (!IsPlain(bytes)) return Fail(Code::kDataLoss, "plain file: expected the magic HPLN at offset 0");
  bytes::ByteReader reader(bytes, "plain file");
  HOLO_RETURN_IF_ERROR(reader.ReadSpan(kMagic.size()));
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t version, reader.ReadU8());
  if (version != kFormatVersion) {
    return Fail(Code::kUnimplemented, "plain file: expected version " + std::to_string(kFormatVersion) + ", found " +
                                          std::to_string(version));
  }
  Asset asset;
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t patch_px, reader.ReadU8());
  HOLO_RETURN_IF_ERROR(Expect("a patch size", patch_px, kPatchPx, kPatchPx));
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t sample_type, reader.ReadU8());
  HOLO_RETURN_IF_ERROR(Expect("a sample type", sample_type, 0, 1));
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t color_model, reader.ReadU8());
  HOLO_RETURN_IF_ERROR(Expect("a colour model", color_model, 0, 2));
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t has_alpha, reader.ReadU8());
  HOLO_RETURN_IF_ERROR(Expect("an alpha flag", has_alpha, 0, 1));
  HOLO_ASSIGN_OR_RETURN(asset.layout.channels, reader.ReadU8());
  HOLO_ASSIGN_OR_RETURN(asset.k, reader.ReadU16());
  HOLO_ASSIGN_OR_RETURN(asset.layout.width, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(asset.layout.height, reader.ReadU32());
  asset.layout.sample_type = static_cast<pixels::SampleType>(sample_type);
  asset.layout.color_model = static_cast<pixels::ColorModel>(color_model);
  asset.layout.has_alpha = has_alpha != 0;
  if (auto valid = pixels::Validate(asset.layout); !valid) return Fail(Code::kDataLoss, valid.error().message);
  HOLO_RETURN_IF_ERROR(Expect("k", asset.k, 1, asset.dimension()));
  // At most 2^31 pixels and k <= 2048: far below 2^64.
  const std::uint64_t expected = asset.payload_bytes() + 4;
  HOLO_RETURN_IF_ERROR(Expect("bytes behind the header", reader.remaining(), expected, expected));
  const std::uint32_t crc = bytes::Crc32(bytes.first(bytes.size() - 4));

  HOLO_ASSIGN_OR_RETURN(asset.mean, ReadHalves(reader, asset.dimension()));
  HOLO_ASSIGN_OR_RETURN(asset.basis, ReadHalves(reader, std::uint64_t{asset.k} * asset.dimension()));
  HOLO_ASSIGN_OR_RETURN(asset.coefficients, ReadHalves(reader, PatchCount(asset) * asset.k));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t stored_crc, reader.ReadU32());
  if (stored_crc != crc) return Fail(Code::kDataLoss, "plain file: the checksum does not fit the content");
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  return asset;
}

Result<pixels::Picture> Render(const Asset& asset, const pixels::Rect& wanted, std::uint32_t k) {
  const pixels::Rect all{0, 0, asset.layout.width, asset.layout.height};
  const pixels::Rect region = wanted.empty() ? all : wanted;
  if (pixels::Intersect(region, all) != region) {
    return Fail(Code::kOutOfRange, "render: expected a region inside " + std::to_string(all.width) + "x" +
                                       std::to_string(all.height) + ", found " + std::to_string(region.width) + "x" +
                                       std::to_string(region.height) + " at " + std::to_string(region.x) + "," +
                                       std::to_string(region.y));
  }
  k = k == 0 ? asset.k : std::min(k, asset.k);
  pixels::Layout layout = asset.layout;
  layout.width = region.width;
  layout.height = region.height;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture out, pixels::Picture::Create(layout));
  const std::uint32_t dimension = asset.dimension();
  const float max = pixels::MaxSample(layout.sample_type);
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> basis(
      asset.basis.data(), k, dimension);
  const Eigen::Map<const Eigen::RowVectorXf> mean(asset.mean.data(), dimension);
  Eigen::RowVectorXf patch(dimension);
  for (std::uint32_t py = region.y / kPatchPx; py <= (region.y + region.height - 1) / kPatchPx; ++py) {
    for (std::uint32_t px = region.x / kPatchPx; px <= (region.x + region.width - 1) / kPatchPx; ++px) {
      const std::size_t index = std::size_t{py} * asset.patches_x() + px;
      const Eigen::Map<const Eigen::RowVectorXf> coefficients(asset.coefficients.data() + index * asset.k, k);
      patch.noalias() = coefficients * basis;
      patch += mean;
      const pixels::Rect visible = pixels::Intersect({px * kPatchPx, py * kPatchPx, kPatchPx, kPatchPx}, region);
      for (std::uint32_t y = visible.y; y < visible.y + visible.height; ++y) {
        for (std::uint32_t x = visible.x; x < visible.x + visible.width; ++x) {
          for (std::uint32_t c = 0; c < layout.channels; ++c) {
            const float value = patch[(c * kPatchPx + y % kPatchPx) * kPatchPx + x % kPatchPx] * max;
            out.Set(x - region.x, y - region.y, c,
                    static_cast<std::uint16_t>(std::lround(std::clamp(value, 0.0f, max))));
          }
        }
      }
    }
  }
  return out;
}

}  // namespace holo::plain
