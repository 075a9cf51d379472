#include "benchmarks/codec/speed_table.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "benchmarks/codec/holo_coder.h"
#include "benchmarks/codec/screen.h"
#include "benchmarks/tools/tools.h"
#include "client/asset_file/asset_file.h"
#include "common/files/files.h"
#include "common/render/render.h"

namespace holo::benchmarks {
namespace {

constexpr int kRuns = 5;
constexpr codec::Decoder::Options kKeepAll = {std::size_t{2} << 30};

// The shortest of several runs, in seconds.
Result<double> Shortest(const std::function<Result<void>()>& work) {
  double shortest = std::numeric_limits<double>::infinity();
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    HOLO_RETURN_IF_ERROR(work());
    shortest = std::min(shortest, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return shortest;
}

// Megapixels per second of all that was added.
class Speed {
 public:
  void Add(const pixels::Picture& picture, double seconds) {
    megapixels_ += static_cast<double>(picture.width()) * picture.height() / 1e6;
    seconds_ += seconds;
  }
  [[nodiscard]] double value() const { return seconds_ > 0 ? megapixels_ / seconds_ : 0; }

 private:
  double megapixels_ = 0;
  double seconds_ = 0;
};

std::uint64_t TargetBytes(const pixels::Picture& picture) {
  return static_cast<std::uint64_t>(static_cast<double>(picture.width()) * picture.height() * kSpeedBpp / 8);
}

codec::EncodeOptions OurOptions() {
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  return options;
}

Result<void> MeasureOurs(std::span<const pixels::Picture* const> pictures, SpeedTable& table) {
  Speed encode, decode, decode_project, project_on_two, show_on_two;
  for (const pixels::Picture* picture : pictures) {
    HOLO_ASSIGN_OR_RETURN(const double encoding, Shortest([&]() -> Result<void> {
                            HOLO_RETURN_IF_ERROR(codec::Encode(*picture, OurOptions()));
                            return {};
                          }));
    encode.Add(*picture, encoding);
    codec::EncodeOptions options = OurOptions();
    options.max_bytes = TargetBytes(*picture);
    HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(*picture, options));
    for (const bool smooth : {true, false}) {
      const render::View view = smooth ? render::View{} : kProjection;
      HOLO_ASSIGN_OR_RETURN(const double decoding, Shortest([&]() -> Result<void> {
                              HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, DecoderWithAllChunks(encoded.file));
                              HOLO_RETURN_IF_ERROR(render::Render(decoder, view));
                              return {};
                            }));
      (smooth ? decode : decode_project).Add(*picture, decoding);
      HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, DecoderWithAllChunks(encoded.file, kKeepAll));
      HOLO_RETURN_IF_ERROR(render::Render(decoder, view));  // decodes
      constexpr unsigned kThreads = 2;
      HOLO_ASSIGN_OR_RETURN(const double rendering, Shortest([&]() -> Result<void> {
                              HOLO_RETURN_IF_ERROR(render::Render(decoder, view, kThreads));
                              return {};
                            }));
      (smooth ? show_on_two : project_on_two).Add(*picture, rendering);
    }
  }
  table.one_core.push_back({"holo", encode.value(), decode.value()});
  table.one_core.push_back({"holo, unsmoothed", encode.value(), decode_project.value()});
  table.project_on_two = project_on_two.value();
  table.show_on_two = show_on_two.value();
  return {};
}

Result<void> MeasureLargest(const pixels::Picture& picture, SpeedTable& table) {
  table.width = picture.width();
  table.height = picture.height();
  HOLO_ASSIGN_OR_RETURN(const TemporaryDirectory directory, TemporaryDirectory::Create());
  HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(picture, OurOptions()));
  const std::filesystem::path path = directory.path() / "largest.holo";
  HOLO_RETURN_IF_ERROR(files::AtomicWrite(path, encoded.file));

  const render::View view = EighthView(picture.width(), picture.height());
  HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, DecoderWithAllChunks(encoded.file, kKeepAll));
  HOLO_RETURN_IF_ERROR(render::Render(decoder, view));
  HOLO_ASSIGN_OR_RETURN(const double viewing, Shortest([&]() -> Result<void> {
                          HOLO_RETURN_IF_ERROR(render::Render(decoder, view));
                          return {};
                        }));
  table.eighth_views = 1 / viewing;

  const render::View preview = PreviewView(picture.width(), picture.height());
  const std::uint64_t prefix_bytes = encoded.file.size() / 100;
  HOLO_ASSIGN_OR_RETURN(const double opening, Shortest([&]() -> Result<void> {
                          constexpr unsigned kThreads = 2;
                          HOLO_ASSIGN_OR_RETURN(const auto asset, asset_file::Open(path, {{}, prefix_bytes}));
                          HOLO_ASSIGN_OR_RETURN(const auto first, asset_file::Decode(asset, {}, preview.scale_log2));
                          HOLO_RETURN_IF_ERROR(render::Render(first, preview, kThreads));
                          return {};
                        }));
  table.preview_milliseconds = 1000 * opening;
  return {};
}

