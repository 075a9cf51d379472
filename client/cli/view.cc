// holo view: a .holo file in a window.
#include "client/asset_file/asset_file.h"
#include "client/cli/cli.h"
#include "client/cli/window.h"

namespace holo::cli {
namespace {

struct Options {
  std::string file;
  std::string basis;
};

Result<void> View(const Options& options, const Globals& globals) {
  HOLO_RETURN_IF_ERROR(CheckDisplay("holo render " + options.file + " out.png"));
  asset_file::OpenOptions open;
  if (!options.basis.empty()) open.basis = options.basis;
  HOLO_ASSIGN_OR_RETURN(const asset_file::AssetFile asset, asset_file::Open(options.file, open));
  ProgressBar bar("open " + options.file, globals);
  HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder,
                        asset_file::Decode(asset, {}, 0, [&](double done) { return bar.Update(done); }));
  WindowContent content;
  content.decoder = [&]() -> const codec::Decoder& { return decoder; };
  content.poll = [](const Viewport&, bool, std::uint32_t) -> Result<pixels::Rect> { return pixels::Rect{}; };
  return RunWindow(std::filesystem::path(options.file).filename().string(), content);
}

}  // namespace

void AddView(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("view", "Show a .holo file in a window");
  auto options = std::make_shared<Options>();
  command->add_option("file", options->file, "The .holo file")->required();
  command->add_option("--basis", options->basis, "The basis, where it is neither in the file, beside it nor cached");
  command->footer(
      "The wheel (or I, O) zooms, dragging pans, + and - change k, 0 uses all dimensions, F fits, Q quits.\n"
      "Example:\n  holo view photo.holo");
  command->callback([options, &globals, &action] { action = [options, &globals] { return View(*options, globals); }; });
}

}  // namespace holo::cli
