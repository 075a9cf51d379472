// holo_benchmark_material: pictures that are no photographs, against JPEG 2000.
//
// Classes of material: screens, line art, grey, 16 bits (grey and RGB, made from pictures of 8 bits by averaging), and
// several channels (two microscopes, frames in time). For each picture BD-rates of this project's codec against
// OpenJPEG (irreversible; RGB with its colour transform) over the qualities that both reach, for PSNR over all samples
// and, where a picture is large enough, MS-SSIM; negative is smaller. Both coders code the same samples: large pictures
// are cut to 1024 x 1024 around the middle. "own" says at how many of the settings --basis auto put a basis of its own
// into the file; its bytes are counted. Some screens and line art are what contexts for drawings were learnt from: there is
// a mean without them.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>

#include "benchmarks/codec/comparison.h"
#include "benchmarks/codec/holo_coder.h"
#include "benchmarks/codec/result_cache.h"
#include "benchmarks/tools/tools.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/quality/quality.h"
#include "common/render/render.h"

namespace holo::benchmarks {
namespace {

using pixels::ColorModel;
using pixels::Picture;
using pixels::SampleType;

constexpr std::uint32_t kMaxSide = 1024;
// Bits per pixel of up to three channels; more channels get as many for each.
constexpr double kBpps[] = {0.04, 0.08, 0.15, 0.25, 0.4, 0.7, 1.1, 1.7, 2.6, 4};
constexpr float kQualities[] = {3, 8, 20, 40, 60, 75, 86, 93, 97};

struct Curve {
  std::vector<quality::RatePoint> psnr;
  std::vector<quality::RatePoint> ms_ssim;  // empty for small pictures
};

Result<void> AddPoint(const Picture& original, const Picture& decoded, std::size_t bytes, Curve& curve) {
  HOLO_ASSIGN_OR_RETURN(const double psnr, quality::Psnr(original, decoded));
  curve.psnr.push_back({static_cast<double>(bytes), psnr});
  if (std::min(original.width(), original.height()) < quality::kMinMsSsimSide) return {};
  HOLO_ASSIGN_OR_RETURN(const double similarity, quality::MsSsim(original, decoded));
  curve.ms_ssim.push_back({static_cast<double>(bytes), quality::MsSsimDb(similarity)});
  return {};
}

// Raw files as OpenJPEG reads and writes them: plane by plane, 16-bit samples with the low byte first.
std::vector<std::uint8_t> ToPlanes(const Picture& picture) {
  std::vector<std::uint8_t> raw;
  raw.reserve(picture.bytes().size());
  const bool wide = picture.layout().sample_type == SampleType::kU16;
  for (std::uint32_t c = 0; c < picture.channels(); ++c) {
    for (std::uint32_t y = 0; y < picture.height(); ++y) {
      for (std::uint32_t x = 0; x < picture.width(); ++x) {
        const std::uint16_t sample = picture.At(x, y, c);
        raw.push_back(static_cast<std::uint8_t>(sample & 255));
        if (wide) raw.push_back(static_cast<std::uint8_t>(sample >> 8));
      }
    }
  }
  return raw;
}

Result<Picture> FromPlanes(const std::vector<std::uint8_t>& raw, const pixels::Layout& layout) {
  HOLO_ASSIGN_OR_RETURN(Picture picture, Picture::Create(layout));
  if (raw.size() != picture.bytes().size()) {
    return Fail(Code::kDataLoss, "opj_decompress: expected " + std::to_string(picture.bytes().size()) +
                                     " bytes of samples, found " + std::to_string(raw.size()));
  }
  const bool wide = layout.sample_type == SampleType::kU16;
  std::size_t at = 0;
  for (std::uint32_t c = 0; c < layout.channels; ++c) {
    for (std::uint32_t y = 0; y < layout.height; ++y) {
      for (std::uint32_t x = 0; x < layout.width; ++x, at += wide ? 2 : 1) {
        const unsigned high = wide ? raw[at + 1] : 0;
        picture.Set(x, y, c, static_cast<std::uint16_t>(raw[at] | high << 8));
      }
    }
  }
  return picture;
}

Result<Curve> MeasureJpeg2000(const Picture& picture, ResultCache& cache) {
  const pixels::Layout& layout = picture.layout();
  const unsigned bits = layout.sample_type == SampleType::kU16 ? 16 : 8;
  const std::string shape = std::to_string(layout.width) + "," + std::to_string(layout.height) + "," +
                            std::to_string(layout.channels) + "," + std::to_string(bits) + ",u";
  const std::string transform = layout.color_model == ColorModel::kRgb ? "1" : "0";
  const std::vector<std::uint8_t> raw = ToPlanes(picture);
  const std::string name = "material | JPEG 2000 | " + shape + " " + std::to_string(bytes::Crc32(raw)) + " | ";
  Curve curve;
  for (const double bpp : kBpps) {
    const double pixel_bits = bpp * std::max(1.0, layout.channels / 3.0);
    const std::string ratio = std::to_string(bits * layout.channels / pixel_bits);
    if (const auto kept = cache.Find(name + ratio); kept && kept->size() == 3) {
      curve.psnr.push_back({(*kept)[0], (*kept)[1]});
      if ((*kept)[2] > 0) curve.ms_ssim.push_back({(*kept)[0], (*kept)[2]});
      continue;
    }
    HOLO_ASSIGN_OR_RETURN(const TemporaryDirectory directory, TemporaryDirectory::Create());
    HOLO_RETURN_IF_ERROR(files::AtomicWrite(directory.path() / "in.rawl", raw));
    HOLO_ASSIGN_OR_RETURN(const ToolResult encoded, RunTool({"opj_compress", "-I", "-r", ratio, "-mct", transform, "-F",
                                                             shape, "-i", "in.rawl", "-o", "out.j2k"},
                                                            directory.path()));
    HOLO_ASSIGN_OR_RETURN(const ToolResult decoded,
                          RunTool({"opj_decompress", "-i", "out.j2k", "-o", "out.rawl"}, directory.path()));
    auto planes = files::ReadFile(directory.path() / "out.rawl");
    if (!planes) return Fail(Code::kUnknown, "OpenJPEG: " + encoded.output + decoded.output);
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> file, files::ReadFile(directory.path() / "out.j2k"));
    HOLO_ASSIGN_OR_RETURN(const Picture shown, FromPlanes(*planes, layout));
    HOLO_RETURN_IF_ERROR(AddPoint(picture, shown, file.size(), curve));
    cache.Put(name + ratio, {curve.psnr.back().rate, curve.psnr.back().quality,
                             curve.ms_ssim.empty() ? 0.0 : curve.ms_ssim.back().quality});
  }
  return curve;
}

// What this project's codec is told for every picture.
struct Choices {
  codec::BasisChoice basis = codec::BasisChoice::kAuto;
  codec::Tuning tuning = codec::Tuning::kEye;
};

Result<Curve> MeasureOurs(const Picture& picture, const Choices& choices, int& own) {
  Curve curve;
  own = 0;
  for (const float quality : kQualities) {
    codec::EncodeOptions options;
    options.quality = quality;
    options.basis_choice = choices.basis;
    options.tuning = choices.tuning;
    HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(picture, options));
    if (encoded.statistics.basis_bytes > 0) ++own;
    HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, DecoderWithAllChunks(encoded.file));
    HOLO_ASSIGN_OR_RETURN(const Picture shown, render::Render(decoder, render::View{}));
    HOLO_RETURN_IF_ERROR(AddPoint(picture, shown, encoded.file.size(), curve));
  }
  return curve;
}

