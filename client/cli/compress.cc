// holo compress: pictures to .holo files.
#include <thread>

#include "client/asset_file/asset_file.h"
#include "client/cli/cli.h"
#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/plain/plain.h"

namespace holo::cli {
namespace {

struct Options {
  std::vector<std::string> pictures;
  std::string output;
  float quality = 75;
  std::string max_bytes;
  std::string tune = "eye";
  std::uint32_t k = 0;
  double variance = 0;
  std::string basis = "auto";
  bool embed_basis = false;
  std::string profile = "default";
  unsigned threads = 0;
  double max_megapixels = 400;
  bool force = false;
};

Result<codec::EncodeOptions> ToEncodeOptions(const Options& options) {
  codec::EncodeOptions encode;
  encode.quality = options.quality;
  if (!options.max_bytes.empty()) {
    HOLO_ASSIGN_OR_RETURN(encode.max_bytes, ParseBytes(options.max_bytes));
  }
  if (options.tune == "psnr") encode.tuning = codec::Tuning::kPsnr;
  if (options.tune == "ssim") encode.tuning = codec::Tuning::kMsSsim;
  encode.k = options.k;
  if (options.variance > 0) encode.variance = options.variance;
  encode.threads = options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  encode.embed_basis = options.embed_basis;
  if (options.basis == "universal") {
    encode.basis_choice = codec::BasisChoice::kUniversal;
  } else if (options.basis == "own") {
    encode.basis_choice = codec::BasisChoice::kOwn;
  } else if (options.basis != "auto") {
    encode.basis_choice = codec::BasisChoice::kGiven;
    HOLO_ASSIGN_OR_RETURN(encode.basis, asset_file::LoadBasis(options.basis));
  }
  return encode;
}

std::string Summary(const std::filesystem::path& output, std::uint64_t bytes, std::uint64_t raw_bytes,
                    const std::string& rest) {
  return output.string() + ": " + Grouped(bytes) + " bytes, " +
         Fixed(static_cast<double>(raw_bytes) / static_cast<double>(bytes), 1) + ":1 against raw samples, " + rest +
         "\n";
}

Result<void> CompressPlain(const Options& options, const Globals& globals, const pixels::Picture& picture,
                           const std::filesystem::path& output, nlohmann::json& json) {
  ProgressBar bar("compress " + output.filename().string(), globals);
  plain::Options plain_options;
  if (options.k > 0) plain_options.k = options.k;
  if (options.variance > 0) plain_options.variance = options.variance;
  plain_options.progress = [&](double done) { return bar.Update(done); };
  HOLO_ASSIGN_OR_RETURN(const plain::Asset asset, plain::Encode(picture, plain_options));
  const std::vector<std::uint8_t> file = plain::Serialize(asset);
  HOLO_RETURN_IF_ERROR(
      files::AtomicWrite(output, file, options.force ? files::IfExists::kReplace : files::IfExists::kFail));
  json = {{"output", output.string()},
          {"profile", "plain"},
          {"bytes", file.size()},
          {"payload_bytes", asset.payload_bytes()},
          {"k", asset.k},
          {"raw_bytes", picture.bytes().size()}};
  if (!globals.json) {
    Print(globals, Summary(output, file.size(), picture.bytes().size(), "plain, k " + std::to_string(asset.k)), json);
  }
  return {};
}

Result<void> CompressOne(const Options& options, const Globals& globals, const std::filesystem::path& input,
                         nlohmann::json& json) {
  std::filesystem::path output = options.output;
  if (output.empty()) output = input.filename().replace_extension(".holo");
  if (options.output.empty() && input.has_parent_path()) output = input.parent_path() / output;
  HOLO_RETURN_IF_ERROR(CheckOutput(output, options.force));
  image_io::LoadOptions load;
  load.max_pixels = static_cast<std::uint64_t>(options.max_megapixels * 1e6);
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(input, load));
  if (Interrupted()) return Fail(Code::kCancelled, "compress: cancelled");
  if (options.profile == "plain") return CompressPlain(options, globals, picture, output, json);

