#include "common/codec/codec.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "common/codec/context_model.h"
#include "common/quality/quality.h"
#include "common/render/render.h"

namespace holo::codec {
namespace {

using container::AssetReader;
using container::MemorySource;
using pixels::ColorModel;
using pixels::Picture;
using pixels::SampleType;

// Smooth shapes, an edge and a little noise: what photographs are made of.
Picture Scene(pixels::Layout layout) {
  Picture picture = Picture::Create(layout).value();
  std::mt19937 random(9);
  const double largest = pixels::MaxSample(layout.sample_type);
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) {
        double v = 0.5 + 0.3 * std::sin(x * 0.05 + c) * std::cos(y * 0.03 - c);
        if (x + 2 * y > layout.width) v += 0.15;
        v += 0.01 * (static_cast<double>(random() % 1000) / 1000 - 0.5);
        picture.Set(x, y, c, static_cast<std::uint16_t>(std::clamp(v, 0.0, 1.0) * largest));
      }
    }
  }
  return picture;
}

BasisResolver ResolverOf(const AssetReader& reader) {
  return [&reader](const basis::Hash& hash) -> std::shared_ptr<const basis::Basis> {
    if (const auto* bytes = reader.EmbeddedBasis(hash)) return basis::Basis::Parse(*bytes).value();
    return basis::FindBuiltIn(hash);
  };
}

AssetReader OpenFile(std::vector<std::uint8_t> file) {
  return AssetReader::Open(std::make_shared<MemorySource>(std::move(file))).value();
}

Result<void> AddAll(Decoder& decoder, const AssetReader& reader) {
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, reader.ReadChunk(chunk));
    if (bytes.size() < chunk.size_bytes) {
      HOLO_RETURN_IF_ERROR(decoder.AddPartialChunk(chunk.id, bytes));
    } else {
      HOLO_RETURN_IF_ERROR(decoder.AddChunk(chunk.id, bytes));
    }
  }
  return {};
}

Picture Decode(const std::vector<std::uint8_t>& file) {
  const AssetReader reader = OpenFile(file);
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
  REQUIRE(AddAll(decoder, reader).has_value());
  return render::Render(decoder, {}).value();
}

EncodeOptions Universal(float quality) {
  EncodeOptions options;
  options.quality = quality;
  options.basis_choice = BasisChoice::kUniversal;
  return options;
}

TEST_CASE("pictures of every shape survive at high quality") {
  struct Row {
    const char* name;
    pixels::Layout layout;
    double least_psnr;
  };
  const Row rows[] = {
      {"one pixel", {1, 1, 1, SampleType::kU8, ColorModel::kGray, false}, 45},
      {"one row", {333, 1, 3, SampleType::kU8, ColorModel::kRgb, false}, 45},
      {"one column", {1, 777, 1, SampleType::kU16, ColorModel::kGray, false}, 45},
      {"odd size RGB", {301, 203, 3, SampleType::kU8, ColorModel::kRgb, false}, 45},
      {"grey with alpha", {65, 70, 2, SampleType::kU8, ColorModel::kGray, true}, 45},
      {"RGBA of 16 bits", {129, 64, 4, SampleType::kU16, ColorModel::kRgb, true}, 45},
      {"eight channels", {50, 90, 8, SampleType::kU8, ColorModel::kGeneric, false}, 45},
      {"several tiles", {600, 530, 1, SampleType::kU8, ColorModel::kGray, false}, 45},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Picture original = Scene(row.layout);
    const Encoded encoded = Encode(original, Universal(98)).value();
    const Picture decoded = Decode(encoded.file);
    CHECK(decoded.layout() == original.layout());
    const double psnr = quality::Psnr(original, decoded).value();
    CHECK(psnr > row.least_psnr);
    CHECK(encoded.statistics.file_bytes == encoded.file.size());
    if (original.layout().width > 100) CHECK(std::abs(encoded.statistics.estimated_psnr_db - psnr) < 2.5);
  }
}

std::uint32_t LargestError(const Picture& a, const Picture& b) {
  std::uint32_t largest = 0;
  for (std::uint32_t y = 0; y < a.height(); ++y) {
    for (std::uint32_t x = 0; x < a.width(); ++x) {
      for (std::uint32_t c = 0; c < a.channels(); ++c) {
        const int error = int{a.At(x, y, c)} - int{b.At(x, y, c)};
        largest = std::max(largest, static_cast<std::uint32_t>(std::abs(error)));
      }
    }
  }
  return largest;
}

