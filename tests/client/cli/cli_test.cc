#include "client/cli/cli.h"

#include <doctest/doctest.h>

#include <string>

#include "client/cli/plot.h"
#include "client/cli/viewport.h"

namespace holo::cli {
namespace {

TEST_CASE("regions are four whole numbers") {
  CHECK(ParseRegion("1,2,3,4").value() == pixels::Rect{1, 2, 3, 4});
  for (const std::string text :
       {"", "1,2,3", "1,2,3,4,5", "1,2,0,4", "-1,2,3,4", "1.5,2,3,4", "1,2,3,4x", "1,,3,4", "99999999999,0,1,1"}) {
    CAPTURE(text);
    CHECK(ParseRegion(text).error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("scales are fractions, numbers and factors") {
  CHECK(ParseScale("1/4").value() == 0.25);
  CHECK(ParseScale("0.3").value() == 0.3);
  CHECK(ParseScale("2x").value() == 2);
  CHECK(ParseScale("1").value() == 1);
  for (const std::string text : {"", "0", "-1", "1/0", "1/", "x", "65", "nan", "inf", "1/2/3"}) {
    CAPTURE(text);
    CHECK(ParseScale(text).error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("bytes may have a unit") {
  CHECK(ParseBytes("20000").value() == 20'000);
  CHECK(ParseBytes("20k").value() == 20'000);
  CHECK(ParseBytes("1.5M").value() == 1'500'000);
  for (const std::string text : {"", "0", "-5", "k", "1e99", "5 k"}) {
    CAPTURE(text);
    CHECK(ParseBytes(text).error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("a scale is rendered at the nearest finer power of two") {
  CHECK(ScaleLog2(2) == 0);
  CHECK(ScaleLog2(1) == 0);
  CHECK(ScaleLog2(0.6) == 0);
  CHECK(ScaleLog2(0.5) == 1);
  CHECK(ScaleLog2(0.3) == 1);
  CHECK(ScaleLog2(0.25) == 2);
  CHECK(ScaleLog2(1.0 / 64) == 6);
}

TEST_CASE("resampling keeps flat pictures flat and reverses at the same size") {
  pixels::Layout layout;
  layout.width = 7;
  layout.height = 5;
  layout.channels = 2;
  layout.sample_type = pixels::SampleType::kU16;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  for (std::uint32_t y = 0; y < 5; ++y) {
    for (std::uint32_t x = 0; x < 7; ++x) {
      picture.Set(x, y, 0, 40'000);
      picture.Set(x, y, 1, static_cast<std::uint16_t>(1000 * x + y));
    }
  }
  const SourceRect all{0, 0, 7, 5};
  const pixels::Picture same = Resample(picture, all, 7, 5).value();
  CHECK(std::ranges::equal(same.bytes(), picture.bytes()));
  for (const std::uint32_t size : {1u, 3u, 20u}) {
    CAPTURE(size);
    const pixels::Picture other = Resample(picture, all, size, size).value();
    CHECK(other.width() == size);
    for (std::uint32_t i = 0; i < size; ++i) CHECK(std::abs(other.At(i, size - 1, 0) - 40'000) <= 1);
  }
}

TEST_CASE("a viewport keeps the point under the mouse and stays on the picture") {
  Viewport viewport(4000, 2000, 1000, 600);
  CHECK(viewport.zoom() == 0.25);
  CHECK(viewport.Region() == pixels::Rect{0, 0, 4000, 2000});
  viewport.ZoomAt(500, 300, 4);
  CHECK(viewport.zoom() == 1);
  CHECK(viewport.Region() == pixels::Rect{1500, 700, 1000, 600});
  viewport.Pan(-100, 50);
  CHECK(viewport.Region() == pixels::Rect{1600, 650, 1000, 600});
  viewport.Pan(1e9, -1e9);
  CHECK(viewport.Region() == pixels::Rect{0, 1400, 1000, 600});
  viewport.ZoomAt(0, 0, 1e9);
  CHECK(viewport.zoom() == 32);
  viewport.ZoomAt(0, 0, 1e-9);
  CHECK(viewport.Region() == pixels::Rect{0, 0, 4000, 2000});
  const Viewport tiny(1, 1, 160, 160);
  CHECK(tiny.Region() == pixels::Rect{0, 0, 1, 1});
}

TEST_CASE("numbers are grouped for people") {
  CHECK(Grouped(0) == "0");
  CHECK(Grouped(999) == "999");
  CHECK(Grouped(1234567) == "1,234,567");
}

TEST_CASE("a plot names its axes, both ranks and its title, escaped") {
  spectrum::Spectrum spectrum;
  spectrum.eigenvalues = {3, 1, 0};
  const std::string svg = PlotSvg(spectrum, "a<b & c");
  for (const std::string text :
       {"a&lt;b &amp; c", "dimensions kept (k)", "variance captured at k", "Df 1.60", "Shannon rank 1.75", "</svg>"}) {
    CAPTURE(text);
    CHECK(svg.find(text) != std::string::npos);
  }
  CHECK(SavePlot("plot.bmp", spectrum, "").error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace holo::cli
