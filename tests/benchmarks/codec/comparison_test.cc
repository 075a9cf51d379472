#include "benchmarks/codec/comparison.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "benchmarks/codec/plot.h"
#include "benchmarks/tools/tools.h"

namespace holo::benchmarks {
namespace {

using pixels::Picture;

std::span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

TEST_CASE("a pixmap keeps its samples from writing to reading") {
  Picture picture = Picture::Create({5, 3, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}).value();
  for (std::size_t i = 0; i < picture.bytes().size(); ++i) picture.bytes()[i] = static_cast<std::uint8_t>(7 * i);
  const auto parsed = ParsePnm(SerializePpm(picture));
  REQUIRE(parsed.has_value());
  CHECK(parsed->layout() == picture.layout());
  CHECK(std::equal(parsed->bytes().begin(), parsed->bytes().end(), picture.bytes().begin()));
}

TEST_CASE("a greymap becomes RGB, and comments are skipped") {
  const auto parsed = ParsePnm(Bytes("P5\n# a comment\n2 1\n255\nAB"));
  REQUIRE(parsed.has_value());
  CHECK(parsed->channels() == 3);
  CHECK(parsed->At(0, 0, 2) == 'A');
  CHECK(parsed->At(1, 0, 1) == 'B');
}

TEST_CASE("damaged pixmaps are refused") {
  for (const char* text : {"", "P6", "P4\n1 1\n255\nA", "P6\n1 1\n255\nAB", "P6\n1 1\n65535\nABCDEF", "P6\n0 1\n255\n",
                           "P6\n99999999999999999999 1\n255\n", "P6\n1 x\n255\nABC", "P6\n1 1\n255"}) {
    CAPTURE(text);
    CHECK_FALSE(ParsePnm(Bytes(text)).has_value());
  }
}

TEST_CASE("results outlive the cache object, and lines that cannot be read are dropped") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  const auto path = directory.path() / "sub" / "cache.tsv";
  {
    ResultCache cache(path);
    CHECK_FALSE(cache.Find("a key | 1").has_value());
    cache.Put("a key | 1", {1.5, 0.1});
    REQUIRE(cache.Save().has_value());
  }
  ResultCache cache(path);
  REQUIRE(cache.Find("a key | 1").has_value());
  CHECK(*cache.Find("a key | 1") == std::vector<double>{1.5, 0.1});
}

// A coder without loss whose files are pixmaps: everything about its measurements is known.
class RawCoder final : public Coder {
 public:
  explicit RawCoder(std::string version) : version_(std::move(version)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] const std::string& version() const override { return version_; }
  [[nodiscard]] const std::vector<std::string>& settings() const override { return settings_; }
  [[nodiscard]] bool is_progressive() const override { return true; }
  [[nodiscard]] Result<std::vector<std::uint8_t>> Encode(const Picture& picture, const std::string&) const override {
    ++encoded;
    return SerializePpm(picture);
  }
  [[nodiscard]] Result<std::vector<std::uint8_t>> EncodeToSize(const Picture& picture, std::uint64_t,
                                                               std::span<const std::uint64_t>) const override {
    return Encode(picture, "");
  }
  [[nodiscard]] Result<Picture> Decode(std::span<const std::uint8_t> file) const override { return ParsePnm(file); }
  [[nodiscard]] Result<Picture> DecodePrefix(std::span<const std::uint8_t> prefix, std::size_t) const override {
    return ParsePnm(prefix);
  }

  mutable int encoded = 0;

 private:
  std::string name_ = "raw";
  std::string version_;
  std::vector<std::string> settings_ = {"only"};
};

Photograph Flat() {
  Photograph photograph;
  photograph.name = "flat";
  photograph.picture = Picture::Create({200, 161, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}).value();
  for (std::uint8_t& sample : photograph.picture.bytes()) sample = 118;
  return photograph;
}

TEST_CASE("a prefix that shows nothing is measured as mid-grey") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  ResultCache cache(directory.path() / "cache.tsv");
  const double bpps[] = {24.01};  // about the whole pixmap
  const auto result = MeasureCoder(RawCoder(""), Flat(), bpps, cache);
  REQUIRE(result.has_value());
  REQUIRE(result->curve.size() == 1);
  CHECK(result->curve[0].bytes == 200 * 161 * 3 + 15);
  CHECK(result->curve[0].ms_ssim == doctest::Approx(1));
  REQUIRE(result->prefixes.size() == 1);
  const PrefixRun& run = result->prefixes[0];
  CHECK_FALSE(run.shown.front());
  CHECK(run.points.front().psnr == doctest::Approx(quality::PsnrOfMse(100)));
  CHECK(run.shown.back());
  CHECK(run.points.back().ms_ssim == doctest::Approx(1));
}

