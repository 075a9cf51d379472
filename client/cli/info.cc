// holo info: what is in a .holo file.
#include <cmath>

#include "client/asset_file/asset_file.h"
#include "client/cli/cli.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/plain/plain.h"
#include "common/render/render.h"
#include "common/spectrum/spectrum.h"

namespace holo::cli {
namespace {

// Pictures up to this size are rendered for the numbers that need pixels without being asked.
constexpr std::uint64_t kQuickPixels = 4'000'000;

struct Options {
  std::string file;
  std::string basis;
  bool full = false;
};

std::string LayoutText(const pixels::Layout& layout) {
  std::string text = std::to_string(layout.width) + "x" + std::to_string(layout.height) + ", ";
  switch (layout.color_model) {
    case pixels::ColorModel::kGray:
      text += "grey";
      break;
    case pixels::ColorModel::kRgb:
      text += "RGB";
      break;
    case pixels::ColorModel::kGeneric:
      text += std::to_string(layout.channels - (layout.has_alpha ? 1 : 0)) + " channels";
      break;
  }
  if (layout.has_alpha) text += " and alpha";
  return text + (layout.sample_type == pixels::SampleType::kU8 ? ", 8 bit" : ", 16 bit");
}

std::uint64_t RawBytes(const pixels::Layout& layout) {
  return std::uint64_t{layout.width} * layout.height * layout.channels * pixels::SampleBytes(layout.sample_type);
}

nlohmann::json LayoutJson(const pixels::Layout& layout) {
  const char* const models[] = {"generic", "grey", "rgb"};
  return {{"width", layout.width},
          {"height", layout.height},
          {"channels", layout.channels},
          {"bits", 8 * pixels::SampleBytes(layout.sample_type)},
          {"color_model", models[static_cast<std::size_t>(layout.color_model)]},
          {"alpha", layout.has_alpha}};
}

std::string Ratio(std::uint64_t of, std::uint64_t to) {
  return Fixed(static_cast<double>(of) / static_cast<double>(to), 1) + ":1";
}

// What only the pixels tell.
Result<void> DescribePixels(const pixels::Picture& picture, std::uint64_t file_bytes, ProgressBar& bar,
                            std::string& text, nlohmann::json& json) {
  const auto spectrum =
      spectrum::OfPicture(picture, /*with_vectors=*/false, [&](double done) { return bar.Update(done / 2); });
  if (!spectrum && spectrum.error().code == Code::kCancelled) return tl::unexpected(spectrum.error());
  if (spectrum) {
    text += "effective rank  Df " + Fixed(spectrum->EffectiveRank(), 2) + " (participation ratio), Shannon " +
            Fixed(spectrum->ShannonRank(), 2) + ", of " + std::to_string(spectrum->eigenvalues.size()) +
            " dimensions of 8x8 patches\n";
    json["df"] = spectrum->EffectiveRank();
    json["shannon_rank"] = spectrum->ShannonRank();
  }
  if (const auto png = image_io::EncodePng(picture)) {
    text += "against PNG     " + Ratio(png->size(), file_bytes) + " (" + Grouped(png->size()) +
            " bytes for the same rendered pixels)\n";
    json["png_bytes"] = png->size();
  }
  return {};
}

Result<void> DescribePlain(const Options& options, const Globals& globals, std::span<const std::uint8_t> bytes) {
  auto asset = plain::Parse(bytes);
  if (!asset) return tl::unexpected(WithContext(std::move(asset).error(), options.file));
  nlohmann::json json = {{"file", options.file},
                         {"profile", "plain"},
                         {"bytes", bytes.size()},
                         {"payload_bytes", asset->payload_bytes()},
                         {"k", asset->k},
                         {"layout", LayoutJson(asset->layout)},
                         {"raw_bytes", RawBytes(asset->layout)}};
  std::string text = options.file + "\npicture         " + LayoutText(asset->layout) + "\nprofile         plain, k " +
                     std::to_string(asset->k) + " of " + std::to_string(asset->dimension()) + "\nfile            " +
                     Grouped(bytes.size()) + " bytes, " + Grouped(asset->payload_bytes()) + " of them numbers\n" +
                     "against raw     " + Ratio(RawBytes(asset->layout), bytes.size()) + "\n";
  if (options.full || std::uint64_t{asset->layout.width} * asset->layout.height <= kQuickPixels) {
    ProgressBar bar("info", globals);
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, plain::Render(*asset, {}, 0));
    HOLO_RETURN_IF_ERROR(DescribePixels(picture, bytes.size(), bar, text, json));
  }
  Print(globals, text, json);
  return {};
}

void DescribeStructure(const container::AssetReader& reader, const codec::BasisResolver& resolve, std::string& text,
                       nlohmann::json& json) {
  const container::AssetHeader& header = reader.header();
  json["levels"] = nlohmann::json::array();
  for (std::size_t i = 0; i < header.levels.size(); ++i) {
    const container::Level& level = header.levels[i];
    text += (i == 0 ? "levels          " : "                ") + std::to_string(i) + ": " +
            std::to_string(level.width) + "x" + std::to_string(level.height) + ", " +
            std::to_string(level.tile_count()) + (level.tile_count() == 1 ? " tile" : " tiles") + " (" +
            std::to_string(level.tiles_x) + "x" + std::to_string(level.tiles_y) + "), patches of " +
            std::to_string(level.patch_px) + "\n";
    json["levels"].push_back({{"width", level.width},
                              {"height", level.height},
                              {"patch_px", level.patch_px},
                              {"tiles_x", level.tiles_x},
                              {"tiles_y", level.tiles_y}});
  }
  std::vector<std::uint64_t> layer_bytes(header.layer_count);
  std::uint64_t chunk_bytes = 0;
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    layer_bytes[chunk.id.layer] += chunk.size_bytes;
    chunk_bytes += chunk.size_bytes;
  }
  text += "layers          " + std::to_string(header.layer_count) + " in " + std::to_string(reader.chunks().size()) +
          " chunks; bytes up to each:";
  std::uint64_t so_far = 0;
  for (const std::uint64_t bytes : layer_bytes) text += " " + Grouped(so_far += bytes);
  text += "\n";
  json["layer_bytes"] = layer_bytes;
  json["chunks"] = reader.chunks().size();
  json["chunk_bytes"] = chunk_bytes;
  json["bases"] = nlohmann::json::array();
  for (std::size_t i = 0; i < header.bases.size(); ++i) {
    const std::string hash = bytes::ToHex(header.bases[i]);
    const bool embedded = reader.EmbeddedBasis(header.bases[i]) != nullptr;
    const auto basis = resolve(header.bases[i]);
    const std::string where = basis::FindBuiltIn(header.bases[i]) != nullptr ? "built in"
                              : embedded                                     ? "in the file"
                              : basis != nullptr                             ? "found"
                                                                             : "not found";
    const std::string what = basis == nullptr ? std::string() : basis->description();
    text += (i == 0 ? "bases           " : "                ") + hash + ", " + where +
            (what.empty() ? "" : ": " + what) + "\n";
    json["bases"].push_back({{"hash", hash}, {"where", where}, {"description", what}});
  }
}

