#include "common/pixels/pixels.h"

#include <doctest/doctest.h>

namespace holo::pixels {
namespace {

TEST_CASE("layouts outside the limits are refused by name") {
  struct Row {
    const char* name;
    Layout layout;
    bool valid;
  };
  const Row rows[] = {
      {"one grey pixel", {1, 1, 1, SampleType::kU8, ColorModel::kGray, false}, true},
      {"eight channels of 16 bits", {3, 5, 8, SampleType::kU16, ColorModel::kGeneric, false}, true},
      {"RGB with alpha", {3, 5, 4, SampleType::kU8, ColorModel::kRgb, true}, true},
      {"no width", {0, 1, 1, SampleType::kU8, ColorModel::kGray, false}, false},
      {"too many pixels", {1u << 20, 1u << 20, 1, SampleType::kU8, ColorModel::kGray, false}, false},
      {"RGB of four channels without alpha", {3, 5, 4, SampleType::kU8, ColorModel::kRgb, false}, false},
      {"alpha alone", {3, 5, 1, SampleType::kU8, ColorModel::kGeneric, true}, false},
      {"too many channels", {3, 5, 33, SampleType::kU8, ColorModel::kGeneric, false}, false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    CHECK(Validate(row.layout).has_value() == row.valid);
  }
}

TEST_CASE("samples of both types are kept where they were put") {
  for (const SampleType type : {SampleType::kU8, SampleType::kU16}) {
    Picture picture = Picture::Create({4, 3, 2, type, ColorModel::kGray, true}).value();
    picture.Set(3, 2, 1, 200);
    picture.Set(0, 1, 0, 7);
    CHECK(picture.At(3, 2, 1) == 200);
    CHECK(picture.At(0, 1, 0) == 7);
    CHECK(picture.At(0, 0, 0) == 0);
    const Picture crop = picture.Crop({2, 1, 2, 2}).value();
    CHECK(crop.At(1, 1, 1) == 200);
    CHECK_FALSE(picture.Crop({2, 1, 3, 1}).has_value());
    CHECK_FALSE(picture.Crop({2, 1, 0, 1}).has_value());
  }
}

TEST_CASE("rectangles meet and join") {
  CHECK(Intersect({0, 0, 10, 10}, {5, 5, 10, 10}) == Rect{5, 5, 5, 5});
  CHECK(Intersect({0, 0, 5, 5}, {5, 0, 5, 5}).empty());
  CHECK(Union({0, 0, 5, 5}, {7, 1, 2, 10}) == Rect{0, 0, 9, 11});
  CHECK(Union({}, {7, 1, 2, 10}) == Rect{7, 1, 2, 10});
}

}  // namespace
}  // namespace holo::pixels
