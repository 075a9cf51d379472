// holo_benchmark_speed: megapixels per second on one core (Google Benchmark).
//
//   encode/P         picture P to the bytes of a file, at the default quality
//   decode/P         the bytes of a file of 1.5 bits per pixel to all pixels, rendering included
//   render/P         from decoded coefficients to all pixels
//   decode_project/P, project/P  the same without smoothing
//   render_half/P    the same at half the width and height; counts the picture's pixels, not the output's
//   render_window/P  a window of at most 1920 x 1080 from decoded coefficients; counts its pixels
//   render_2/P, project_2/P  on two threads
//   eighth           the panorama at 1/8, cut to 1920 x 1080, from decoded coefficients; counts views, and their pixels
//                    in pictures of 1920 x 1080
//   preview_first    the panorama's file, opened and read up to 1/100 of its bytes, to a picture that fits into
//                    1920 x 1080, on two threads
//   preview_whole    the same with everything that a picture of this size needs
//
// P is "kodak" (kodim01, 768 x 512) or "panorama" (2048 x 1024 from the middle of the panorama of 16810 x 1708), for
// render and project also "4k" (3840 x 1708, likewise); what needs test data that are missing is left out. Rates divide
// by the processors' time, on two threads by half of it: so they hold on a machine where others compute, too; "Time" is
// what passed.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "benchmarks/codec/holo_coder.h"
#include "benchmarks/codec/screen.h"
#include "benchmarks/tools/tools.h"
#include "client/asset_file/asset_file.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/render/render.h"

namespace holo::benchmarks {
namespace {

constexpr double kBitsPerPixel = 1.5;

struct Subject {
  std::string name;
  pixels::Picture picture;
  std::vector<std::uint8_t> file;

  [[nodiscard]] double pixels() const { return static_cast<double>(picture.width()) * picture.height(); }
};

void Count(benchmark::State& state, const char* unit, double amount, unsigned threads = 1) {
  state.counters[unit] = benchmark::Counter(amount * threads, benchmark::Counter::kIsIterationInvariantRate);
}

void CountMegapixels(benchmark::State& state, double pixels, unsigned threads = 1) {
  Count(state, "MP/s", pixels / 1e6, threads);
}

void Encode(benchmark::State& state, const Subject& subject) {
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  for (auto _ : state) {
    const auto encoded = codec::Encode(subject.picture, options);
    if (!encoded) return state.SkipWithError(ToString(encoded.error()).c_str());
    benchmark::DoNotOptimize(encoded->file.data());
  }
  CountMegapixels(state, subject.pixels());
}

void Decode(benchmark::State& state, const Subject& subject, const render::View& view) {
  for (auto _ : state) {
    const auto decoder = DecoderWithAllChunks(subject.file);
    if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
    const auto picture = render::Render(*decoder, view);
    if (!picture) return state.SkipWithError(ToString(picture.error()).c_str());
    benchmark::DoNotOptimize(picture->bytes().data());
  }
  CountMegapixels(state, subject.pixels());
}

void Render(benchmark::State& state, const Subject& subject, const render::View& view, double pixels,
            unsigned threads = 1) {
  // Everything stays decoded, so that only rendering is measured.
  const auto decoder = DecoderWithAllChunks(subject.file, {std::size_t{2} << 30});
  if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
  if (!render::Render(*decoder, view)) return state.SkipWithError("expected the view to be rendered");
  for (auto _ : state) {
    const auto picture = render::Render(*decoder, view, threads);
    benchmark::DoNotOptimize(picture->bytes().data());
  }
  CountMegapixels(state, pixels, threads);
}

// The large picture as a file of the default quality.
struct LargeFile {
  TemporaryDirectory directory;
  std::uint32_t width = 0;
  std::uint32_t height = 0;