Result<void> Describe(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const auto source, files::FileSource::Open(options.file));
  std::vector<std::uint8_t> magic(std::min<std::uint64_t>(4, source->size()));
  HOLO_RETURN_IF_ERROR(source->ReadAt(0, magic));
  if (plain::IsPlain(magic)) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(options.file));
    return DescribePlain(options, globals, bytes);
  }
  asset_file::OpenOptions open;
  if (!options.basis.empty()) open.basis = options.basis;
  HOLO_ASSIGN_OR_RETURN(const asset_file::AssetFile asset, asset_file::Open(options.file, open));
  const container::AssetHeader& header = asset.reader.header();
  const pixels::Layout& layout = header.layout;
  const double max = pixels::MaxSample(layout.sample_type);
  const double psnr = header.final_mse > 0 ? 10 * std::log10(max * max / double{header.final_mse})
                                           : std::numeric_limits<double>::infinity();
  const std::uint64_t bytes = asset.reader.file_bytes();
  nlohmann::json json = {{"file", options.file},
                         {"profile", "default"},
                         {"bytes", bytes},
                         {"expected_bytes", asset.reader.expected_file_bytes()},
                         {"content_hash", bytes::ToHex(asset.reader.content_hash())},
                         {"layout", LayoutJson(layout)},
                         {"k", header.max_k},
                         {"icc_bytes", header.metadata.icc_profile.size()},
                         {"source_orientation", header.metadata.source_orientation},
                         {"raw_bytes", RawBytes(layout)},
                         {"estimated_psnr_db", Finite(psnr)},
                         {"smoothing", header.smoothing / 64.0}};
  std::string text =
      options.file + "\npicture         " + LayoutText(layout) +
      (header.metadata.icc_profile.empty()
           ? ""
           : ", ICC profile of " + Grouped(header.metadata.icc_profile.size()) + " bytes") +
      "\nfile            " + Grouped(bytes) + " bytes" +
      (asset.reader.is_truncated() ? ", truncated: the whole has " + Grouped(asset.reader.expected_file_bytes()) : "") +
      "\nagainst raw     " + Ratio(RawBytes(layout), bytes) + " (" + Grouped(RawBytes(layout)) +
      " bytes of samples)\nerror           about " + Fixed(psnr, 2) + " dB (the encoder's estimate" +
      (asset.reader.is_truncated() ? " of the whole file" : "") + ")\n" + "k               " +
      (header.max_k == 0 ? std::string("all") : std::to_string(header.max_k)) +
      " basis dimensions per patch of level 0\nsmoothing       " +
      (header.smoothing == 0 ? std::string("none")
                             : "at full size, of detail below " + Fixed(header.smoothing / 64.0, 2) + " steps") +
      "\n";
  DescribeStructure(asset.reader, asset.resolve, text, json);
  if (options.full || std::uint64_t{layout.width} * layout.height <= kQuickPixels) {
    ProgressBar bar("info", globals);
    const auto decoder = asset_file::Decode(asset, {}, 0, [&](double) { return bar.Update(0); });
    // Without its basis a file can be described, but not rendered.
    if (!decoder && (decoder.error().code == Code::kCancelled || options.full)) return tl::unexpected(decoder.error());
    if (decoder) {
      HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, render::Render(*decoder, {}));
      HOLO_RETURN_IF_ERROR(DescribePixels(picture, bytes, bar, text, json));
    }
  } else {
    text += "effective rank  --full renders the picture for it, and for the comparison with PNG\n";
  }
  Print(globals, text, json);
  return {};
}

}  // namespace

void AddInfo(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("info", "Say what is in a .holo file");
  auto options = std::make_shared<Options>();
  command->add_option("file", options->file, "The .holo file")->required();
  command->add_option("--basis", options->basis, "The basis, where it is neither in the file, beside it nor cached");
  command->add_flag("--full,--compare-png", options->full,
                    "Render pictures above 4 megapixels, too, for the effective rank and the comparison with PNG");
  command->footer(
      "Examples:\n"
      "  holo info photo.holo\n"
      "  holo info photo.holo --json | jq .estimated_psnr_db");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Describe(*options, globals); }; });
}

}  // namespace holo::cli