  HOLO_ASSIGN_OR_RETURN(codec::EncodeOptions encode, ToEncodeOptions(options));
  codec::EncodeStatistics statistics;
  {
    ProgressBar bar("compress " + input.filename().string(), globals);
    encode.progress = [&](double done) { return bar.Update(done); };
    HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(picture, encode));
    HOLO_RETURN_IF_ERROR(
        files::AtomicWrite(output, encoded.file, options.force ? files::IfExists::kReplace : files::IfExists::kFail));
    statistics = encoded.statistics;
    statistics.file_bytes = encoded.file.size();
  }
  json = {{"output", output.string()},
          {"profile", "default"},
          {"bytes", statistics.file_bytes},
          {"basis_bytes", statistics.basis_bytes},
          {"k", statistics.k},
          {"estimated_psnr_db", Finite(statistics.estimated_psnr_db)},
          {"layer_bytes", statistics.layer_bytes},
          {"raw_bytes", picture.bytes().size()}};
  if (!globals.json) {
    Print(globals,
          Summary(output, statistics.file_bytes, picture.bytes().size(),
                  "k " + std::to_string(statistics.k) + ", about " + Fixed(statistics.estimated_psnr_db, 1) + " dB"),
          json);
  }
  return {};
}

Result<void> Compress(const Options& options, const Globals& globals) {
  if (!options.output.empty() && options.pictures.size() > 1) {
    return Fail(Code::kInvalidArgument,
                "compress: -o goes with one picture, found " + std::to_string(options.pictures.size()));
  }
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& picture : options.pictures) {
    nlohmann::json one;
    HOLO_RETURN_IF_ERROR(CompressOne(options, globals, picture, one));
    all.push_back(std::move(one));
  }
  if (globals.json) Print(globals, "", options.pictures.size() == 1 ? all[0] : all);
  return {};
}

}  // namespace

void AddCompress(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("compress", "Turn pictures into .holo files");
  auto options = std::make_shared<Options>();
  command->add_option("pictures", options->pictures, "PNG, JPEG, TIFF, WebP, BMP, PNM or JPEG 2000")->required();
  command->add_option("-o,--output", options->output, "The file to write (default: the picture's name with .holo)");
  auto* quality = command
                      ->add_option("--quality", options->quality,
                                   "0 (small) to 100 (no sample off by more than 1/255), roughly a JPEG's scale")
                      ->check(IsNumber(0.0, 100.0))
                      ->capture_default_str();
  command->add_option("--max-bytes", options->max_bytes, "The best picture in at most so many bytes (20000, 20k, 1.5M)")
      ->check(IsBytes())
      ->excludes(quality);
  command->add_option("--tune", options->tune, "What bytes are spent for: eye (what looks best), psnr, or ssim (MS-SSIM)")
      ->check(CLI::IsMember({"eye", "psnr", "ssim"}))
      ->capture_default_str();
  auto* k = command->add_option("-k,--k", options->k, "Basis dimensions kept per 8x8 patch (default: all; plain: 30)");
  command->add_option("--variance", options->variance, "Instead of -k: as many dimensions as hold this share, 0..1")
      ->check(IsNumber(0.0, 1.0))
      ->excludes(k);
  command->add_option("--basis", options->basis, "auto, universal, own, or a file made by holo basis train")
      ->capture_default_str();
  command->add_flag("--embed-basis", options->embed_basis, "Store the given basis in the file, too");
  command->add_option("--profile", options->profile, "default, or plain: the naive float16 format, for comparison")
      ->check(CLI::IsMember({"default", "plain"}))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads to work with (default: one per processor)");
  command->add_option("--max-megapixels", options->max_megapixels, "Refuse larger pictures")
      ->check(IsNumber(0.0, 2147.0))
      ->capture_default_str();
  command->add_flag("-f,--force", options->force, "Replace an existing file");
  command->footer(
      "Examples:\n"
      "  holo compress photo.jpg                      photo.holo beside it\n"
      "  holo compress photo.jpg -k 30 --quality 85\n"
      "  holo compress photo.jpg --max-bytes 100k -o small.holo\n"
      "  holo compress scan.tif --basis scans.basis\n"
      "  holo compress kodim01.png --profile plain -k 30");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Compress(*options, globals); }; });
}

}  // namespace holo::cli