  [[nodiscard]] std::filesystem::path path() const { return directory.path() / "large.holo"; }
};

void Eighth(benchmark::State& state, const LargeFile& large) {
  const render::View view = EighthView(large.width, large.height);
  const auto asset = asset_file::Open(large.path());
  if (!asset) return state.SkipWithError(ToString(asset.error()).c_str());
  const auto decoder = asset_file::Decode(*asset, view.region, view.scale_log2);
  if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
  if (!render::Render(*decoder, view)) return state.SkipWithError("expected the view to be rendered");
  for (auto _ : state) {
    const auto picture = render::Render(*decoder, view);
    benchmark::DoNotOptimize(picture->bytes().data());
  }
  const render::OutputRect rect = render::OutputRectOf(view);
  Count(state, "views/s", 1);
  Count(state, "screens/s", static_cast<double>(rect.width) * rect.height / (kScreenWidth * kScreenHeight));
}

void PreviewOf(benchmark::State& state, const LargeFile& large, std::optional<std::uint64_t> prefix_bytes) {
  const render::View view = PreviewView(large.width, large.height);
  constexpr unsigned kThreads = 2;
  for (auto _ : state) {
    const auto asset = asset_file::Open(large.path(), {{}, prefix_bytes});
    if (!asset) return state.SkipWithError(ToString(asset.error()).c_str());
    const auto decoder = asset_file::Decode(*asset, {}, view.scale_log2);
    if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
    const auto picture = render::Render(*decoder, view, kThreads);
    if (!picture) return state.SkipWithError(ToString(picture.error()).c_str());
    benchmark::DoNotOptimize(picture->bytes().data());
  }
}

// Of one that is `only_shown` no more than how fast it is rendered at full size.
void Register(const Subject& subject, bool only_shown = false) {
  const auto add = [&](const std::string& what, auto body) {
    benchmark::RegisterBenchmark((what + "/" + subject.name).c_str(), std::move(body))
        ->Unit(benchmark::kMillisecond)
        ->MeasureProcessCPUTime();
  };
  if (!only_shown) {
    add("encode", [&subject](benchmark::State& state) { Encode(state, subject); });
    add("decode", [&subject](benchmark::State& state) { Decode(state, subject, {}); });
    add("decode_project", [&subject](benchmark::State& state) { Decode(state, subject, kProjection); });
  }
  add("render", [&subject](benchmark::State& state) { Render(state, subject, {}, subject.pixels()); });
  add("render_2", [&subject](benchmark::State& state) { Render(state, subject, {}, subject.pixels(), 2); });
  add("project", [&subject](benchmark::State& state) { Render(state, subject, kProjection, subject.pixels()); });
  add("project_2", [&subject](benchmark::State& state) { Render(state, subject, kProjection, subject.pixels(), 2); });
  if (only_shown) return;
  add("render_half", [&subject](benchmark::State& state) { Render(state, subject, {{}, 1, 0}, subject.pixels()); });
  const std::uint32_t width = std::min(subject.picture.width(), kScreenWidth);
  const std::uint32_t height = std::min(subject.picture.height(), kScreenHeight);
  const pixels::Rect window = {(subject.picture.width() - width) / 2, (subject.picture.height() - height) / 2, width,
                               height};
  add("render_window", [&subject, window](benchmark::State& state) {
    Render(state, subject, {window, 0, 0}, static_cast<double>(window.area()));
  });
}

void Register(const LargeFile& large) {
  const auto add = [](const char* what, auto body) {
    benchmark::RegisterBenchmark(what, std::move(body))->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
  };
  std::error_code error;
  const std::uint64_t first = std::filesystem::file_size(large.path(), error) / 100;
  add("eighth", [&large](benchmark::State& state) { Eighth(state, large); });
  add("preview_first", [&large, first](benchmark::State& state) { PreviewOf(state, large, first); });
  add("preview_whole", [&large](benchmark::State& state) { PreviewOf(state, large, std::nullopt); });
}

Result<LargeFile> WriteLarge(const std::string& path) {
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(path));
  HOLO_ASSIGN_OR_RETURN(TemporaryDirectory directory, TemporaryDirectory::Create());
  LargeFile large{std::move(directory), picture.width(), picture.height()};
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  options.threads = 2;
  HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(picture, options));
  HOLO_RETURN_IF_ERROR(files::AtomicWrite(large.path(), encoded.file));
  return large;
}

Result<Subject> Load(const std::string& name, const std::string& path, std::uint32_t max_width,
                     std::uint32_t max_height) {
  Subject subject;
  subject.name = name;
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture whole, image_io::Load(path));
  const std::uint32_t width = std::min(whole.width(), max_width);
  const std::uint32_t height = std::min(whole.height(), max_height);
  HOLO_ASSIGN_OR_RETURN(subject.picture,
                        whole.Crop({(whole.width() - width) / 2, (whole.height() - height) / 2, width, height}));
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  options.max_bytes = static_cast<std::uint64_t>(subject.pixels() * kBitsPerPixel / 8);
  HOLO_ASSIGN_OR_RETURN(codec::Encoded encoded, codec::Encode(subject.picture, options));
  subject.file = std::move(encoded.file);
  return subject;
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  using namespace holo::benchmarks;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const char* folder = std::getenv("HOLO_TEST_DATA");
  const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
  const std::string panorama = data + "/large/apollo17_pano_16810x1708.png";
  const auto register_or_say = [](const auto& subject, auto... how) {
    if (subject) {
      Register(*subject, how...);
    } else {
      std::fprintf(stderr, "left out: %s\n", holo::ToString(subject.error()).c_str());
    }
  };
  const auto kodak = Load("kodak", data + "/kodak/kodim01.png", 768, 768);
  const auto part = Load("panorama", panorama, 2048, 1024);
  const auto wide = Load("4k", panorama, 3840, 2160);
  const auto whole = WriteLarge(panorama);
  register_or_say(kodak);
  register_or_say(part);
  register_or_say(wide, true);
  register_or_say(whole);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
