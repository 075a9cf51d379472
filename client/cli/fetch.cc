// holo fetch: the thin client without a window.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>

#include "client/cli/cli.h"
#include "client/cli/stop.h"
#include "client/core/client.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"

namespace holo::cli {
namespace {

using Clock = client::Clock;

struct Options {
  std::string url;
  std::string name;
  std::string output;
  std::string region;
  std::string scale = "1";
  std::uint32_t k = 0;
  std::string max_bytes;
  std::string save_steps;
  double quality_target_db = 0;
  double timeout_s = 0;
  std::string token;
  std::string rate;
  bool no_cache = false;
};

// Writes the picture so far, whenever a tenth more bytes have come or all of them.
class StepWriter {
 public:
  static Result<StepWriter> Create(const std::string& folder) {
    if (!folder.empty()) HOLO_RETURN_IF_ERROR(files::MakeDirectories(folder));
    return StepWriter(folder);
  }

  Result<void> Add(const client::RemotePicture& remote, const Display& display, bool last) {
    const std::uint64_t bytes = remote.statistics().payload_bytes;
    if (folder_.empty() || (!last && bytes < next_bytes_)) return {};
    next_bytes_ = bytes + bytes / 10 + 1;
    char name[64];
    std::snprintf(name, sizeof(name), "step-%04u-%010llu.png", ++count_, static_cast<unsigned long long>(bytes));
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, RenderDisplay(remote.decoder(), display));
    return image_io::Save(folder_ / name, picture);
  }

  [[nodiscard]] unsigned count() const { return count_; }

 private:
  explicit StepWriter(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::filesystem::path folder_;
  std::uint64_t next_bytes_ = 0;
  unsigned count_ = 0;
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Result<void> Fetch(const Options& options, const Globals& globals) {
  if (!options.output.empty()) {
    HOLO_RETURN_IF_ERROR(image_io::CheckSaveName(options.output));
    HOLO_RETURN_IF_ERROR(CheckOutput(options.output, /*force=*/true));
  }
  if (options.output.empty() && options.save_steps.empty()) {
    return Fail(Code::kInvalidArgument, "fetch: expected -o FILE, --save-steps DIR or both");
  }
  Display display;
  if (!options.region.empty()) {
    HOLO_ASSIGN_OR_RETURN(display.region, ParseRegion(options.region));
  }
  HOLO_ASSIGN_OR_RETURN(display.scale, ParseScale(options.scale));
  display.k = options.k;
  protocol::View view;
  view.region = display.region;
  view.scale = std::ldexp(1.0f, -static_cast<int>(ScaleLog2(display.scale)));
  view.focus_k = options.k;
  view.target_psnr_db = static_cast<float>(options.quality_target_db);
  client::Options connect;
  connect.token = options.token;
  if (!options.max_bytes.empty()) {
    HOLO_ASSIGN_OR_RETURN(view.byte_budget, ParseBytes(options.max_bytes));
  }
  if (!options.rate.empty()) {
    HOLO_ASSIGN_OR_RETURN(connect.bytes_per_second, ParseBytes(options.rate));
  }
  const StopOnInterrupt stop;
  connect.stop = stop.token();
  HOLO_ASSIGN_OR_RETURN(StepWriter steps, StepWriter::Create(options.save_steps));

  const Clock::time_point start = Clock::now();
  const bool has_deadline = options.timeout_s > 0;
  const Clock::time_point deadline =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.timeout_s));
  if (has_deadline) {
    const auto budget = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - start);
    connect.connect_timeout = std::min(connect.connect_timeout, std::max(budget, std::chrono::milliseconds(1)));
  }
  client::BasisCache cache = options.no_cache ? client::BasisCache({}) : client::BasisCache::ForUser();
  HOLO_ASSIGN_OR_RETURN(const auto remote,
                        client::RemotePicture::Open(options.url, options.name, view, cache, connect));
  const double open_s = SecondsSince(start);
  double first_chunk_s = -1;
  double psnr_db = 0;
  bool complete = false;
  {
    ProgressBar bar("fetch " + options.name, globals);
    while (!complete) {
      const Clock::time_point soon = Clock::now() + std::chrono::milliseconds(200);
      const auto change = remote->Wait(has_deadline ? std::min(soon, deadline) : soon);
      if (!change) return tl::unexpected(change.error());
      if (first_chunk_s < 0 && !change->region.empty()) first_chunk_s = SecondsSince(start);
      complete = change->view_complete;
      psnr_db = change->psnr_db;
      if (!change->region.empty() || complete) HOLO_RETURN_IF_ERROR(steps.Add(*remote, display, complete));
      remote->Acknowledge();
      const double expected = view.byte_budget > 0
                                  ? static_cast<double>(view.byte_budget)
                                  : static_cast<double>(std::max<std::uint64_t>(1, remote->file_bytes()));
      if (!bar.Update(std::min(1.0, static_cast<double>(remote->statistics().payload_bytes) / expected))) {
        return Fail(Code::kCancelled, "fetch: cancelled");
      }
      if (has_deadline && Clock::now() >= deadline) break;
    }
  }
  const double transfer_s = SecondsSince(start);
  if (!options.output.empty()) {
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, RenderDisplay(remote->decoder(), display));
    HOLO_RETURN_IF_ERROR(image_io::Save(options.output, picture));
  }
  const client::Statistics& statistics = remote->statistics();
  const nlohmann::json json = {{"output", options.output},
                               {"complete", complete},
                               {"payload_bytes", statistics.payload_bytes},
                               {"duplicate_bytes", statistics.duplicate_bytes},
                               {"chunks", statistics.chunks},
                               {"bases", statistics.bases},
                               {"reconnects", statistics.reconnects},
                               {"file_bytes", remote->file_bytes()},
                               {"open_seconds", open_s},
                               {"first_chunk_seconds", first_chunk_s},
                               {"seconds", transfer_s},
                               {"estimated_psnr_db", Finite(psnr_db)},
                               {"steps", steps.count()}};
  std::string text = (options.output.empty() ? options.save_steps : options.output) + ": " +
                     Grouped(statistics.payload_bytes) + " bytes in " + Grouped(statistics.chunks) + " chunks, " +
                     Fixed(transfer_s, 2) + " s";
  if (complete) text += ", about " + Fixed(psnr_db, 1) + " dB";
  if (statistics.duplicate_bytes > 0) text += ", " + Grouped(statistics.duplicate_bytes) + " bytes came twice";
  if (statistics.reconnects > 0) text += ", " + std::to_string(statistics.reconnects) + " reconnects";
  Print(globals, text + "\n", json);
  if (!complete) {
    return Fail(Code::kDeadlineExceeded, "fetch: expected the picture within " + Fixed(options.timeout_s, 1) +
                                             " s; what had come by then is written");
  }
  return {};
}

}  // namespace

