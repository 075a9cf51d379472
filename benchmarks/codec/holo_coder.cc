#include "benchmarks/codec/holo_coder.h"

#include <cstdlib>

#include "common/render/render.h"

namespace holo::benchmarks {
namespace {

using pixels::Picture;

// How the encoder is set apart from quality and size.
struct Tuning {
  const char* name;
  codec::Tuning tuning;
};
constexpr Tuning kTunings[] = {{"holo", codec::Tuning::kEye},
                               {"holo psnr", codec::Tuning::kPsnr},
                               {"holo ssim", codec::Tuning::kMsSsim}};

class HoloCoder final : public Coder {
 public:
  explicit HoloCoder(const Tuning& tuning) : name_(tuning.name), tuning_(tuning.tuning) {}

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] const std::string& version() const override { return version_; }
  [[nodiscard]] const std::vector<std::string>& settings() const override { return settings_; }
  [[nodiscard]] bool is_progressive() const override { return true; }

  [[nodiscard]] Result<std::vector<std::uint8_t>> Encode(const Picture& picture,
                                                         const std::string& setting) const override {
    codec::EncodeOptions options;
    options.quality = std::strtof(setting.c_str(), nullptr);
    return EncodeWith(picture, options);
  }

  [[nodiscard]] Result<std::vector<std::uint8_t>> EncodeToSize(const Picture& picture, std::uint64_t target_bytes,
                                                               std::span<const std::uint64_t> /*cuts*/) const override {
    codec::EncodeOptions options;
    options.max_bytes = target_bytes;
    return EncodeWith(picture, options);
  }

  [[nodiscard]] Result<Picture> Decode(std::span<const std::uint8_t> file) const override {
    HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, DecoderWithAllChunks(file));
    return render::Render(decoder, render::View{});
  }

  [[nodiscard]] Result<Picture> DecodePrefix(std::span<const std::uint8_t> prefix, std::size_t /*cut*/) const override {
    return Decode(prefix);
  }

 private:
  [[nodiscard]] Result<std::vector<std::uint8_t>> EncodeWith(const Picture& picture,
                                                             codec::EncodeOptions& options) const {
    options.tuning = tuning_;
    options.basis_choice = codec::BasisChoice::kUniversal;
    HOLO_ASSIGN_OR_RETURN(codec::Encoded encoded, codec::Encode(picture, options));
    return std::move(encoded.file);
  }

  const std::string name_;
  const codec::Tuning tuning_;
  const std::string version_;
  const std::vector<std::string> settings_ = {"5", "10", "20", "30", "40", "50", "60", "70", "80", "88", "94"};
};

}  // namespace

std::vector<std::unique_ptr<Coder>> MakeHoloCoders() {
  std::vector<std::unique_ptr<Coder>> coders;
  for (const Tuning& tuning : kTunings) coders.push_back(std::make_unique<HoloCoder>(tuning));
  return coders;
}

Result<container::AssetReader> OpenBytes(std::span<const std::uint8_t> file) {
  return container::AssetReader::Open(
      std::make_shared<container::MemorySource>(std::vector<std::uint8_t>(file.begin(), file.end())));
}

Result<codec::Decoder> MakeDecoder(const container::AssetReader& reader, codec::Decoder::Options options) {
  return codec::Decoder::Create(
      reader.header(),
      [&reader](const basis::Hash& hash) -> std::shared_ptr<const basis::Basis> {
        if (auto built_in = basis::FindBuiltIn(hash)) return built_in;
        const std::vector<std::uint8_t>* embedded = reader.EmbeddedBasis(hash);
        if (embedded == nullptr) return nullptr;
        return basis::Basis::Parse(*embedded).value_or(nullptr);
      },
      options);
}

Result<void> AddAllChunks(const container::AssetReader& reader, codec::Decoder& decoder) {
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, reader.ReadChunk(chunk));
    HOLO_RETURN_IF_ERROR(bytes.size() == chunk.size_bytes ? decoder.AddChunk(chunk.id, bytes)
                                                          : decoder.AddPartialChunk(chunk.id, bytes));
  }
  return {};
}

Result<codec::Decoder> DecoderWithAllChunks(std::span<const std::uint8_t> file, codec::Decoder::Options options) {
  HOLO_ASSIGN_OR_RETURN(const container::AssetReader reader, OpenBytes(file));
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder, MakeDecoder(reader, options));
  HOLO_RETURN_IF_ERROR(AddAllChunks(reader, decoder));
  return decoder;
}

}  // namespace holo::benchmarks