struct Item {
  std::string name;
  Picture picture;
};

// At most kMaxSide wide and high, without alpha (its planes are easy and would only blur what is compared).
Result<Picture> LoadPart(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(const Picture whole, image_io::Load(path));
  const std::uint32_t width = std::min(whole.width(), kMaxSide);
  const std::uint32_t height = std::min(whole.height(), kMaxSide);
  HOLO_ASSIGN_OR_RETURN(Picture part,
                        whole.Crop({(whole.width() - width) / 2, (whole.height() - height) / 2, width, height}));
  if (!part.layout().has_alpha) return part;
  pixels::Layout layout = part.layout();
  layout.has_alpha = false;
  --layout.channels;
  HOLO_ASSIGN_OR_RETURN(Picture opaque, Picture::Create(layout));
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) opaque.Set(x, y, c, part.At(x, y, c));
    }
  }
  return opaque;
}

Result<std::vector<Item>> LoadFolder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (image_io::IsPictureName(entry.path())) paths.push_back(entry.path());
  }
  if (error) return Fail(Code::kNotFound, folder.string() + ": " + error.message());
  std::sort(paths.begin(), paths.end());
  std::vector<Item> items;
  for (const auto& path : paths) {
    HOLO_ASSIGN_OR_RETURN(Picture picture, LoadPart(path));
    items.push_back({path.filename().string(), std::move(picture)});
  }
  return items;
}

