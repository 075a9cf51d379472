#include "common/spectrum/spectrum.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>

#include "common/bytes/bytes.h"

namespace holo::spectrum {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes ToBytes(std::string_view text) {
  return {text.begin(), text.end()};
}

Matrix MakeMatrix(std::uint64_t columns, std::vector<float> values) {
  return {values.size() / columns, columns, std::move(values)};
}

// What numpy.save writes for that dictionary and data.
Bytes Npy(const std::string& type, const std::string& shape, const Bytes& data, const std::string& fortran = "False") {
  const std::string header = "{'descr': '" + type + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
  bytes::ByteWriter writer;
  writer.WriteSpan(ToBytes("\x93NUMPY"));
  writer.WriteU8(1);
  writer.WriteU8(0);
  writer.WriteU16(static_cast<std::uint16_t>(header.size()));
  writer.WriteSpan(ToBytes(header));
  writer.WriteSpan(data);
  return writer.Take();
}

TEST_CASE("equal variance in every direction has the full rank") {
  // The corners of an octahedron: mean 0, covariance a multiple of the identity.
  constexpr std::uint32_t kDimension = 5;
  Matrix matrix;
  matrix.columns = kDimension;
  for (std::uint32_t i = 0; i < kDimension; ++i) {
    for (const float sign : {-3.0f, 3.0f}) {
      std::vector<float> row(kDimension);
      row[i] = sign;
      matrix.values.insert(matrix.values.end(), row.begin(), row.end());
      ++matrix.rows;
    }
  }
  const Spectrum spectrum = OfMatrix(matrix).value();
  CHECK(spectrum.EffectiveRank() == doctest::Approx(5).epsilon(1e-12));
  CHECK(spectrum.ShannonRank() == doctest::Approx(5).epsilon(1e-12));
  CHECK(spectrum.eigenvalues[0] == doctest::Approx(9.0 / 5));
  CHECK(spectrum.VarianceAt(2) == doctest::Approx(0.4));
  CHECK(spectrum.VarianceAt(99) == doctest::Approx(1));
  CHECK(spectrum.SmallestK(0.4) == 2);
  CHECK(spectrum.SmallestK(0.41) == 3);
  CHECK(spectrum.SmallestK(1) == 5);
}

TEST_CASE("samples on a line have rank one, wherever the line is") {
  const Spectrum spectrum =
      OfMatrix(MakeMatrix(3, {1e6f, 0, 7, 1e6f + 1, 2, 4, 1e6f + 2, 4, 1, 1e6f + 5, 10, -8})).value();
  CHECK(spectrum.EffectiveRank() == doctest::Approx(1).epsilon(1e-9));
  CHECK(spectrum.ShannonRank() == doctest::Approx(1).epsilon(1e-6));
  CHECK(spectrum.SmallestK(0.999) == 1);
}

TEST_CASE("two known variances give the two known ranks") {
  // Eigenvalues 3 and 1 (times 1/2): Df = 16/10; Shannon = exp(H(3/4, 1/4)) = 4 / 3^(3/4).
  const float a = std::sqrt(3.0f);
  const Spectrum spectrum = OfMatrix(MakeMatrix(2, {a, 0, -a, 0, 0, 1, 0, -1})).value();
  CHECK(spectrum.EffectiveRank() == doctest::Approx(1.6).epsilon(1e-6));
  CHECK(spectrum.ShannonRank() == doctest::Approx(4 / std::pow(3.0, 0.75)).epsilon(1e-6));
}

TEST_CASE("samples that never vary have rank zero and lose nothing at any k") {
  const Spectrum spectrum = OfMatrix(MakeMatrix(2, {4, 5, 4, 5, 4, 5})).value();
  CHECK(spectrum.EffectiveRank() == 0);
  CHECK(spectrum.ShannonRank() == 0);
  CHECK(spectrum.VarianceAt(0) == 1);
  CHECK(spectrum.SmallestK(0.99) == 1);
}

TEST_CASE("eigenvectors are orthonormal and reproduce the covariance") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  constexpr std::uint32_t kDimension = 6;
  Covariance covariance = Covariance::Create(kDimension).value();
  for (int i = 0; i < 1000; ++i) {  // several blocks and a part of one
    std::vector<float> row(kDimension);
    for (std::uint32_t j = 0; j < kDimension; ++j) row[j] = normal(random) * static_cast<float>(j + 1) + row[j / 2];
    covariance.Add(row);
  }
  const std::vector<double> matrix = covariance.Matrix();
  const Spectrum spectrum = Decompose(covariance, true).value();
  CHECK(spectrum.samples == 1000);
  for (std::uint32_t i = 0; i < kDimension; ++i) {
    for (std::uint32_t j = 0; j < kDimension; ++j) {
      double dot = 0;
      double rebuilt = 0;
      for (std::uint32_t n = 0; n < kDimension; ++n) {
        dot += spectrum.vectors[i * kDimension + n] * spectrum.vectors[j * kDimension + n];
        rebuilt +=
            spectrum.eigenvalues[n] * spectrum.vectors[n * kDimension + i] * spectrum.vectors[n * kDimension + j];
      }
      CHECK(dot == doctest::Approx(i == j ? 1 : 0).epsilon(1e-12));
      CHECK(rebuilt == doctest::Approx(matrix[i * kDimension + j]).epsilon(1e-9));
    }
  }
}