void AddFetch(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("fetch", "Stream a picture from a server and write it");
  auto options = std::make_shared<Options>();
  command->add_option("url", options->url, "ws://host:8080 or grpc://host:50051")->required();
  command->add_option("name", options->name, "The asset's name on the server")->required();
  command->add_option("-o,--output", options->output, "The picture to write, replacing what is there");
  command->add_option("--region", options->region, "Only this part, in pixels of the picture: x,y,width,height")
      ->check(IsRegion());
  command->add_option("--scale", options->scale, "Size of the output: 1/4, 0.3, 2x")
      ->check(IsScale())
      ->capture_default_str();
  command->add_option("-k,--k", options->k, "Use only so many basis dimensions per patch");
  command->add_option("--max-bytes", options->max_bytes, "Stop after so many bytes (20000, 20k)")->check(IsBytes());
  command->add_option("--save-steps", options->save_steps, "A folder for one picture per refinement");
  command->add_option("--quality-target", options->quality_target_db, "Stop at this estimated PSNR, in dB")
      ->check(IsNumber(0.0, 200.0));
  command->add_option("--timeout", options->timeout_s, "Seconds after which what has come is written (exit code 4)")
      ->check(IsNumber(0.0, 86400.0));
  command->add_option("--rate", options->rate, "Ask the server for at most so many bytes a second")->check(IsBytes());
  command->add_option("--token", options->token, "Credentials, where the server asks for any")->envname("HOLO_TOKEN");
  command->add_flag("--no-cache", options->no_cache, "Neither use nor fill the cache of bases");
  command->footer(
      "Examples:\n"
      "  holo fetch ws://localhost:8080 photo -o out.png\n"
      "  holo fetch grpc://localhost:50051 panorama -o part.png --region 4000,200,1920,1080\n"
      "  holo fetch ws://localhost:8080 photo -o preview.jpg --max-bytes 4k\n"
      "  holo fetch ws://localhost:8080 photo --save-steps steps --rate 50k");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Fetch(*options, globals); }; });
}

}  // namespace holo::cli