TEST_CASE("at quality 100 no sample is off by more than 1 of 255") {
  enum class Content { kScene, kNoise, kBlackAndWhite };
  struct Row {
    const char* name;
    pixels::Layout layout;
    Content content;
  };
  const Row rows[] = {
      {"RGB", {203, 161, 3, SampleType::kU8, ColorModel::kRgb, false}, Content::kScene},
      {"grey", {203, 161, 1, SampleType::kU8, ColorModel::kGray, false}, Content::kScene},
      {"RGBA of 16 bits", {129, 64, 4, SampleType::kU16, ColorModel::kRgb, true}, Content::kScene},
      {"five channels", {90, 50, 5, SampleType::kU8, ColorModel::kGeneric, false}, Content::kScene},
      {"one pixel", {1, 1, 3, SampleType::kU8, ColorModel::kRgb, false}, Content::kNoise},
      {"noise", {130, 70, 3, SampleType::kU8, ColorModel::kRgb, false}, Content::kNoise},
      {"noise of 16 bits", {70, 70, 1, SampleType::kU16, ColorModel::kGray, false}, Content::kNoise},
      {"black and white", {130, 70, 3, SampleType::kU8, ColorModel::kRgb, false}, Content::kBlackAndWhite},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Picture original = Scene(row.layout);
    std::mt19937 random(5);
    const std::uint32_t largest = pixels::MaxSample(row.layout.sample_type);
    for (std::uint32_t y = 0; row.content != Content::kScene && y < row.layout.height; ++y) {
      for (std::uint32_t x = 0; x < row.layout.width; ++x) {
        for (std::uint32_t c = 0; c < row.layout.channels; ++c) {
          const auto sample = static_cast<std::uint32_t>(random());
          const std::uint32_t value = row.content == Content::kNoise ? sample % (largest + 1) : sample % 2 * largest;
          original.Set(x, y, c, static_cast<std::uint16_t>(value));
        }
      }
    }
    const auto encoded = Encode(original, Universal(100));
    REQUIRE(encoded.has_value());
    const std::uint32_t error = LargestError(original, Decode(encoded->file));
    CHECK(error <= largest / 255);
  }
}

TEST_CASE("quality 100 refuses a basis that cannot show the picture") {
  EncodeOptions options;
  options.basis_choice = BasisChoice::kOwn;
  const AssetReader flat =
      OpenFile(Encode(Scene({64, 64, 5, SampleType::kU8, ColorModel::kGeneric, false}), options)->file);
  options.basis_choice = BasisChoice::kGiven;
  options.basis = ResolverOf(flat)(flat.header().bases[0]);
  options.quality = 100;
  Picture other = Scene({64, 64, 5, SampleType::kU8, ColorModel::kGeneric, false});
  std::mt19937 random(3);
  for (std::uint8_t& sample : other.bytes()) sample = static_cast<std::uint8_t>(random());
  const auto refused = Encode(other, options);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kInvalidArgument);
}

// Flat areas with straight edges, as on a screen.
Picture Drawing() {
  Picture picture = Picture::Create({300, 300, 3, SampleType::kU8, ColorModel::kRgb, false}).value();
  std::mt19937 random(6);
  for (int i = 0; i < 60; ++i) {
    const std::uint32_t left = random() % 290;
    const std::uint32_t top = random() % 290;
    const auto colour = static_cast<std::uint32_t>(random());
    for (std::uint32_t y = top; y < std::min(top + 50, 300u); ++y) {
      for (std::uint32_t x = left; x < std::min(left + 70, 300u); ++x) {
        for (std::uint32_t c = 0; c < 3; ++c) picture.Set(x, y, c, colour >> (8 * c) & 255);
      }
    }
  }
  return picture;
}

