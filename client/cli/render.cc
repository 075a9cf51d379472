// holo render: .holo files to pictures.
#include <cmath>

#include "client/asset_file/asset_file.h"
#include "client/cli/cli.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/plain/plain.h"

namespace holo::cli {
namespace {

struct Options {
  std::string input;
  std::string output;
  std::string region;
  std::string scale = "1";
  std::uint32_t k = 0;
  std::string bytes;
  std::string basis;
  bool unsmoothed = false;
};

Result<pixels::Picture> RenderPlain(const std::filesystem::path& path, const Display& display) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path));
  auto asset = plain::Parse(bytes);
  if (!asset) return tl::unexpected(WithContext(std::move(asset).error(), path.string()));
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, plain::Render(*asset, display.region, display.k));
  if (display.scale == 1) return picture;
  const auto size = [&](std::uint32_t length) {
    return static_cast<std::uint32_t>(std::max(1.0, std::round(length * display.scale)));
  };
  const SourceRect all{0, 0, static_cast<double>(picture.width()), static_cast<double>(picture.height())};
  return Resample(picture, all, size(picture.width()), size(picture.height()));
}

Result<bool> IsPlainFile(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(const auto source, files::FileSource::Open(path));
  std::vector<std::uint8_t> magic(4);
  return source->size() >= magic.size() && source->ReadAt(0, magic).has_value() && plain::IsPlain(magic);
}

Result<void> Render(const Options& options, const Globals& globals) {
  HOLO_RETURN_IF_ERROR(image_io::CheckSaveName(options.output));
  HOLO_RETURN_IF_ERROR(CheckOutput(options.output, /*force=*/true));
  Display display;
  if (!options.region.empty()) {
    HOLO_ASSIGN_OR_RETURN(display.region, ParseRegion(options.region));
  }
  HOLO_ASSIGN_OR_RETURN(display.scale, ParseScale(options.scale));
  display.k = options.k;
  display.smooth = !options.unsmoothed;
  HOLO_ASSIGN_OR_RETURN(const bool is_plain, IsPlainFile(options.input));
  if (is_plain) {
    if (!options.bytes.empty()) {
      return Fail(Code::kInvalidArgument,
                  options.input + ": a plain file shows nothing before it is whole: no --bytes");
    }
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, RenderPlain(options.input, display));
    HOLO_RETURN_IF_ERROR(image_io::Save(options.output, picture));
    Print(globals, "", {{"output", options.output}, {"width", picture.width()}, {"height", picture.height()}});
    return {};
  }

  asset_file::OpenOptions open;
  if (!options.basis.empty()) open.basis = options.basis;
  if (!options.bytes.empty()) {
    HOLO_ASSIGN_OR_RETURN(open.prefix_bytes, ParseBytes(options.bytes));
  }
  HOLO_ASSIGN_OR_RETURN(const asset_file::AssetFile asset, asset_file::Open(options.input, open));
  ProgressBar bar("render " + std::filesystem::path(options.input).filename().string(), globals);
  HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder,
                        asset_file::Decode(asset, display.region, ScaleLog2(display.scale),
                                           [&](double done) { return bar.Update(done / 2); }));
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, RenderDisplay(decoder, display));
  if (!bar.Update(0.9)) return Fail(Code::kCancelled, "render: cancelled");
  HOLO_RETURN_IF_ERROR(image_io::Save(options.output, picture));
  Print(globals, "",
        {{"output", options.output},
         {"width", picture.width()},
         {"height", picture.height()},
         {"chunk_bytes", decoder.received_bytes()}});
  return {};
}

}  // namespace

void AddRender(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("render", "Turn a .holo file, or a part of it, into a picture");
  auto options = std::make_shared<Options>();
  command->add_option("file", options->input, "The .holo file")->required();
  command->add_option("picture", options->output, "The picture to write: .png .jpg .tif .webp .bmp .ppm .pgm .jp2")
      ->required();
  command->add_option("--region", options->region, "Only this part, in pixels of the picture: x,y,width,height")
      ->check(IsRegion());
  command->add_option("--scale", options->scale, "Size of the output: 1/4, 0.3, 2x")
      ->check(IsScale())
      ->capture_default_str();
  command->add_option("-k,--k", options->k, "Use only so many basis dimensions per patch: the focus ring");
  command->add_flag("--unsmoothed", options->unsmoothed,
                    "The projection itself, without the smoothing of full-size pictures");
  command->add_option("--bytes", options->bytes, "Use only the first so many bytes of the file (20000, 20k)")
      ->check(IsBytes());
  command->add_option("--basis", options->basis, "The basis, where it is neither in the file, beside it nor cached");
  command->footer(
      "Replaces the output if it exists. Examples:\n"
      "  holo render photo.holo out.png\n"
      "  holo render photo.holo part.png --region 100,50,640,480 --scale 1/2\n"
      "  holo render photo.holo soft.png -k 12\n"
      "  holo render photo.holo early.png --bytes 20000     what a client that had only those bytes would show");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Render(*options, globals); }; });
}

}  // namespace holo::cli
