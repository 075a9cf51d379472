// holo watch: a streamed picture in a window that sharpens while bytes arrive.
#include <chrono>
#include <cmath>

#include "client/cli/cli.h"
#include "client/cli/stop.h"
#include "client/cli/window.h"
#include "client/core/client.h"

namespace holo::cli {
namespace {

struct Options {
  std::string url;
  std::string name;
  std::string token;
  std::string rate;
};

Result<void> Watch(const Options& options, const Globals& globals) {
  HOLO_RETURN_IF_ERROR(CheckDisplay("holo fetch " + options.url + " " + options.name + " -o out.png"));
  client::Options connect;
  connect.token = options.token;
  if (!options.rate.empty()) {
    HOLO_ASSIGN_OR_RETURN(connect.bytes_per_second, ParseBytes(options.rate));
  }
  const StopOnInterrupt stop;
  connect.stop = stop.token();
  client::BasisCache cache = client::BasisCache::ForUser();
  HOLO_ASSIGN_OR_RETURN(const auto remote,
                        client::RemotePicture::Open(options.url, options.name, std::nullopt, cache, connect));
  bool complete = false;
  double psnr_db = 0;
  WindowContent content;
  content.decoder = [&]() -> const codec::Decoder& { return remote->decoder(); };
  content.poll = [&](const Viewport& viewport, bool moved, std::uint32_t k) -> Result<pixels::Rect> {
    if (moved) {
      protocol::View view;
      view.region = viewport.Region();
      view.scale = std::ldexp(1.0f, -static_cast<int>(ScaleLog2(viewport.zoom())));
      view.focus_k = k;
      complete = false;
      HOLO_RETURN_IF_ERROR(remote->SetView(view));
    }
    // Everything that has come by now, but for no longer than one frame.
    pixels::Rect changed;
    const auto frame_end = client::Clock::now() + std::chrono::milliseconds(15);
    while (client::Clock::now() < frame_end) {
      HOLO_ASSIGN_OR_RETURN(const client::RemotePicture::Change change, remote->Wait(frame_end));
      if (change.content_replaced) {
        const pixels::Layout& layout = remote->header().layout;
        changed = {0, 0, layout.width, layout.height};
      }
      changed = pixels::Union(changed, change.region);
      if (change.view_complete) {
        complete = true;
        psnr_db = change.psnr_db;
      }
    }
    return changed;
  };
  content.shown = [&] { remote->Acknowledge(); };
  content.status = [&] {
    return Grouped(remote->statistics().payload_bytes) + " bytes" +
           (complete ? ", complete, about " + Fixed(psnr_db, 1) + " dB" : std::string());
  };
  const Result<void> done = RunWindow(options.name, content);
  const client::Statistics& statistics = remote->statistics();
  Print(globals,
        options.name + ": " + Grouped(statistics.payload_bytes) + " bytes in " + Grouped(statistics.chunks) +
            " chunks, " + Grouped(statistics.duplicate_bytes) + " bytes twice\n",
        {{"payload_bytes", statistics.payload_bytes},
         {"duplicate_bytes", statistics.duplicate_bytes},
         {"chunks", statistics.chunks},
         {"bases", statistics.bases},
         {"reconnects", statistics.reconnects}});
  return done;
}

}  // namespace

void AddWatch(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("watch", "Show a streamed picture in a window that sharpens");
  auto options = std::make_shared<Options>();
  command->add_option("url", options->url, "ws://host:8080 or grpc://host:50051")->required();
  command->add_option("name", options->name, "The asset's name on the server")->required();
  command->add_option("--rate", options->rate, "Ask the server for at most so many bytes a second")->check(IsBytes());
  command->add_option("--token", options->token, "Credentials, where the server asks for any")->envname("HOLO_TOKEN");
  command->footer(
      "The wheel (or I, O) zooms, dragging pans, + and - change k, 0 uses all dimensions, F fits, Q quits.\n"
      "Examples:\n"
      "  holo watch ws://localhost:8080 panorama\n"
      "  holo watch grpc://localhost:50051 photo --rate 20k      slow enough to see it sharpen");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Watch(*options, globals); }; });
}

}  // namespace holo::cli