// A library behind OpenCV, whose own work is but a copy.
struct Peer {
  const char* name;
  const char* extension;
  std::function<std::vector<int>(int setting)> parameters;
  int least;  // settings: more give more bytes
  int most;
};

std::vector<Peer> Peers() {
  return {{"JPEG, progressive", ".jpg",
           [](int quality) {
             return std::vector<int>{cv::IMWRITE_JPEG_QUALITY, quality, cv::IMWRITE_JPEG_PROGRESSIVE, 1,
                                     cv::IMWRITE_JPEG_OPTIMIZE, 1};
           },
           1, 100},
          {"JPEG 2000", ".jp2",
           [](int rate) { return std::vector<int>{cv::IMWRITE_JPEG2000_COMPRESSION_X1000, rate}; }, 1, 999},
          {"WebP", ".webp", [](int quality) { return std::vector<int>{cv::IMWRITE_WEBP_QUALITY, quality}; }, 1, 100}};
}

// Nothing where OpenCV was built without it.
Result<std::optional<CoderSpeed>> MeasurePeer(const Peer& peer, std::span<const pixels::Picture* const> pictures) {
  Speed encode, decode;
  try {
    for (const pixels::Picture* picture : pictures) {
      cv::Mat bgr;
      cv::cvtColor(cv::Mat(static_cast<int>(picture->height()), static_cast<int>(picture->width()), CV_8UC3,
                           const_cast<std::uint8_t*>(picture->bytes().data()), picture->row_bytes()),
                   bgr, cv::COLOR_RGB2BGR);
      std::vector<std::uint8_t> file;
      // The largest setting whose file is not larger, else the least.
      int setting = peer.least;
      for (int below = peer.least, above = peer.most + 1; above - below > 1;) {
        const int middle = (below + above) / 2;
        cv::imencode(peer.extension, bgr, file, peer.parameters(middle));
        (file.size() <= TargetBytes(*picture) ? below : above) = middle;
        setting = below;
      }
      HOLO_ASSIGN_OR_RETURN(const double encoding, Shortest([&]() -> Result<void> {
                              cv::imencode(peer.extension, bgr, file, peer.parameters(setting));
                              return {};
                            }));
      encode.Add(*picture, encoding);
      HOLO_ASSIGN_OR_RETURN(const double decoding, Shortest([&]() -> Result<void> {
                              if (cv::imdecode(file, cv::IMREAD_COLOR).size() == bgr.size()) return {};
                              return Fail(Code::kInternal, std::string(peer.name) + ": expected the picture back");
                            }));
      decode.Add(*picture, decoding);
    }
  } catch (const cv::Exception&) {
    return std::optional<CoderSpeed>();
  }
  return std::optional<CoderSpeed>({peer.name, encode.value(), decode.value()});
}

}  // namespace

Result<SpeedTable> MeasureSpeed(std::span<const pixels::Picture* const> pictures) {
  cv::setNumThreads(1);
  SpeedTable table;
  HOLO_RETURN_IF_ERROR(MeasureOurs(pictures, table));
  const auto largest = std::max_element(pictures.begin(), pictures.end(), [](const auto* a, const auto* b) {
    return std::uint64_t{a->width()} * a->height() < std::uint64_t{b->width()} * b->height();
  });
  if (largest != pictures.end()) HOLO_RETURN_IF_ERROR(MeasureLargest(**largest, table));
  for (const Peer& peer : Peers()) {
    HOLO_ASSIGN_OR_RETURN(const std::optional<CoderSpeed> speed, MeasurePeer(peer, pictures));
    if (speed) table.one_core.push_back(*speed);
  }
  return table;
}

}  // namespace holo::benchmarks
