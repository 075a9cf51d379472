#include "common/basis/basis.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "common/basis/train.h"
#include "common/bytes/bytes.h"

namespace holo::basis {
namespace {

pixels::Picture NoisePicture(std::uint32_t channels, pixels::ColorModel model) {
  pixels::Picture picture = pixels::Picture::Create({61, 43, channels, pixels::SampleType::kU8, model, false}).value();
  std::mt19937 random(1);
  for (std::uint8_t& byte : picture.bytes()) byte = static_cast<std::uint8_t>(random());
  return picture;
}

void CheckOrthonormal(const Rows& rows, std::uint32_t channels) {
  const std::size_t d = rows.dimension;
  double worst = 0;
  for (std::size_t i = 0; i < rows.count; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (std::size_t n = 0; n < d; ++n) dot += double{rows.values[i * d + n]} * rows.values[j * d + n];
      worst = std::max(worst, std::abs(dot - (i == j ? 1.0 : 0.0)));
    }
    for (std::size_t c = 0; c < channels; ++c) {
      double mean = 0;
      for (std::size_t n = 0; n < d / channels; ++n) mean += rows.values[i * d + c * (d / channels) + n];
      worst = std::max(worst, std::abs(mean));
    }
  }
  // Sums of d products of values below 1, each rounded to float.
  CHECK(worst < 1e-7 * static_cast<double>(d));
}

TEST_CASE("the built-in bases are complete, orthonormal and found by their hash") {
  CHECK(BuiltIns().size() == 4);
  for (const auto& basis : BuiltIns()) {
    CHECK(basis->channels() == 1);
    CHECK(basis->RowsFor(8).count == 63);
    CHECK(basis->RowsFor(4).count == 15);
    CheckOrthonormal(basis->RowsFor(8), 1);
    CheckOrthonormal(basis->RowsFor(4), 1);
    CHECK(FindBuiltIn(basis->hash()) == basis);
    CHECK(HashOf(basis->bytes()) == basis->hash());
  }
  CHECK(FindBuiltIn(Hash{}) == nullptr);
}

// Files name them so. Those for drawings are computed: in the exact value of each of their numbers, a difference of 10^7
// units in the last place of a double would be needed for another float.
TEST_CASE("the built-in bases are the same on every machine") {
  const auto name = [](const std::shared_ptr<const Basis>& basis) { return bytes::ToHex(basis->hash()).substr(0, 16); };
  CHECK(name(BuiltInLuma()) == "5ac07b75a110b7e9");
  CHECK(name(BuiltInChroma()) == "5c8d8fbe7c5dcfee");
  CHECK(name(BuiltInDrawingLuma()) == "0a8d08d7e9d872f9");
  CHECK(name(BuiltInDrawingChroma()) == "ad0f756a39db8ead");
}

TEST_CASE("a basis is trained for one channel or for several together") {
  struct Row {
    const char* name;
    TrainingPlanes planes;
    std::uint32_t group;
    std::uint32_t channels;
    pixels::ColorModel model;
  };
  const Row rows[] = {
      {"grey", TrainingPlanes::kLuma, 1, 1, pixels::ColorModel::kGray},
      {"luma of RGB", TrainingPlanes::kLuma, 1, 3, pixels::ColorModel::kRgb},
      {"chroma of RGB", TrainingPlanes::kChroma, 1, 3, pixels::ColorModel::kRgb},
      {"five channels together", TrainingPlanes::kJoint, 5, 5, pixels::ColorModel::kGeneric},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Trainer trainer = Trainer::Create(row.planes, row.group).value();
    CHECK_FALSE(trainer.Finish("empty").has_value());
    CHECK(trainer.AddPicture(NoisePicture(row.channels, row.model)).has_value());
    const auto basis = trainer.Finish(row.name).value();
    CHECK(basis->channels() == row.group);
    CHECK(basis->description() == row.name);
    CheckOrthonormal(basis->RowsFor(8), row.group);
    CheckOrthonormal(basis->RowsFor(4), row.group);
    const auto again = Basis::Parse(basis->bytes()).value();
    CHECK(again->hash() == basis->hash());
  }
  Trainer trainer = Trainer::Create(TrainingPlanes::kJoint, 4).value();
  CHECK_FALSE(trainer.AddPicture(NoisePicture(5, pixels::ColorModel::kGeneric)).has_value());
  CHECK_FALSE(Trainer::Create(TrainingPlanes::kLuma, 2).has_value());
}

TEST_CASE("a damaged basis is refused: every prefix, trailing bytes, wrong version, rows that are not orthonormal") {
  const std::vector<std::uint8_t> good = BuiltInLuma()->bytes();
  for (std::size_t size = 0; size < good.size(); size += 97) {
    CAPTURE(size);
    const std::vector<std::uint8_t> prefix(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(Basis::Parse(prefix).has_value());
  }
  std::vector<std::uint8_t> bad = good;
  bad.push_back(0);
  CHECK_FALSE(Basis::Parse(bad).has_value());
  bad = good;
  bad[4] = 9;
  const auto version = Basis::Parse(bad);
  REQUIRE_FALSE(version.has_value());
  CHECK(version.error().code == Code::kUnimplemented);
  bad = good;
  bad[bad.size() - 1] = static_cast<std::uint8_t>(bad[bad.size() - 1] ^ 0x40);
  CHECK_FALSE(Basis::Parse(bad).has_value());
  bad = good;
  bad[0] = 'X';
  CHECK_FALSE(Basis::Parse(bad).has_value());
}

}  // namespace
}  // namespace holo::basis
