// holo df: how many dimensions a picture's patches, or the rows of a matrix, really use.
#include "client/cli/cli.h"
#include "client/cli/plot.h"
#include "common/image_io/image_io.h"
#include "common/spectrum/spectrum.h"

namespace holo::cli {
namespace {

struct Options {
  std::string input;
  std::string plot;
  std::vector<std::uint32_t> at;
  bool force = false;
};

Result<void> Df(const Options& options, const Globals& globals) {
  const std::filesystem::path input = options.input;
  if (!options.plot.empty()) HOLO_RETURN_IF_ERROR(CheckOutput(options.plot, options.force));
  ProgressBar bar("df " + input.filename().string(), globals);
  const auto progress = [&](double done) { return bar.Update(done); };
  std::string what;
  const auto measure = [&]() -> Result<spectrum::Spectrum> {
    if (spectrum::IsMatrixName(input)) {
      HOLO_ASSIGN_OR_RETURN(const spectrum::Matrix matrix, spectrum::LoadMatrix(input));
      what = "rows of a " + Grouped(matrix.rows) + " x " + Grouped(matrix.columns) + " matrix";
      return spectrum::OfMatrix(matrix, progress);
    }
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(input));
    what = "8x8 patches of " + std::to_string(picture.width()) + "x" + std::to_string(picture.height()) + ", " +
           std::to_string(picture.channels()) + (picture.channels() == 1 ? " channel" : " channels");
    return spectrum::OfPicture(picture, /*with_vectors=*/false, progress);
  };
  HOLO_ASSIGN_OR_RETURN(const spectrum::Spectrum spectrum, measure());
  const auto dimensions = static_cast<std::uint32_t>(spectrum.eigenvalues.size());
  std::string text = options.input + ": " + Grouped(spectrum.samples) + " samples (" + what + ") of " +
                     std::to_string(dimensions) + " dimensions\n" + "Df            " +
                     Fixed(spectrum.EffectiveRank(), 3) +
                     "  effective rank (sum l)^2 / sum l^2: participation ratio, exp of the Renyi-2 entropy\n" +
                     "Shannon rank  " + Fixed(spectrum.ShannonRank(), 3) + "  exp(-sum p ln p), p = l / sum l\n";
  nlohmann::json json = {{"file", options.input},
                         {"samples", spectrum.samples},
                         {"dimensions", dimensions},
                         {"df", spectrum.EffectiveRank()},
                         {"shannon_rank", spectrum.ShannonRank()},
                         {"eigenvalues", spectrum.eigenvalues},
                         {"variance_at", nlohmann::json::array()},
                         {"k_for_variance", nlohmann::json::array()}};
  std::vector<std::uint32_t> ks = options.at;
  if (ks.empty()) ks = {1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 200, 500, 1000};
  text += "\n     k  variance captured\n";
  for (const std::uint32_t k : ks) {
    if (k > dimensions && options.at.empty()) break;
    char line[64];
    std::snprintf(line, sizeof(line), "%6u  %9.4f %%\n", k, 100 * spectrum.VarianceAt(k));
    text += line;
    json["variance_at"].push_back({{"k", k}, {"variance", spectrum.VarianceAt(k)}});
  }
  text += "\nvariance  smallest k\n";
  for (const double fraction : {0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999}) {
    char line[64];
    std::snprintf(line, sizeof(line), "%6.1f %%  %u\n", 100 * fraction, spectrum.SmallestK(fraction));
    text += line;
    json["k_for_variance"].push_back({{"variance", fraction}, {"k", spectrum.SmallestK(fraction)}});
  }
  if (!options.plot.empty()) {
    HOLO_RETURN_IF_ERROR(
        SavePlot(options.plot, spectrum, "Spectrum of " + input.filename().string() + " (" + what + ")"));
    text += "\nplot: " + options.plot + "\n";
    json["plot"] = options.plot;
  }
  Print(globals, text, json);
  return {};
}

}  // namespace

void AddDf(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("df", "Effective rank and spectrum of a picture's patches or of a matrix");
  auto options = std::make_shared<Options>();
  command->add_option("file", options->input, "A picture, or a matrix whose rows are samples: .npy, .csv, .tsv, .txt")
      ->required();
  command->add_option("-k,--k", options->at, "Numbers of dimensions to report the captured variance at")
      ->delimiter(',');
  command->add_option("--plot", options->plot, "Draw the spectrum: .svg or .png");
  command->add_flag("-f,--force", options->force, "Replace an existing plot");
  command->footer(
      "Df is the participation ratio of the eigenvalues of the covariance, Shannon the exponential of their entropy.\n"
      "Examples:\n"
      "  holo df photo.png\n"
      "  holo df photo.png -k 10,30 --plot spectrum.svg\n"
      "  holo df activations.npy --json");
  command->callback([options, &globals, &action] { action = [options, &globals] { return Df(*options, globals); }; });
}

}  // namespace holo::cli
