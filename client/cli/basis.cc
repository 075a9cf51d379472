// holo basis: a basis shared by a collection.
#include "client/asset_file/asset_file.h"
#include "client/cli/cli.h"
#include "common/basis/train.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"

namespace holo::cli {
namespace {

struct TrainOptions {
  std::vector<std::string> pictures;
  std::string output;
  std::string planes = "auto";
  std::string description;
  float min_deviation = 0;
  bool force = false;
};

nlohmann::json ToJson(const basis::Basis& basis, const std::string& path) {
  return {{"file", path},
          {"hash", bytes::ToHex(basis.hash())},
          {"bytes", basis.bytes().size()},
          {"channels", basis.channels()},
          {"description", basis.description()},
          {"rows_8x8", basis.RowsFor(8).count},
          {"rows_4x4", basis.RowsFor(4).count}};
}

std::string ToText(const basis::Basis& basis, const std::string& path) {
  return path + "\nhash         " + bytes::ToHex(basis.hash()) + "\nsize         " + Grouped(basis.bytes().size()) +
         " bytes\nchannels     " + std::to_string(basis.channels()) + "\ndescription  " + basis.description() +
         "\nrows         " + std::to_string(basis.RowsFor(8).count) + " of " +
         std::to_string(basis.RowsFor(8).dimension) + " for 8x8, " + std::to_string(basis.RowsFor(4).count) + " of " +
         std::to_string(basis.RowsFor(4).dimension) + " for 4x4\n";
}

Result<void> Train(const TrainOptions& options, const Globals& globals) {
  HOLO_RETURN_IF_ERROR(CheckOutput(options.output, options.force));
  ProgressBar bar("train " + std::filesystem::path(options.output).filename().string(), globals);
  std::optional<basis::Trainer> trainer;
  for (std::size_t i = 0; i < options.pictures.size(); ++i) {
    if (!bar.Update(static_cast<double>(i) / static_cast<double>(options.pictures.size()))) {
      return Fail(Code::kCancelled, "train: cancelled");
    }
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(options.pictures[i]));
    if (!trainer) {
      const bool generic = picture.layout().color_model == pixels::ColorModel::kGeneric;
      const bool joint = options.planes == "joint" || (options.planes == "auto" && generic && picture.channels() > 1);
      const auto planes = joint                        ? basis::TrainingPlanes::kJoint
                          : options.planes == "chroma" ? basis::TrainingPlanes::kChroma
                                                       : basis::TrainingPlanes::kLuma;
      auto created = basis::Trainer::Create(planes, joint ? picture.channels() : 1);
      if (!created) return tl::unexpected(WithContext(std::move(created).error(), options.pictures[i]));
      trainer.emplace(std::move(*created));
    }
    if (auto added = trainer->AddPicture(picture); !added) {
      return tl::unexpected(WithContext(std::move(added).error(), options.pictures[i]));
    }
  }
  std::string description = options.description;
  if (description.empty()) description = std::to_string(options.pictures.size()) + " pictures, " + options.planes;
  HOLO_ASSIGN_OR_RETURN(const auto basis, trainer->Finish(description, options.min_deviation));
  HOLO_RETURN_IF_ERROR(files::AtomicWrite(options.output, basis->bytes(),
                                          options.force ? files::IfExists::kReplace : files::IfExists::kFail));
  Print(globals, ToText(*basis, options.output), ToJson(*basis, options.output));
  return {};
}

Result<void> Info(const std::string& path, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const auto basis, asset_file::LoadBasis(path));
  Print(globals, ToText(*basis, path), ToJson(*basis, path));
  return {};
}

}  // namespace

void AddBasis(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("basis", "Train a basis for a collection, or describe one");
  command->require_subcommand(1);
  command->footer("Example:\n  holo basis train slides/*.tif -o slides.basis");
  CLI::App* train = command->add_subcommand("train", "Train a basis on pictures of one kind");
  auto options = std::make_shared<TrainOptions>();
  train->add_option("pictures", options->pictures, "Pictures with the same channels")->required();
  train->add_option("-o,--output", options->output, "The file to write")->required();
  train
      ->add_option(
          "--planes", options->planes,
          "joint: all channels together; luma, chroma: one plane at a time, as the built-in bases; auto: luma for "
          "RGB and grey, joint for other channels")
      ->check(CLI::IsMember({"auto", "joint", "luma", "chroma"}))
      ->capture_default_str();
  train->add_option("--description", options->description, "Stored in the file, at most 255 bytes");
  train
      ->add_option("--min-deviation", options->min_deviation,
                   "Leave out dimensions that vary less (8-bit sample units)")
      ->check(IsNumber(0.0, 1000.0))
      ->capture_default_str();
  train->add_flag("-f,--force", options->force, "Replace an existing file");
  train->footer(
      "Examples:\n"
      "  holo basis train slides/*.tif -o slides.basis\n"
      "  holo compress slides/a.tif --basis slides.basis");
  train->callback([options, &globals, &action] { action = [options, &globals] { return Train(*options, globals); }; });
  CLI::App* info = command->add_subcommand("info", "Say what is in a basis");
  auto path = std::make_shared<std::string>();
  info->add_option("file", *path, "The .basis file")->required();
  info->footer("Example:\n  holo basis info slides.basis");
  info->callback([path, &globals, &action] { action = [path, &globals] { return Info(*path, globals); }; });
}

}  // namespace holo::cli