TEST_CASE("results are kept under the coder's version only") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  ResultCache cache(directory.path() / "cache.tsv");
  const RawCoder kept("raw 1");
  const Photograph photograph = Flat();
  const auto first = MeasureCoder(kept, photograph, {}, cache);
  const auto second = MeasureCoder(kept, photograph, {}, cache);
  CHECK(kept.encoded == 1);
  CHECK(first->curve[0].bytes == second->curve[0].bytes);
  const RawCoder newer("raw 2");
  CHECK(MeasureCoder(newer, photograph, {}, cache).has_value());
  CHECK(newer.encoded == 1);
  const RawCoder never("");
  CHECK(MeasureCoder(never, photograph, {}, cache).has_value());
  CHECK(MeasureCoder(never, photograph, {}, cache).has_value());
  CHECK(never.encoded == 2);
}

struct NamedFactor {
  const char* name;
  double factor;
};

// A picture of 1000 pixels, coded by two coders: the second needs `factor` times the bytes for the same quality.
MeasuredPicture Scaled(const NamedFactor& second) {
  MeasuredPicture picture;
  picture.photograph.name = second.name;
  picture.photograph.picture =
      Picture::Create({100, 10, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}).value();
  for (const double factor : {1.0, second.factor}) {
    CoderResult& result = picture.coders.emplace_back();
    for (int i = 0; i < 6; ++i) {
      Measurement point;
      point.bytes = static_cast<std::uint64_t>(factor * 1000 * (20 + 8 * i)) / 800;
      point.psnr = point.psnr611 = 30 + i;
      point.ms_ssim = 0.9 + 0.01 * i;
      result.curve.push_back(point);
    }
    PrefixRun& run = result.prefixes.emplace_back();
    for (std::size_t f = 0; f < std::size(kPrefixFractions); ++f) {
      run.points.push_back({100, 30 / factor, 30.0, 0.9 / factor});
    }
  }
  return picture;
}

std::vector<MeasuredPicture> Scaled(std::initializer_list<NamedFactor> all) {
  std::vector<MeasuredPicture> pictures;
  for (const NamedFactor& one : all) pictures.push_back(Scaled(one));
  return pictures;
}

TEST_CASE("BD-rates are means over all pictures or over those held out of training") {
  const auto pictures = Scaled({{"kodim01.png", 0.5}, {"kodim02.png", 0.8}, {"other.png", 0.9}});
  const double one = BdRateOf(pictures[0], 0, 1, Measure::kPsnr611);
  CHECK(one == doctest::Approx(-0.5).epsilon(0.02));
  CHECK(BdRateOf(pictures[0], 1, 0, Measure::kPsnr611) == doctest::Approx(1).epsilon(0.02));
  CHECK(MeanBdRate(pictures, 0, 1, Measure::kMsSsim, false) == doctest::Approx(-0.2667).epsilon(0.02));
  CHECK(MeanBdRate(pictures, 0, 1, Measure::kMsSsim, true) == doctest::Approx(-0.15).epsilon(0.05));
  CHECK(std::isnan(MeanBdRate(std::span(pictures).first(1), 0, 1, Measure::kPsnr, true)));
}

TEST_CASE("pictures whose curves do not meet are left out of the mean") {
  auto pictures = Scaled({{"a.png", 0.5}, {"b.png", 0.5}});
  for (Measurement& point : pictures[1].coders[1].curve) point.psnr += 100;
  CHECK(std::isnan(BdRateOf(pictures[1], 0, 1, Measure::kPsnr)));
  CHECK(MeanBdRate(pictures, 0, 1, Measure::kPsnr, false) == BdRateOf(pictures[0], 0, 1, Measure::kPsnr));
}

TEST_CASE("a prefix counts as better only where it is") {
  const auto pictures = Scaled({{"a.png", 0.5}, {"b.png", 2}, {"c.png", 0.9}});
  CHECK(CountBetter(pictures, 0, 1, 0, 2, Measure::kPsnr) == 2);
  CHECK(CountBetter(pictures, 1, 0, 0, 2, Measure::kPsnr) == 1);
  CHECK(CountBetter(pictures, 0, 1, 0, 2, Measure::kPsnr611) == 0);  // all equal
}

TEST_CASE("training pictures are known by name") {
  for (const char* name : {"kodim01.png", "kodim23.png", "haze.png"}) {
    CAPTURE(name);
    CHECK(IsTrainingPicture(name));
  }
  for (const char* name : {"kodim02.png", "kodim24.png", "rain.png", "kodim1.png", "kodim101.png", "kodimxx.png", ""}) {
    CAPTURE(name);
    CHECK_FALSE(IsTrainingPicture(name));
  }
}

TEST_CASE("a plot holds every series and escapes its texts") {
  const std::string svg = PlotSvg("A < B & C", {{"panel", "x", "y", false, {{"one", {{1, 2}, {3, 4}}}, {"two", {}}}},
                                                {"empty", "x", "y", true, {}}});
  CHECK(svg.find("A &lt; B &amp; C") != std::string::npos);
  CHECK(svg.find(">one<") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace holo::benchmarks