TEST_CASE("drawings are coded without the lapped filter, photographs with it") {
  const std::vector<std::uint8_t> file = Encode(Drawing(), Universal(80)).value().file;
  CHECK_FALSE(OpenFile(file).header().lapped);
  CHECK(quality::Psnr(Drawing(), Decode(file)).value() > 33);
  const Picture scene = Scene({300, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
  CHECK(OpenFile(Encode(scene, Universal(80)).value().file).header().lapped);
}

TEST_CASE("a photograph can be coded as a drawing, and a drawing as a photograph, but for more bytes") {
  EncodeOptions options = Universal(80);
  for (const bool drawing : {true, false}) {
    CAPTURE(drawing);
    const Picture picture = drawing ? Drawing() : Scene({300, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
    options.lapped.reset();
    const std::size_t chosen = Encode(picture, options).value().file.size();
    options.lapped = drawing;
    const std::vector<std::uint8_t> other = Encode(picture, options).value().file;
    CHECK(OpenFile(other).header().lapped == drawing);
    CHECK(quality::Psnr(picture, Decode(other)).value() > 30);
    CHECK(other.size() > chosen);
  }
}

TEST_CASE("without the lapped filter windows and smaller scales show the same picture") {
  const AssetReader reader = OpenFile(Encode(Drawing(), Universal(80)).value().file);
  REQUIRE_FALSE(reader.header().lapped);
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
  REQUIRE(AddAll(decoder, reader).has_value());
  for (const std::uint32_t scale_log2 : {0u, 1u, 3u}) {
    CAPTURE(scale_log2);
    const Picture whole = render::Render(decoder, {{}, scale_log2, 0}).value();
    const pixels::Rect region{104, 56, 128, 88};
    const Picture window = render::Render(decoder, {region, scale_log2, 0}).value();
    const Picture same = whole
                             .Crop({region.x >> scale_log2, region.y >> scale_log2, region.width >> scale_log2,
                                    region.height >> scale_log2})
                             .value();
    CHECK(LargestError(window, same) == 0);
  }
}

TEST_CASE("each tuning is the best by its own measure at equal bytes") {
  const Picture original = Scene({320, 208, 3, SampleType::kU8, ColorModel::kRgb, false});
  double psnr[2];
  double ms_ssim[2];
  for (const std::size_t i : {0, 1}) {
    EncodeOptions options;
    options.basis_choice = BasisChoice::kUniversal;
    options.max_bytes = 1800;
    options.tuning = i == 0 ? Tuning::kPsnr : Tuning::kMsSsim;
    const Picture shown = Decode(Encode(original, options)->file);
    psnr[i] = quality::Psnr611(original, shown).value();
    ms_ssim[i] = quality::MsSsim(original, shown).value();
  }
  CHECK(psnr[0] > psnr[1]);
  CHECK(ms_ssim[0] < ms_ssim[1]);
}

TEST_CASE("tuned for PSNR, colour differences have a step that follows from the picture") {
  const auto weights_of = [](const Picture& picture, float quality, unsigned threads = 1) {
    EncodeOptions options = Universal(quality);
    options.tuning = Tuning::kPsnr;
    options.lapped = true;
    options.threads = threads;
    const AssetReader reader = OpenFile(Encode(picture, options)->file);
    const auto& groups = reader.header().groups;
    return std::array<float, 3>{groups[0].step_weight, groups[1].step_weight, groups[2].step_weight};
  };
  const Picture colourful = Scene({600, 400, 3, SampleType::kU8, ColorModel::kRgb, false});
  const auto coarse = weights_of(colourful, 50);
  const auto fine = weights_of(colourful, 90);
  CHECK(coarse[0] == 1);
  CHECK(fine[0] == 1);
  for (const std::size_t plane : {1, 2}) {
    CHECK(coarse[plane] >= 0.35f);
    CHECK(coarse[plane] < fine[plane]);
    CHECK(fine[plane] <= 5.7f);
  }
  CHECK(weights_of(colourful, 90, 3) == fine);

  // Where there is no colour, nothing follows.
  Picture grey = Scene({300, 200, 3, SampleType::kU8, ColorModel::kRgb, false});
  for (std::uint32_t y = 0; y < grey.height(); ++y) {
    for (std::uint32_t x = 0; x < grey.width(); ++x) {
      for (const std::uint32_t c : {1, 2}) grey.Set(x, y, c, grey.At(x, y, 0));
    }
  }
  CHECK(weights_of(grey, 75) == std::array<float, 3>{1.0f, 1.2f, 1.2f});
}

// Compares scores with sums of weights times features, one by one.
class ScoreChecker final : public ContextObserver {
 public:
  void Scored(bool significance, std::size_t row, std::span<const std::int8_t> features, int score, bool) override {
    const std::int8_t* weights = significance ? SignificanceWeights().data() + row * significance::kWeights
                                               : ActivityWeights().data() + row * activity::kWeights;
    int sum = 0;
    for (std::size_t i = 0; i < features.size(); ++i) sum += weights[i] * features[i];
    ++(significance ? significances : activities);
    if (sum != score) ++wrong;
  }
  void Coded(std::size_t context, bool) override { last_context = std::max(last_context, context); }

  int significances = 0;
  int activities = 0;
  int wrong = 0;
  std::size_t last_context = 0;
};

TEST_CASE("the entropy coder's vectors give the scores of their definition") {
  struct Row {
    const char* name;
    pixels::Layout layout;
    BasisChoice basis;
  };
  const Row rows[] = {
      {"RGB", {300, 100, 3, SampleType::kU8, ColorModel::kRgb, false}, BasisChoice::kUniversal},
      {"five channels, more than 64 rows", {90, 50, 5, SampleType::kU8, ColorModel::kGeneric, false}, BasisChoice::kOwn},
      {"two pixels", {2, 1, 4, SampleType::kU16, ColorModel::kRgb, true}, BasisChoice::kUniversal},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    ScoreChecker checker;
    EncodeOptions options;
    options.quality = 95;
    options.basis_choice = row.basis;
    options.observer = &checker;
    REQUIRE(Encode(Scene(row.layout), options).has_value());
    CHECK(checker.wrong == 0);
    CHECK(checker.activities > 0);
    CHECK((row.layout.width < 8 || checker.significances > 100));
    CHECK(checker.last_context < ContextCount());
  }
}

TEST_CASE("metadata survives") {
  Picture original = Scene({40, 30, 3, SampleType::kU8, ColorModel::kRgb, false});
  original.metadata().icc_profile = {1, 2, 3, 4, 5};
  original.metadata().source_orientation = 6;
  const Picture decoded = Decode(Encode(original, Universal(50)).value().file);
  CHECK(decoded.metadata() == original.metadata());
}

TEST_CASE("threads do not change the file") {
  const Picture original = Scene({700, 600, 3, SampleType::kU8, ColorModel::kRgb, false});
  EncodeOptions options = Universal(70);
  const std::vector<std::uint8_t> one = Encode(original, options).value().file;
  options.threads = 3;
  CHECK(Encode(original, options).value().file == one);
}

TEST_CASE("every prefix of the file renders, and more bytes are a better picture") {
  const Picture original = Scene({400, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
  const std::vector<std::uint8_t> file = Encode(original, Universal(85)).value().file;
  const AssetReader whole = OpenFile(file);
  REQUIRE(!whole.chunks().empty());
  const std::size_t first_pixels = whole.chunks().front().offset;
  double last_psnr[2] = {};  // of the projection, and smoothed
  double falls[2] = {};
  for (std::size_t size = first_pixels; size <= file.size(); size += file.size() / 60) {
    CAPTURE(size);
    std::vector<std::uint8_t> prefix(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    const AssetReader reader = OpenFile(prefix);
    CHECK(reader.is_truncated() == (size < file.size()));
    Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
    CHECK(AddAll(decoder, reader).has_value());
    for (const std::size_t i : {0, 1}) {
      const Picture shown = render::Render(decoder, {{}, 0, 0, i == 1}).value();
      const double psnr = quality::Psnr(original, shown).value();
      falls[i] = std::max(falls[i], last_psnr[i] - psnr);
      last_psnr[i] = psnr;
    }
  }
  CHECK(falls[0] < 0.05);
  CHECK(falls[1] < 0.2);  // smoothed by more or less, it comes and goes a little
  CHECK(last_psnr[0] > 38);
  CHECK(last_psnr[1] > last_psnr[0]);
}

TEST_CASE("chunks in any order give the same picture, and a subset gives its best") {
  const Picture original = Scene({600, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
  const std::vector<std::uint8_t> file = Encode(original, Universal(80)).value().file;
  const AssetReader reader = OpenFile(file);
  const Picture in_order = Decode(file);
  std::vector<container::ChunkInfo> chunks = reader.chunks();
  std::mt19937 random(2);
  std::shuffle(chunks.begin(), chunks.end(), random);
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
  for (const container::ChunkInfo& chunk : chunks) {
    const std::vector<std::uint8_t> bytes = reader.ReadChunk(chunk).value();
    CHECK(decoder.AddChunk(chunk.id, bytes).has_value());
    CHECK(decoder.HasChunk(chunk.id));
    CHECK(decoder.AddChunk(chunk.id, bytes).value().empty());  // the second time changes nothing
  }
  const Picture shuffled = render::Render(decoder, {}).value();
  CHECK(std::ranges::equal(shuffled.bytes(), in_order.bytes()));
}

TEST_CASE("what AddChunk does not report has not changed") {
  const Picture original = Scene({600, 520, 1, SampleType::kU8, ColorModel::kGray, false});
  const std::vector<std::uint8_t> file = Encode(original, Universal(80)).value().file;
  const AssetReader reader = OpenFile(file);
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
  Picture shown = render::Render(decoder, {}).value();
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    const pixels::Rect changed = decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()).value();
    const Picture now = render::Render(decoder, {}).value();
    if (!changed.empty()) {
      const render::View view{changed, 0, 0};
      CHECK(render::RenderInto(decoder, view, {0, 0, 600, 520}, shown).has_value());
    }
    CHECK(std::ranges::equal(now.bytes(), shown.bytes()));
  }
}

TEST_CASE("tiles are large where a picture fits a screen, and windows show the same with both sizes") {
  struct Row {
    pixels::Layout layout;
    bool large_tiles;
  };
  const Row rows[] = {
      {{1100, 700, 1, SampleType::kU8, ColorModel::kGray, false}, true},
      {{1100, 300, 5, SampleType::kU8, ColorModel::kGeneric, false}, false},
      {{2050, 1030, 1, SampleType::kU8, ColorModel::kGray, false}, false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.layout.width);
    CAPTURE(row.layout.channels);
    const AssetReader reader = OpenFile(Encode(Scene(row.layout), Universal(60)).value().file);
    CHECK(reader.header().large_tiles == row.large_tiles);
    Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
    REQUIRE(AddAll(decoder, reader).has_value());
    const Picture whole = render::Render(decoder, {}, 2).value();
    for (const pixels::Rect& window : {pixels::Rect{500, 250, 30, 40}, pixels::Rect{0, 0, 1, 1}, pixels::Rect{200, 3, 800, 290}}) {
      const Picture part = render::Render(decoder, {window, 0, 0}).value();
      CHECK(std::ranges::equal(part.bytes(), whole.Crop(window).value().bytes()));
    }
  }
}

TEST_CASE("dropping decoded tiles for memory changes no pixel") {
  const Picture original = Scene({800, 600, 1, SampleType::kU8, ColorModel::kGray, false});
  const std::vector<std::uint8_t> file = Encode(original, Universal(80)).value().file;
  const AssetReader reader = OpenFile(file);
  Decoder::Options small;
  small.max_decoded_bytes = 1;
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader), small).value();
  REQUIRE(AddAll(decoder, reader).has_value());
  const Picture full = Decode(file);
  CHECK(std::ranges::equal(render::Render(decoder, {}).value().bytes(), full.bytes()));
}

TEST_CASE("a limit in bytes is kept and used") {
  const Picture original = Scene({400, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
  for (const std::uint64_t limit : {600u, 3000u, 20000u}) {
    CAPTURE(limit);
    EncodeOptions options = Universal(75);
    options.max_bytes = limit;
    const Encoded encoded = Encode(original, options).value();
    CHECK(encoded.file.size() <= limit);
    CHECK(encoded.file.size() >= limit * 95 / 100);
  }
  EncodeOptions impossible = Universal(75);
  impossible.max_bytes = 50;
  CHECK_FALSE(Encode(original, impossible).has_value());
}

TEST_CASE("k keeps only the first dimensions, and a share of the variance chooses k") {
  const Picture original = Scene({400, 300, 3, SampleType::kU8, ColorModel::kRgb, false});
  std::size_t last_size = 0;
  double last_psnr = 0;
  for (const std::uint32_t k : {3u, 10u, 40u, 0u}) {
    CAPTURE(k);
    EncodeOptions options = Universal(90);
    options.k = k;
    const Encoded encoded = Encode(original, options).value();
    CHECK(encoded.statistics.k == (k == 0 ? 192 : k));
    const double psnr = quality::Psnr(original, Decode(encoded.file)).value();
    CHECK(encoded.file.size() > last_size);
    CHECK(psnr > last_psnr);
    last_size = encoded.file.size();
    last_psnr = psnr;
  }
  EncodeOptions options = Universal(90);
  options.variance = 0.9;
  const std::uint32_t at_90 = Encode(original, options).value().statistics.k;
  options.variance = 0.9999;
  const std::uint32_t at_9999 = Encode(original, options).value().statistics.k;
  CHECK(at_90 >= 3);
  CHECK(at_90 < at_9999);
  CHECK(at_9999 < 192);
}

TEST_CASE("a picture's own basis is stored in the file, a given one only when asked") {
  const Picture original = Scene({200, 160, 5, SampleType::kU8, ColorModel::kGeneric, false});
  EncodeOptions options;
  options.basis_choice = BasisChoice::kOwn;
  const Encoded own = Encode(original, options).value();
  CHECK(own.statistics.basis_bytes > 0);
  CHECK(quality::Psnr(original, Decode(own.file)).value() > 30);

  const AssetReader reader = OpenFile(own.file);
  options.basis_choice = BasisChoice::kGiven;
  options.basis = ResolverOf(reader)(reader.header().bases[0]);
  const std::vector<std::uint8_t> without = Encode(original, options).value().file;
  CHECK(without.size() < own.file.size());
  const AssetReader bare = OpenFile(without);
  CHECK(bare.EmbeddedBasis(bare.header().bases[0]) == nullptr);
  const auto unknown = Decoder::Create(bare.header(), ResolverOf(bare));
  REQUIRE_FALSE(unknown.has_value());
  CHECK(unknown.error().code == Code::kNotFound);
  CHECK(Decoder::Create(bare.header(), ResolverOf(reader)).has_value());
}

TEST_CASE("encoding can be cancelled and refuses options that make no sense") {
  const Picture original = Scene({300, 300, 1, SampleType::kU8, ColorModel::kGray, false});
  EncodeOptions options;
  double last = 0;
  options.progress = [&last](double fraction) {
    CHECK(fraction >= last);
    last = fraction;
    return fraction < 0.5;
  };
  const auto cancelled = Encode(original, options);
  REQUIRE_FALSE(cancelled.has_value());
  CHECK(cancelled.error().code == Code::kCancelled);

  options = {};
  options.quality = 101;
  CHECK_FALSE(Encode(original, options).has_value());
  options = {};
  options.variance = 1.5;
  CHECK_FALSE(Encode(original, options).has_value());
  options = {};
  options.basis_choice = BasisChoice::kGiven;
  CHECK_FALSE(Encode(original, options).has_value());
}

TEST_CASE("chunks outside the asset are refused, and damaged ones decode to something") {
  const Picture original = Scene({300, 200, 3, SampleType::kU8, ColorModel::kRgb, false});
  const std::vector<std::uint8_t> file = Encode(original, Universal(70)).value().file;
  const AssetReader reader = OpenFile(file);
  Decoder decoder = Decoder::Create(reader.header(), ResolverOf(reader)).value();
  const std::vector<std::uint8_t> some = {4, 1, 2, 3};
  CHECK_FALSE(decoder.AddChunk({0, 200, 0}, some).has_value());
  CHECK_FALSE(decoder.AddChunk({63, 0, 0}, some).has_value());
  CHECK_FALSE(decoder.AddChunk({0, 0, 100}, some).has_value());
  CHECK_FALSE(decoder.AddChunk({0, 0, 0}, {}).has_value());

  std::mt19937 random(4);
  for (int round = 0; round < 20; ++round) {
    Decoder damaged = Decoder::Create(reader.header(), ResolverOf(reader)).value();
    for (const container::ChunkInfo& chunk : reader.chunks()) {
      std::vector<std::uint8_t> bytes = reader.ReadChunk(chunk).value();
      if (random() % 4 == 0) bytes[random() % bytes.size()] ^= static_cast<std::uint8_t>(1u << random() % 8);
      (void)damaged.AddChunk(chunk.id, bytes);
    }
    CHECK(render::Render(damaged, {}).has_value());
  }
}

}  // namespace
}  // namespace holo::codec
