#include "client/cli/cli.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <iostream>

#include "common/render/render.h"

namespace holo::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void OnSignal(int number) {
  interrupted = 1;
  std::signal(number, SIG_DFL);
}

// The whole of `text` as a finite number.
Result<double> ParseNumber(std::string_view text, std::string_view what) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return Fail(Code::kInvalidArgument, std::string(what) + ": expected a number, found \"" + std::string(text) + "\"");
  }
  return value;
}

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

// The weights with which source samples make one output sample.
struct Tap {
  std::uint32_t first = 0;
  std::vector<float> weights;
};

std::vector<Tap> MakeTaps(double from, double length, std::uint32_t source_size, std::uint32_t out_size) {
  std::vector<Tap> taps(out_size);
  const double step = length / out_size;
  const double radius = std::max(1.0, step);
  for (std::uint32_t i = 0; i < out_size; ++i) {
    const double centre = from + (i + 0.5) * step;
    const double last_index = source_size - 1.0;
    const double low = std::clamp(std::floor(centre - radius), 0.0, last_index);
    const double high = std::clamp(std::ceil(centre + radius), 0.0, last_index);
    taps[i].first = static_cast<std::uint32_t>(low);
    double sum = 0;
    for (double s = low; s <= high; ++s) {
      const double weight = std::max(0.0, 1 - std::abs(s + 0.5 - centre) / radius);
      taps[i].weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    if (sum <= 0) {
      taps[i].weights.assign(1, 1.0f);
      sum = 1;
    }
    for (float& weight : taps[i].weights) weight = static_cast<float>(weight / sum);
  }
  return taps;
}

}  // namespace

void InstallInterruptHandler() {
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
  std::signal(SIGPIPE, SIG_IGN);
}

bool Interrupted() {
  return interrupted != 0;
}

ProgressBar::ProgressBar(std::string label, const Globals& globals)
    : label_(std::move(label)),
      enabled_(!globals.quiet && ::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  if (visible_) std::cerr << "\r\x1b[K" << std::flush;
}

bool ProgressBar::Update(double fraction) {
  const auto now = std::chrono::steady_clock::now();
  if (enabled_ && now - start_ > std::chrono::seconds(1) && now - last_ > std::chrono::milliseconds(100)) {
    constexpr int kWidth = 40;
    const int filled = static_cast<int>(std::lround(std::clamp(fraction, 0.0, 1.0) * kWidth));
    std::string line(static_cast<std::size_t>(filled), '#');
    line.resize(kWidth, '.');
    std::cerr << "\r\x1b[K" << label_ << " [" << line << "] " << std::lround(fraction * 100) << " %" << std::flush;
    visible_ = true;
    last_ = now;
  }
  return !Interrupted();
}

void Print(const Globals& globals, const std::string& text, const nlohmann::json& json) {
  if (globals.json) {
    std::cout << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  } else if (!globals.quiet) {
    std::cout << text;
  }
  std::cout << std::flush;
}

