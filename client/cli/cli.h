// What the subcommands of `holo` share. Private to the program.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "common/codec/codec.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::cli {

// Options that every subcommand has.
struct Globals {
  bool quiet = false;
  bool json = false;
};

// What main() runs once the command line is parsed: set by the subcommand that was named.
using Action = std::function<Result<void>()>;

// Each adds one subcommand. `globals` and `action` outlive parsing and running.
void AddCompress(CLI::App& app, const Globals& globals, Action& action);
void AddInfo(CLI::App& app, const Globals& globals, Action& action);
void AddRender(CLI::App& app, const Globals& globals, Action& action);
void AddView(CLI::App& app, const Globals& globals, Action& action);
void AddDf(CLI::App& app, const Globals& globals, Action& action);
void AddBasis(CLI::App& app, const Globals& globals, Action& action);
void AddFetch(CLI::App& app, const Globals& globals, Action& action);
void AddWatch(CLI::App& app, const Globals& globals, Action& action);
void AddChat(CLI::App& app, const Globals& globals, Action& action);
void AddLm(CLI::App& app, const Globals& globals, Action& action);

// From the first Ctrl-C (or SIGTERM) on, Interrupted() is true and long work ends at its next step; a second one kills.
void InstallInterruptHandler();
[[nodiscard]] bool Interrupted();

// A line on standard error for work that lasts longer than a second, if that is a terminal and -q was not given. It is
// gone when the object is.
class ProgressBar {
 public:
  ProgressBar(std::string label, const Globals& globals);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  // `fraction` is 0..1. False once the user has interrupted: the form that the libraries' progress callbacks want.
  bool Update(double fraction);

 private:
  std::string label_;
  bool enabled_;
  bool visible_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

// Text unless -q, or the object with --json, on standard output.
void Print(const Globals& globals, const std::string& text, const nlohmann::json& json);

// "1,234,567".
[[nodiscard]] std::string Grouped(std::uint64_t value);
[[nodiscard]] std::string Fixed(double value, int decimals);
// A number, or null in JSON where it is none.
[[nodiscard]] nlohmann::json Finite(double value);

// "x,y,w,h" in pixels. kInvalidArgument for anything else.
[[nodiscard]] Result<pixels::Rect> ParseRegion(const std::string& text);
// "1/4", "0.3", "2" or "2x"; positive, at most 64.
[[nodiscard]] Result<double> ParseScale(const std::string& text);
// "20000", "20k", "1.5M", "2G" (powers of 1000).
[[nodiscard]] Result<std::uint64_t> ParseBytes(const std::string& text);
// "1000" to a CLI::Option's validator: an error text, or empty.
[[nodiscard]] CLI::Validator Parses(std::function<Result<void>(const std::string&)> parse, std::string description);
[[nodiscard]] CLI::Validator IsRegion();
[[nodiscard]] CLI::Validator IsScale();
[[nodiscard]] CLI::Validator IsBytes();
// Unlike CLI::Range it lets no NaN pass.
[[nodiscard]] CLI::Validator IsNumber(double low, double high);

// Before the work, not after it: kAlreadyExists unless `force`, if there is a file of that name; kNotFound if there is
// no folder for it.
[[nodiscard]] Result<void> CheckOutput(const std::filesystem::path& path, bool force);

// What of a picture is shown, and how large.
struct Display {
  pixels::Rect region;  // empty: all
  double scale = 1;
  std::uint32_t k = 0;
  bool smooth = true;  // see render::View
};
// The power of two to render at: the nearest one that is as fine as `scale` or finer.
[[nodiscard]] std::uint32_t ScaleLog2(double scale);
// Renders at that power of two and resamples what is left.
[[nodiscard]] Result<pixels::Picture> RenderDisplay(const codec::Decoder& decoder, const Display& display);
// Resamples `picture`, of which `source` (in its own pixels, fractions allowed) becomes width x height pixels: a
// triangle filter, widened when shrinking.
struct SourceRect {
  double x = 0, y = 0, width = 0, height = 0;
};
[[nodiscard]] Result<pixels::Picture> Resample(const pixels::Picture& picture, const SourceRect& source,
                                               std::uint32_t width, std::uint32_t height);

}  // namespace holo::cli