TEST_CASE("whole blocks of samples leave nothing pending") {
  Covariance covariance = Covariance::Create(1).value();
  for (int i = 0; i < 256; ++i) covariance.Add(std::vector<float>{i % 2 == 0 ? -1.0f : 1.0f});
  CHECK(Decompose(covariance, false).value().eigenvalues[0] == doctest::Approx(1));
}

TEST_CASE("patches repeat the last samples beyond the edges") {
  pixels::Layout layout;
  layout.width = 9;
  layout.height = 2;
  layout.channels = 2;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  for (std::uint32_t x = 0; x < 9; ++x) {
    for (std::uint32_t y = 0; y < 2; ++y) {
      for (std::uint32_t c = 0; c < 2; ++c) picture.Set(x, y, c, static_cast<std::uint16_t>(100 * c + 10 * y + x));
    }
  }
  std::vector<float> patch(128);
  ReadPatch(picture, 0, 0, patch);
  CHECK(patch[3] == 3);
  CHECK(patch[8 + 3] == 13);
  CHECK(patch[7 * 8 + 3] == 13);
  CHECK(patch[64 + 3] == 103);
  ReadPatch(picture, 1, 0, patch);
  CHECK(patch[0] == 8);
  CHECK(patch[7] == 8);
  CHECK(OfPicture(picture, false).value().samples == 2);
}

TEST_CASE("cancelling ends the work") {
  pixels::Layout layout;
  layout.width = layout.height = 64;
  layout.channels = 1;
  const pixels::Picture picture = pixels::Picture::Create(layout).value();
  const auto cancelled = OfPicture(picture, false, [](double done) { return done < 0.5; });
  CHECK(cancelled.error().code == Code::kCancelled);
}

TEST_CASE("NumPy arrays of any numeric type are read") {
  struct Row {
    std::string type;
    Bytes data;  // 1, 2, 3, 4 (as the type has it)
  };
  const Row rows[] = {
      {"|u1", {1, 2, 3, 4}},
      {"|i1", {1, 2, 3, 4}},
      {"<i2", {1, 0, 2, 0, 3, 0, 4, 0}},
      {">u2", {0, 1, 0, 2, 0, 3, 0, 4}},
      {"<f2", {0, 0x3C, 0, 0x40, 0, 0x42, 0, 0x44}},
      {">f4", {0x3F, 0x80, 0, 0, 0x40, 0, 0, 0, 0x40, 0x40, 0, 0, 0x40, 0x80, 0, 0}},
      {"<i8", {1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.type);
    const auto matrix = ParseNpy(Npy(row.type, "(2, 2)", row.data), "a.npy");
    CHECK_MESSAGE(matrix.has_value(), (matrix ? "" : matrix.error().message));
    if (matrix) CHECK(matrix->values == std::vector<float>{1, 2, 3, 4});
  }
  CHECK(ParseNpy(Npy("|i1", "(1, 2)", {0xFF, 0x80}), "a").value().values == std::vector<float>{-1, -128});
  CHECK(ParseNpy(Npy("|u1", "(2, 2)", {1, 2, 3, 4}, "True"), "a").value().values == std::vector<float>{1, 3, 2, 4});
  const Matrix flat = ParseNpy(Npy("|u1", "(2, 1, 2)", {1, 2, 3, 4}), "a").value();
  CHECK(flat.rows == 2);
  CHECK(flat.columns == 2);
}

TEST_CASE("damaged and foreign NumPy files are refused") {
  const Bytes good = Npy("<f4", "(1, 2)", {0, 0, 0x80, 0x3F, 0, 0, 0, 0x40});
  REQUIRE(ParseNpy(good, "a").has_value());
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    const Bytes prefix(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(ParseNpy(prefix, "a").has_value());
  }
  Bytes longer = good;
  longer.push_back(0);
  CHECK_FALSE(ParseNpy(longer, "a").has_value());
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    Bytes damaged = good;
    damaged[random() % damaged.size()] = static_cast<std::uint8_t>(random());
    static_cast<void>(ParseNpy(damaged, "a"));
  }
  CHECK_FALSE(ParseNpy(Npy("<c8", "(1, 1)", Bytes(8)), "a").has_value());
  CHECK_FALSE(ParseNpy(Npy("|u1", "(4,)", Bytes(4)), "a").has_value());
  CHECK_FALSE(ParseNpy(Npy("|u1", "(4294967296, 4294967296)", Bytes(4)), "a").has_value());
  CHECK_FALSE(ParseNpy(Npy("|u1", "(0, 4)", {}), "a").has_value());
  CHECK_FALSE(ParseNpy(Npy("<f4", "(1, 1)", {0, 0, 0xC0, 0x7F}), "a").has_value());
}

TEST_CASE("tables of numbers are read with a heading, comments and any separator") {
  const Matrix matrix = ParseCsv(ToBytes("a,b\r\n1,2\r\n# note\n3;4.5e0\n\n-5\t+6 # six\n"), "a.csv").value();
  CHECK(matrix.rows == 3);
  CHECK(matrix.values == std::vector<float>{1, 2, 3, 4.5f, -5, 6});
  const auto ragged = ParseCsv(ToBytes("1,2\n3\n"), "a.csv");
  CHECK(ragged.error().message == "a.csv: line 2: expected 2 numbers, found 1");
  CHECK_FALSE(ParseCsv(ToBytes("1,2\nx,y\n"), "a.csv").has_value());
  CHECK_FALSE(ParseCsv(ToBytes("1,nan\n1,inf\n"), "a.csv").has_value());
  CHECK_FALSE(ParseCsv({}, "a.csv").has_value());
}

}  // namespace
}  // namespace holo::spectrum
