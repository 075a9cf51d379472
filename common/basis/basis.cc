#include "common/basis/basis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "common/basis/builtin.h"
#include "common/bytes/bytes.h"

namespace holo::basis {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {'H', 'B', 'A', 'S'};
constexpr std::uint8_t kVersion = 1;
constexpr std::array<std::uint32_t, 2> kPatchSizes = {8, 4};
constexpr double kQuantum = 1.0 / 32767.0;

// Makes the rows exactly orthonormal, and orthogonal to each channel's mean, by modified Gram-Schmidt in double. Fails
// if a row is not close to that already: within 1e-2, well above what rounding to 16 bits costs.
Result<void> Orthonormalise(std::vector<double>& rows, std::uint32_t count, std::uint32_t dimension,
                            std::uint32_t channels) {
  const std::size_t plane = dimension / channels;
  for (std::size_t k = 0; k < count; ++k) {
    double* row = rows.data() + k * dimension;
    double removed = 0;
    for (std::size_t c = 0; c < channels; ++c) {
      double mean = 0;
      for (std::size_t d = 0; d < plane; ++d) mean += row[c * plane + d];
      mean /= static_cast<double>(plane);
      removed = std::max(removed, std::abs(mean));
      for (std::size_t d = 0; d < plane; ++d) row[c * plane + d] -= mean;
    }
    for (std::size_t j = 0; j < k; ++j) {
      const double* other = rows.data() + j * dimension;
      double dot = 0;
      for (std::size_t d = 0; d < dimension; ++d) dot += row[d] * other[d];
      removed = std::max(removed, std::abs(dot));
      for (std::size_t d = 0; d < dimension; ++d) row[d] -= dot * other[d];
    }
    double norm = 0;
    for (std::size_t d = 0; d < dimension; ++d) norm += row[d] * row[d];
    norm = std::sqrt(norm);
    if (removed > 1e-2 || std::abs(norm - 1) > 1e-2) {
      return Fail(Code::kDataLoss, "basis: expected orthonormal rows without means, found row " + std::to_string(k) +
                                       " of length " + std::to_string(norm) + " with overlap " +
                                       std::to_string(removed));
    }
    for (std::size_t d = 0; d < dimension; ++d) row[d] /= norm;
  }
  return {};
}

Result<Rows> ParseRows(bytes::ByteReader& reader, std::uint32_t patch_px, std::uint32_t channels) {
  Rows rows;
  rows.patch_px = patch_px;
  rows.dimension = patch_px * patch_px * channels;
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t count, reader.ReadVarint(rows.dimension - channels));
  rows.count = static_cast<std::uint32_t>(count);
  rows.deviation.resize(rows.count);
  for (std::size_t k = 0; k < rows.count; ++k) {
    HOLO_ASSIGN_OR_RETURN(rows.deviation[k], reader.ReadFiniteF32());
    if (rows.deviation[k] <= 0 || (k > 0 && rows.deviation[k] > rows.deviation[k - 1])) {
      return Fail(Code::kDataLoss,
                  "basis: expected positive deviations that do not rise, found otherwise at row " + std::to_string(k));
    }
  }
  const std::size_t size = std::size_t{rows.count} * rows.dimension;
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> data, reader.ReadSpan(size * 2));
  std::vector<double> values(size);
  for (std::size_t i = 0; i < size; ++i) {
    values[i] = static_cast<std::int16_t>(data[2 * i] | data[2 * i + 1] << 8) * kQuantum;
  }
  HOLO_RETURN_IF_ERROR(Orthonormalise(values, rows.count, rows.dimension, channels));
  rows.values.assign(values.begin(), values.end());
  return rows;
}

// cos(pi * n / 16). The library's would be a thirtieth of the decoder's WebAssembly module.
double CosineOf(std::uint32_t sixteenths) {
  static constexpr std::array<double, 9> kQuarter = {1,
                                                     0.98078528040323044913,
                                                     0.92387953251128675613,
                                                     0.83146961230254523708,
                                                     0.70710678118654752440,
                                                     0.55557023301960222474,
                                                     0.38268343236508977173,
                                                     0.19509032201612826785,
                                                     0};
  const std::uint32_t turn = sixteenths % 32;
  const std::uint32_t half = std::min(turn, 32 - turn);
  return half <= 8 ? kQuarter[half] : -kQuarter[16 - half];
}

// Rows of the cosine transform of px x px samples, px being 4 or 8, but for the mean: by the sum of both frequencies,
// diagonal ones first. `deviation` is that of a half period across the patch; others fall with the sum, as they about do in screens.
Rows CosineRows(std::uint32_t px, float deviation) {
  const auto cosine = [px](std::uint32_t frequency, std::uint32_t at) {
    const double scale = std::sqrt((frequency == 0 ? 1.0 : 2.0) / px);
    return scale * CosineOf(frequency * (2 * at + 1) * (8 / px));
  };
  struct Frequencies {
    std::uint32_t down = 0;
    std::uint32_t across = 0;
    [[nodiscard]] auto Order() const { return std::tuple(down + across, std::max(down, across), down); }
  };
  std::vector<Frequencies> order;
  for (std::uint32_t f = 1; f < px * px; ++f) order.push_back({f / px, f % px});
  std::sort(order.begin(), order.end(),
            [](const Frequencies& a, const Frequencies& b) { return a.Order() < b.Order(); });
  Rows rows;
  rows.patch_px = px;
  rows.count = px * px - 1;
  rows.dimension = px * px;
  for (const Frequencies& f : order) {
    rows.deviation.push_back(deviation / static_cast<float>(f.down + f.across));
    for (std::uint32_t y = 0; y < px; ++y) {
      for (std::uint32_t x = 0; x < px; ++x) {
        rows.values.push_back(static_cast<float>(cosine(f.down, y) * cosine(f.across, x)));
      }
    }
  }
  return rows;
}