std::string Grouped(std::uint64_t value) {
  std::string text = std::to_string(value);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

std::string Fixed(double value, int decimals) {
  if (std::isinf(value)) return value > 0 ? "infinite" : "-infinite";
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

nlohmann::json Finite(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

Result<pixels::Rect> ParseRegion(const std::string& text) {
  std::uint32_t parts[4] = {};
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (int i = 0; i < 4; ++i) {
    const auto [next, problem] = std::from_chars(at, end, parts[i]);
    const bool ends_well = i == 3 ? next == end : next != end && *next == ',';
    if (problem != std::errc() || !ends_well) {
      return Fail(Code::kInvalidArgument, "region: expected x,y,width,height in whole pixels, found \"" + text + "\"");
    }
    at = next + 1;
  }
  const pixels::Rect region{parts[0], parts[1], parts[2], parts[3]};
  if (region.empty()) return Fail(Code::kInvalidArgument, "region: expected a width and height of 1 or more");
  return region;
}

Result<double> ParseScale(const std::string& text) {
  std::string_view rest = text;
  if (rest.ends_with('x')) rest.remove_suffix(1);
  const std::size_t slash = rest.find('/');
  HOLO_ASSIGN_OR_RETURN(double scale, ParseNumber(rest.substr(0, slash), "scale"));
  if (slash != std::string_view::npos) {
    HOLO_ASSIGN_OR_RETURN(const double divisor, ParseNumber(rest.substr(slash + 1), "scale"));
    scale = divisor > 0 ? scale / divisor : 0;
  }
  constexpr double kLargest = 64;
  if (scale < 1e-6 || scale > kLargest) {
    return Fail(Code::kInvalidArgument,
                "scale: expected a number above 0 and at most 64, or a fraction, found \"" + text + "\"");
  }
  return scale;
}

Result<std::uint64_t> ParseBytes(const std::string& text) {
  std::string_view rest = text;
  double unit = 1;
  for (const auto& [suffix, value] : {std::pair('k', 1e3), {'K', 1e3}, {'M', 1e6}, {'G', 1e9}}) {
    if (rest.ends_with(suffix)) unit = value;
  }
  if (unit > 1) rest.remove_suffix(1);
  HOLO_ASSIGN_OR_RETURN(const double value, ParseNumber(rest, "bytes"));
  const double bytes = std::round(value * unit);
  if (bytes < 1 || bytes > 1e15) {
    return Fail(Code::kInvalidArgument, "bytes: expected a number of 1 or more, found \"" + text + "\"");
  }
  return static_cast<std::uint64_t>(bytes);
}

CLI::Validator Parses(std::function<Result<void>(const std::string&)> parse, std::string description) {
  return CLI::Validator(
      [parse = std::move(parse)](std::string& text) {
        const Result<void> parsed = parse(text);
        return parsed ? std::string() : parsed.error().message;
      },
      std::move(description));
}

CLI::Validator IsRegion() {
  return Parses([](const std::string& text) { return ParseRegion(text).map([](const auto&) {}); }, "X,Y,W,H");
}

CLI::Validator IsScale() {
  return Parses([](const std::string& text) { return ParseScale(text).map([](double) {}); }, "SCALE");
}

CLI::Validator IsBytes() {
  return Parses([](const std::string& text) { return ParseBytes(text).map([](std::uint64_t) {}); }, "BYTES");
}

CLI::Validator IsNumber(double low, double high) {
  const std::string range = "number from " + Short(low) + " to " + Short(high);
  return Parses(
      [low, high, range](const std::string& text) -> Result<void> {
        HOLO_ASSIGN_OR_RETURN(const double value, ParseNumber(text, "value"));
        if (value >= low && value <= high) return {};
        return Fail(Code::kInvalidArgument, "expected a " + range + ", found " + text);
      },
      range);
}

Result<void> CheckOutput(const std::filesystem::path& path, bool force) {
  std::error_code ignored;
  const std::filesystem::path folder = path.parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder, ignored)) {
    return Fail(Code::kNotFound, "write " + path.string() + ": there is no folder " + folder.string());
  }
  if (force || !std::filesystem::exists(path, ignored)) return {};
  return Fail(Code::kAlreadyExists, path.string() + ": this file exists; -f replaces it");
}

std::uint32_t ScaleLog2(double scale) {
  if (scale >= 1) return 0;
  const double exact = -std::log2(scale);
  const auto log2 = static_cast<std::uint32_t>(exact + 1e-9);
  return std::min(log2, render::kMaxScaleLog2);
}

Result<pixels::Picture> RenderDisplay(const codec::Decoder& decoder, const Display& display) {
  const pixels::Layout& layout = decoder.header().layout;
  render::View view;
  view.region = display.region.empty() ? pixels::Rect{0, 0, layout.width, layout.height} : display.region;
  view.scale_log2 = ScaleLog2(display.scale);
  view.k = display.k;
  view.smooth = display.smooth;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture rendered, render::Render(decoder, view));
  const double unit = std::ldexp(1.0, static_cast<int>(view.scale_log2));
  if (std::abs(display.scale * unit - 1) < 1e-6) return rendered;
  const auto size = [&](std::uint32_t length) {
    return static_cast<std::uint32_t>(
        std::clamp(std::round(length * display.scale), 1.0, double{pixels::kMaxDimension}));
  };
  const render::OutputRect rect = render::OutputRectOf(view);
  const SourceRect source{view.region.x / unit - rect.x, view.region.y / unit - rect.y, view.region.width / unit,
                          view.region.height / unit};
  return Resample(rendered, source, size(view.region.width), size(view.region.height));
}

Result<pixels::Picture> Resample(const pixels::Picture& picture, const SourceRect& source, std::uint32_t width,
                                 std::uint32_t height) {
  pixels::Layout layout = picture.layout();
  layout.width = width;
  layout.height = height;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture out, pixels::Picture::Create(layout));
  out.metadata() = picture.metadata();
  const std::vector<Tap> columns = MakeTaps(source.x, source.width, picture.width(), width);
  const std::vector<Tap> rows = MakeTaps(source.y, source.height, picture.height(), height);
  const std::uint32_t channels = layout.channels;
  const bool is_8_bit = layout.sample_type == pixels::SampleType::kU8;
  const float max = pixels::MaxSample(layout.sample_type);
  std::vector<float> mixed(std::size_t{picture.width()} * channels);
  for (std::uint32_t y = 0; y < height; ++y) {
    std::fill(mixed.begin(), mixed.end(), 0.0f);
    for (std::size_t i = 0; i < rows[y].weights.size(); ++i) {
      const auto source_y = static_cast<std::uint32_t>(rows[y].first + i);
      const float weight = rows[y].weights[i];
      for (std::size_t x = 0; x < mixed.size(); ++x) {
        mixed[x] += weight * (is_8_bit ? picture.RowU8(source_y)[x] : picture.RowU16(source_y)[x]);
      }
    }
    for (std::uint32_t x = 0; x < width; ++x) {
      for (std::uint32_t c = 0; c < channels; ++c) {
        float value = 0;
        for (std::size_t i = 0; i < columns[x].weights.size(); ++i) {
          value += columns[x].weights[i] * mixed[(columns[x].first + i) * channels + c];
        }
        out.Set(x, y, c, static_cast<std::uint16_t>(std::clamp(value, 0.0f, max) + 0.5f));
      }
    }
  }
  return out;
}

}  // namespace holo::cli
