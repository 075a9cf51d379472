// Moves a view over a served picture as a person would, loses the connection on the way, and checks what came.
//
//   journey URL NAME FILE.holo     FILE.holo is what the server serves under NAME
//
// Prints one line of JSON and exits with 0 if: no byte came twice; the incremental canvas, each view and the whole
// picture equal what the file itself renders, byte for byte.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "client/asset_file/asset_file.h"
#include "client/core/client.h"
#include "common/render/render.h"

namespace {

using namespace holo;

constexpr std::chrono::seconds kPatience{120};

struct Step {
  const char* name;
  double x, y, width, height;  // fractions of the picture
  std::uint32_t scale_log2;
  unsigned changes;      // move on after so many; 0: when the view is complete
  bool drop_connection;  // when it is left
};

// Fractions chosen so that views overlap, begin at odd pixels, and are left before they are complete.
constexpr Step kSteps[] = {
    {"overview", 0, 0, 1, 1, 3, 0, false},      {"left", 0.03, 0.1, 0.4, 0.5, 1, 3, false},
    {"pan", 0.31, 0.17, 0.4, 0.5, 1, 0, true},  {"zoom", 0.42, 0.33, 0.2, 0.2, 0, 4, true},
    {"back", 0.03, 0.1, 0.4, 0.5, 1, 0, false}, {"right", 0.6, 0.5, 0.4, 0.5, 0, 0, true},
    {"whole", 0, 0, 1, 1, 0, 5, true},          {"whole again", 0, 0, 1, 1, 0, 0, false},
};

pixels::Rect RegionOf(const Step& step, const pixels::Layout& layout) {
  const auto part = [](double from, double length, std::uint32_t size) {
    const auto first = std::min(size - 1, static_cast<std::uint32_t>(from * size));
    return std::pair(first, std::clamp(static_cast<std::uint32_t>(std::lround(length * size)), 1u, size - first));
  };
  const auto [x, width] = part(step.x, step.width, layout.width);
  const auto [y, height] = part(step.y, step.height, layout.height);
  return {x, y, width, height};
}

Result<void> ExpectSame(const pixels::Picture& found, const pixels::Picture& expected, const std::string& what) {
  if (found.layout() == expected.layout() && std::ranges::equal(found.bytes(), expected.bytes())) return {};
  std::size_t differing = 0;
  for (std::size_t i = 0; i < std::min(found.bytes().size(), expected.bytes().size()); ++i) {
    differing += found.bytes()[i] != expected.bytes()[i] ? 1 : 0;
  }
  return Fail(Code::kInternal, what + ": expected the file's own pixels, found " + std::to_string(differing) + " of " +
                                   std::to_string(expected.bytes().size()) + " bytes different");
}

Result<void> Travel(const std::string& url, const std::string& name, const std::string& file) {
  HOLO_ASSIGN_OR_RETURN(const asset_file::AssetFile local, asset_file::Open(file));
  client::BasisCache cache({});
  HOLO_ASSIGN_OR_RETURN(const auto remote, client::RemotePicture::Open(url, name, std::nullopt, cache, {}));
  const pixels::Layout layout = remote->header().layout;
  unsigned dropped = 0;
  for (const Step& step : kSteps) {
    const render::View view{RegionOf(step, layout), step.scale_log2, 0};
    protocol::View wanted;
    wanted.region = view.region;
    wanted.scale = std::ldexp(1.0f, -static_cast<int>(step.scale_log2));
    HOLO_RETURN_IF_ERROR(remote->SetView(wanted));
    HOLO_ASSIGN_OR_RETURN(client::Canvas canvas, client::Canvas::Create(remote->decoder(), view));
    const auto deadline = client::Clock::now() + kPatience;
    bool complete = false;
    for (unsigned changes = 0; !complete && (step.changes == 0 || changes < step.changes); ++changes) {
      HOLO_ASSIGN_OR_RETURN(const client::RemotePicture::Change change, remote->Wait(deadline));
      if (client::Clock::now() >= deadline) return Fail(Code::kDeadlineExceeded, std::string(step.name) + ": too slow");
      HOLO_RETURN_IF_ERROR(canvas.Update(remote->decoder(), change.region));
      complete = change.view_complete;
      remote->Acknowledge();
    }
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture rendered, render::Render(remote->decoder(), view));
    HOLO_RETURN_IF_ERROR(ExpectSame(canvas.picture(), rendered, std::string(step.name) + ", piece by piece"));
    if (complete) {
      HOLO_ASSIGN_OR_RETURN(const codec::Decoder decoder, asset_file::Decode(local, view.region, view.scale_log2));
      HOLO_ASSIGN_OR_RETURN(const pixels::Picture expected, render::Render(decoder, view));
      HOLO_RETURN_IF_ERROR(ExpectSame(rendered, expected, step.name));
    }
    if (step.drop_connection) {
      remote->DropConnectionForTest();
      ++dropped;
    }
  }
  const client::Statistics& statistics = remote->statistics();
  std::uint64_t chunk_bytes = 0;
  for (const container::ChunkInfo& chunk : local.reader.chunks()) chunk_bytes += chunk.size_bytes;
  std::uint64_t basis_bytes = 0;
  for (const basis::Hash& hash : local.reader.header().bases) {
    const auto* bytes = local.reader.EmbeddedBasis(hash);
    if (bytes != nullptr) basis_bytes += bytes->size();
  }
  std::cout << "{\"payload_bytes\": " << statistics.payload_bytes << ", \"chunk_bytes\": " << chunk_bytes
            << ", \"basis_bytes\": " << basis_bytes << ", \"duplicate_bytes\": " << statistics.duplicate_bytes
            << ", \"reconnects\": " << statistics.reconnects << ", \"dropped\": " << dropped << "}" << std::endl;
  if (statistics.duplicate_bytes != 0) return Fail(Code::kInternal, "expected no byte twice");
  // What was cut off in the middle of a chunk is lost with the connection: at most one message for each.
  const std::uint64_t most = chunk_bytes + basis_bytes + dropped * (std::uint64_t{64} << 10);
  if (statistics.payload_bytes < chunk_bytes || statistics.payload_bytes > most) {
    return Fail(Code::kInternal, "expected every chunk once");
  }
  if (statistics.reconnects == 0) return Fail(Code::kInternal, "expected reconnects");
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "journey URL NAME FILE.holo\n";
    return 2;
  }
  const Result<void> travelled = Travel(argv[1], argv[2], argv[3]);
  if (travelled) return 0;
  std::cerr << "journey: " << ToString(travelled.error()) << "\n";
  return ToExitCode(travelled.error().code);
}
