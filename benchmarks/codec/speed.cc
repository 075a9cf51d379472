// holo_benchmark_speed: megapixels per second on one core (Google Benchmark).
//
//   encode/P         picture P to the bytes of a file, at the default quality
//   decode/P         the bytes of a file of 1.5 bits per pixel to all pixels, rendering included
//   render/P         from decoded coefficients to all pixels
//   render_half/P    the same at half the width and height; counts the picture's pixels, not the output's
//   render_window/P  a window of at most 1920 x 1080 from decoded coefficients; counts its pixels
//
// P is "kodak" (kodim01, 768 x 512) or "panorama" (2048 x 1024 from the middle of the panorama); each is left out where
// the test data are missing.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "benchmarks/codec/holo_coder.h"
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

void CountMegapixels(benchmark::State& state, double pixels) {
  state.counters["MP/s"] = benchmark::Counter(pixels / 1e6, benchmark::Counter::kIsIterationInvariantRate);
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

Result<codec::Decoder> DecoderWithAllChunks(const Subject& subject, std::size_t max_decoded_bytes) {
  HOLO_ASSIGN_OR_RETURN(const container::AssetReader reader, OpenBytes(subject.file));
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder, MakeDecoder(reader, {max_decoded_bytes}));
  HOLO_RETURN_IF_ERROR(AddAllChunks(reader, decoder));
  return decoder;
}

void Decode(benchmark::State& state, const Subject& subject) {
  for (auto _ : state) {
    const auto decoder = DecoderWithAllChunks(subject, codec::Decoder::Options{}.max_decoded_bytes);
    if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
    const auto picture = render::Render(*decoder, render::View{});
    if (!picture) return state.SkipWithError(ToString(picture.error()).c_str());
    benchmark::DoNotOptimize(picture->bytes().data());
  }
  CountMegapixels(state, subject.pixels());
}

void Render(benchmark::State& state, const Subject& subject, const render::View& view, double pixels) {
  // Everything stays decoded, so that only rendering is measured.
  const auto decoder = DecoderWithAllChunks(subject, std::size_t{2} << 30);
  if (!decoder) return state.SkipWithError(ToString(decoder.error()).c_str());
  if (!render::Render(*decoder, view)) return state.SkipWithError("expected the view to be rendered");
  for (auto _ : state) {
    const auto picture = render::Render(*decoder, view);
    benchmark::DoNotOptimize(picture->bytes().data());
  }
  CountMegapixels(state, pixels);
}

void Register(const Subject& subject) {
  const auto add = [&](const std::string& what, auto body) {
    benchmark::RegisterBenchmark((what + "/" + subject.name).c_str(), std::move(body))->Unit(benchmark::kMillisecond);
  };
  add("encode", [&subject](benchmark::State& state) { Encode(state, subject); });
  add("decode", [&subject](benchmark::State& state) { Decode(state, subject); });
  add("render", [&subject](benchmark::State& state) { Render(state, subject, {}, subject.pixels()); });
  add("render_half", [&subject](benchmark::State& state) { Render(state, subject, {{}, 1, 0}, subject.pixels()); });
  const std::uint32_t width = std::min(subject.picture.width(), 1920u);
  const std::uint32_t height = std::min(subject.picture.height(), 1080u);
  const pixels::Rect window = {(subject.picture.width() - width) / 2, (subject.picture.height() - height) / 2, width,
                               height};
  add("render_window", [&subject, window](benchmark::State& state) {
    Render(state, subject, {window, 0, 0}, static_cast<double>(window.area()));
  });
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
  using holo::benchmarks::Load;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const char* folder = std::getenv("HOLO_TEST_DATA");
  const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
  const holo::Result<holo::benchmarks::Subject> subjects[] = {
      Load("kodak", data + "/kodak/kodim01.png", 768, 768),
      Load("panorama", data + "/large/apollo17_pano_16810x1708.png", 2048, 1024),
  };
  for (const auto& subject : subjects) {
    if (subject) {
      holo::benchmarks::Register(*subject);
    } else {
      std::fprintf(stderr, "left out: %s\n", holo::ToString(subject.error()).c_str());
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