std::shared_ptr<const Basis> Cosines(std::string_view description, float deviation) {
  const Rows rows8 = CosineRows(8, deviation);
  const Rows rows4 = CosineRows(4, deviation);
  return Basis::Parse(Serialize(1, description, rows8, rows4).value()).value();
}

}  // namespace

Result<std::shared_ptr<const Basis>> Basis::Parse(std::span<const std::uint8_t> bytes) {
  if (bytes.size() > kMaxBasisBytes) {
    return Fail(Code::kResourceExhausted, "basis: expected at most " + std::to_string(kMaxBasisBytes) +
                                              " bytes, found " + std::to_string(bytes.size()));
  }
  bytes::ByteReader reader(bytes, "basis");
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> magic, reader.ReadSpan(kMagic.size()));
  if (!std::equal(magic.begin(), magic.end(), kMagic.begin())) {
    return Fail(Code::kDataLoss, "basis: expected the magic \"HBAS\", found " + bytes::ToHex(magic));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t version, reader.ReadU8());
  if (version != kVersion) {
    return Fail(Code::kUnimplemented,
                "basis: expected version " + std::to_string(kVersion) + ", found " + std::to_string(version));
  }
  std::shared_ptr<Basis> out(new Basis());
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t channels, reader.ReadU8());
  if (channels < 1 || channels > kMaxChannelsPerGroup) {
    return Fail(Code::kDataLoss, "basis: expected 1 to " + std::to_string(kMaxChannelsPerGroup) + " channels, found " +
                                     std::to_string(channels));
  }
  out->channels_ = channels;
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t length, reader.ReadU8());
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> description, reader.ReadSpan(length));
  out->description_.assign(description.begin(), description.end());
  HOLO_ASSIGN_OR_RETURN(out->rows8_, ParseRows(reader, kPatchSizes[0], channels));
  HOLO_ASSIGN_OR_RETURN(out->rows4_, ParseRows(reader, kPatchSizes[1], channels));
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  out->bytes_.assign(bytes.begin(), bytes.end());
  out->hash_ = HashOf(bytes);
  return std::shared_ptr<const Basis>(std::move(out));
}

Result<std::vector<std::uint8_t>> Serialize(std::uint32_t channels, std::string_view description, const Rows& rows8,
                                            const Rows& rows4) {
  if (description.size() > 255) {
    return Fail(Code::kInvalidArgument,
                "basis: expected a description of at most 255 bytes, found " + std::to_string(description.size()));
  }
  bytes::ByteWriter writer;
  writer.WriteSpan(kMagic);
  writer.WriteU8(kVersion);
  writer.WriteU8(static_cast<std::uint8_t>(channels));
  writer.WriteU8(static_cast<std::uint8_t>(description.size()));
  for (const char c : description) writer.WriteU8(static_cast<std::uint8_t>(c));
  for (const Rows* rows : {&rows8, &rows4}) {
    writer.WriteVarint(rows->count);
    for (const float deviation : rows->deviation) writer.WriteF32(deviation);
    for (const float value : rows->values) {
      const double rounded = std::round(static_cast<double>(value) / kQuantum);
      writer.WriteU16(static_cast<std::uint16_t>(static_cast<std::int16_t>(std::clamp(rounded, -32767.0, 32767.0))));
    }
  }
  return writer.Take();
}

Hash HashOf(std::span<const std::uint8_t> bytes) {
  const std::array<std::uint8_t, 32> digest = bytes::Sha256(bytes);
  Hash hash{};
  std::copy_n(digest.begin(), hash.size(), hash.begin());
  return hash;
}

const std::shared_ptr<const Basis>& BuiltInLuma() {
  static const std::shared_ptr<const Basis> basis = Basis::Parse(LumaBytes()).value();
  return basis;
}

const std::shared_ptr<const Basis>& BuiltInChroma() {
  static const std::shared_ptr<const Basis> basis = Basis::Parse(ChromaBytes()).value();
  return basis;
}

const std::shared_ptr<const Basis>& BuiltInDrawingLuma() {
  static const std::shared_ptr<const Basis> basis = Cosines("drawings, luminance", 40.0f);
  return basis;
}

const std::shared_ptr<const Basis>& BuiltInDrawingChroma() {
  static const std::shared_ptr<const Basis> basis = Cosines("drawings, colour differences", 13.0f);
  return basis;
}

std::span<const std::shared_ptr<const Basis>> BuiltIns() {
  static const std::array all = {BuiltInLuma(), BuiltInChroma(), BuiltInDrawingLuma(), BuiltInDrawingChroma()};
  return all;
}

std::shared_ptr<const Basis> FindBuiltIn(const Hash& hash) {
  for (const auto& basis : BuiltIns()) {
    if (basis->hash() == hash) return basis;
  }
  return nullptr;
}

}  // namespace holo::basis