// 16 bits from the average of 2 x 2 samples, of all channels if `grey`.
Result<Picture> Averaged(const Picture& picture, bool grey) {
  pixels::Layout layout = picture.layout();
  layout.width /= 2;
  layout.height /= 2;
  layout.sample_type = SampleType::kU16;
  if (grey) {
    layout.channels = 1;
    layout.color_model = ColorModel::kGray;
  }
  HOLO_ASSIGN_OR_RETURN(Picture out, Picture::Create(layout));
  const std::uint32_t summed = grey ? picture.channels() : 1;
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) {
        std::uint32_t sum = 0;
        for (std::uint32_t i = 0; i < 4 * summed; ++i) {
          sum += picture.At(2 * x + i % 2, 2 * y + i / 2 % 2, grey ? i / 4 : c);
        }
        out.Set(x, y, c, static_cast<std::uint16_t>(sum * 257 / (4 * summed)));
      }
    }
  }
  return out;
}

// Pictures of the same size as the channels of one.
Result<Picture> Stacked(const std::vector<std::filesystem::path>& paths) {
  std::vector<Picture> planes;
  for (const auto& path : paths) {
    HOLO_ASSIGN_OR_RETURN(Picture plane, LoadPart(path));
    if (!planes.empty() && plane.layout() != planes[0].layout()) {
      return Fail(Code::kInvalidArgument, path.string() + ": expected a picture like the others");
    }
    planes.push_back(std::move(plane));
  }
  pixels::Layout layout = planes[0].layout();
  layout.channels = static_cast<std::uint32_t>(planes.size());
  layout.color_model = ColorModel::kGeneric;
  HOLO_ASSIGN_OR_RETURN(Picture out, Picture::Create(layout));
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) out.Set(x, y, c, planes[c].At(x, y, 0));
    }
  }
  return out;
}

struct Class {
  std::string name;
  Result<std::vector<Item>> items;
};

Result<std::vector<Item>> Grey(const std::filesystem::path& data) {
  std::vector<Item> items;
  for (const char* name : {"cell", "moon", "nist_stemcell_gfp_t1", "nist_stemcell_phasecontrast_t1"}) {
    HOLO_ASSIGN_OR_RETURN(Picture picture, LoadPart(data / "science" / (std::string(name) + ".png")));
    items.push_back({name, std::move(picture)});
  }
  return items;
}

Result<std::vector<Item>> Wide(const std::filesystem::path& data) {
  std::vector<Item> items;
  for (const char* name :
       {"large/apollo17_pano_16810x1708.png", "science/hubble_deep_field.jpg", "science/retina.jpg"}) {
    HOLO_ASSIGN_OR_RETURN(const Picture picture, LoadPart(data / name));
    for (const bool grey : {true, false}) {
      HOLO_ASSIGN_OR_RETURN(Picture wide, Averaged(picture, grey));
      items.push_back({std::string(grey ? "grey " : "RGB ") + std::filesystem::path(name).stem().string().substr(0, 16),
                       std::move(wide)});
    }
  }
  return items;
}

Result<std::vector<Item>> Channels(const std::filesystem::path& data) {
  const std::filesystem::path science = data / "science";
  std::vector<std::filesystem::path> frames;
  for (int t = 1; t <= 5; ++t) frames.push_back(science / ("nist_stemcell_gfp_t" + std::to_string(t) + ".png"));
  std::vector<Item> items;
  HOLO_ASSIGN_OR_RETURN(Picture two, Stacked({frames[0], science / "nist_stemcell_phasecontrast_t1.png"}));
  items.push_back({"2: fluorescence, phase", std::move(two)});
  HOLO_ASSIGN_OR_RETURN(Picture five, Stacked(frames));
  items.push_back({"5: frames in time", std::move(five)});
  HOLO_ASSIGN_OR_RETURN(Picture colours, LoadPart(science / "ihc.png"));
  pixels::Layout layout = colours.layout();
  layout.color_model = ColorModel::kGeneric;
  HOLO_ASSIGN_OR_RETURN(Picture generic, Picture::Create(layout));
  std::copy(colours.bytes().begin(), colours.bytes().end(), generic.bytes().begin());
  items.push_back({"3: stains", std::move(generic)});
  return items;
}

// None where the curves have no quality in common, as of pictures too small for MS-SSIM.
std::optional<double> RateOf(const std::vector<quality::RatePoint>& anchor, const std::vector<quality::RatePoint>& test) {
  const Result<double> rate = quality::BdRate(anchor, test);
  return rate ? std::optional(*rate) : std::nullopt;
}

// A rate as text, "-" for none.
std::string Percent(std::optional<double> rate) {
  if (!rate) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f %%", 100 * *rate);
  return text;
}

class Mean {
 public:
  void Add(std::optional<double> rate) {
    if (!rate) return;
    sum_ += *rate;
    ++count_;
  }
  [[nodiscard]] std::optional<double> value() const { return count_ > 0 ? std::optional(sum_ / count_) : std::nullopt; }

 private:
  double sum_ = 0;
  int count_ = 0;
};

Result<void> Run(const std::filesystem::path& data, const std::string& cache_file, const Choices& choices,
                 const std::string& only) {
  ResultCache cache(cache_file);
  std::printf("BD-rate against JPEG 2000 (less is better)\n%-36s %10s %10s %5s\n", "", "PSNR", "MS-SSIM", "own");
  Class classes[] = {{"screens", LoadFolder(data / "screens")},
                     {"line art", LoadFolder(data / "linetext")},
                     {"grey", Grey(data)},
                     {"16 bits", Wide(data)},
                     {"channels", Channels(data)}};
  for (Class& material : classes) {
    if (!only.empty() && material.name != only) continue;
    if (!material.items) {
      std::cerr << material.name << " is left out: " << ToString(material.items.error()) << "\n";
      continue;
    }
    Mean psnr_mean;
    Mean ssim_mean;
    Mean held_out_psnr;
    Mean held_out_ssim;
    bool learnt = false;
    for (const Item& item : *material.items) {
      HOLO_ASSIGN_OR_RETURN(const Curve peer, MeasureJpeg2000(item.picture, cache));
      int own = 0;
      HOLO_ASSIGN_OR_RETURN(const Curve ours, MeasureOurs(item.picture, choices, own));
      const std::optional<double> psnr = RateOf(peer.psnr, ours.psnr);
      const std::optional<double> ssim = RateOf(peer.ms_ssim, ours.ms_ssim);
      psnr_mean.Add(psnr);
      ssim_mean.Add(ssim);
      if (IsTrainingPicture(item.name)) {
        learnt = true;
      } else {
        held_out_psnr.Add(psnr);
        held_out_ssim.Add(ssim);
      }
      std::printf("%-10s %-25s %10s %10s %3d/%zu\n", material.name.c_str(), item.name.c_str(), Percent(psnr).c_str(),
                  Percent(ssim).c_str(), own, std::size(kQualities));
      std::fflush(stdout);
    }
    HOLO_RETURN_IF_ERROR(cache.Save());
    const auto print = [&](const char* name, const Mean& psnr, const Mean& ssim) {
      std::printf("%-10s %-25s %10s %10s\n", material.name.c_str(), name, Percent(psnr.value()).c_str(),
                  Percent(ssim.value()).c_str());
    };
    print("MEAN", psnr_mean, ssim_mean);
    if (learnt) print("MEAN of those not learnt", held_out_psnr, held_out_ssim);
  }
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  const char* variable = std::getenv("HOLO_TEST_DATA");
  std::string data = variable != nullptr && *variable != '\0' ? variable : HOLO_TEST_DATA_DEFAULT;
  std::string cache_file = HOLO_BENCHMARK_CACHE;
  std::string only;
  holo::benchmarks::Choices choices;
  CLI::App app{"BD-rates on material that is no photograph, against JPEG 2000."};
  app.add_option("--data", data, "The folder with screens, linetext, science and large; default: $HOLO_TEST_DATA");
  app.add_option("--cache", cache_file, "Where the peer's results are kept");
  app.add_option("--class", only, "One class alone: screens, line art, grey, 16 bits or channels");
  app.add_option("--basis", choices.basis, "auto, universal or own")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, holo::codec::BasisChoice>{{"auto", holo::codec::BasisChoice::kAuto},
                                                          {"universal", holo::codec::BasisChoice::kUniversal},
                                                          {"own", holo::codec::BasisChoice::kOwn}}));
  app.add_option("--tune", choices.tuning, "eye, psnr or ssim")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, holo::codec::Tuning>{{"eye", holo::codec::Tuning::kEye},
                                                     {"psnr", holo::codec::Tuning::kPsnr},
                                                     {"ssim", holo::codec::Tuning::kMsSsim}}));
  CLI11_PARSE(app, argc, argv);
  const auto result = holo::benchmarks::Run(data, cache_file, choices, only);
  if (result) return 0;
  std::cerr << "holo_benchmark_material: " << holo::ToString(result.error()) << "\n";
  return holo::ToExitCode(result.error().code);
}
