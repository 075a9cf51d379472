// The decoder as a WebAssembly module: what decoder.mjs calls. Bases and chunks in, pixels out.
//
// Conventions of the exports. All parameters are 32-bit integers, and none is trusted: buffers and assets are looked up
// among those given out, numbers are checked, and what is wrong comes back as an error. Functions return 0, or a handle
// of 1 or more, or a negative error: -google.rpc.Code, with the text in result(). The buffer that a function takes
// (from alloc()) is gone when it returns, whatever it returns. What result() points at is valid until the next call,
// and so is every pointer where JavaScript keeps views: the memory may move when it grows.
//
// One thread. Where memory runs out in spite of the checks the module traps, and must be thrown away.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/basis/basis.h"
#include "common/bytes/bytes.h"
#include "common/codec/codec.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"
#include "common/render/render.h"
#include "common/status/status.h"

#define HOLO_EXPORT(name) extern "C" __attribute__((export_name(#name), visibility("default")))

namespace holo::web {
namespace {

constexpr std::uint32_t kMaxBufferBytes = 1u << 30;
// What one render() may take: its output and the planes of floats on the way there.
constexpr std::uint64_t kMaxRenderBytes = 1u << 30;

enum class PixelFormat : std::uint32_t {
  kNative = 0,  // the asset's channels, interleaved, 8 bit or 16 bit (little-endian)
  kRgba8 = 1,   // grey and the first of less than three channels as R = G = B; without alpha A = 255
};

// An asset from its header or its file to the end of its use.
struct Asset {
  container::AssetHeader header;
  std::size_t max_decoded_bytes = 0;
  std::vector<std::shared_ptr<const basis::Basis>> bases;  // those that were given
  std::optional<container::AssetReader> file;              // chunks that wait for the bases
  std::optional<codec::Decoder> decoder;                   // once all bases are here

  [[nodiscard]] std::shared_ptr<const basis::Basis> Find(const basis::Hash& hash) const {
    if (auto built_in = basis::FindBuiltIn(hash)) return built_in;
    for (const auto& basis : bases) {
      if (basis->hash() == hash) return basis;
    }
    return nullptr;
  }
};

// Everything that lives between two calls.
struct Module {
  std::map<const std::uint8_t*, std::vector<std::uint8_t>> buffers;  // by the address given out
  std::map<std::int32_t, Asset> assets;
  std::int32_t last_handle = 0;

  std::span<const std::uint8_t> result;
  std::vector<std::uint8_t> result_bytes;
  pixels::Picture picture;
  std::array<std::uint32_t, 4> rectangle{};  // x, y, width, height
};

Module& TheModule() {
  static Module module;
  return module;
}

void SetResult(std::string_view text) {
  Module& module = TheModule();
  module.result_bytes.assign(text.begin(), text.end());
  module.result = module.result_bytes;
}

// What an export returns for `result`.
std::int32_t Finish(const Result<std::int32_t>& result) {
  if (result) return *result;
  SetResult(ToString(result.error()));
  return -static_cast<std::int32_t>(result.error().code);
}

std::int32_t Finish(const Result<void>& result) {
  return Finish(result.map([] { return std::int32_t{0}; }));
}

// Whether so much can be had in one piece now.
bool Fits(std::size_t bytes) {
  // volatile: a compiler may otherwise assume that an allocation which is not used succeeds.
  void* volatile memory = std::malloc(bytes);
  const bool fits = memory != nullptr;
  std::free(memory);
  return fits;
}

Result<std::vector<std::uint8_t>> Take(const std::uint8_t* address) {
  auto buffer = TheModule().buffers.extract(address);
  if (buffer.empty()) return Fail(Code::kInvalidArgument, "buffer: expected an address from alloc()");
  return std::move(buffer.mapped());
}

Result<Asset*> Find(std::int32_t handle) {
  const auto found = TheModule().assets.find(handle);
  if (found == TheModule().assets.end()) {
    return Fail(Code::kInvalidArgument, "asset: expected the handle of an open one, found " + std::to_string(handle));
  }
  return &found->second;
}

void SetRectangle(std::uint32_t x, std::uint32_t y, std::uint32_t width, std::uint32_t height) {
  TheModule().rectangle = {x, y, width, height};
}

// Makes the decoder, and gives it the chunks of the file, as soon as every basis is here.
Result<void> StartIfComplete(Asset& asset) {
  if (asset.decoder) return {};
  for (const basis::Hash& hash : asset.header.bases) {
    if (asset.Find(hash) == nullptr) return {};
  }
  codec::Decoder::Options options;
  if (asset.max_decoded_bytes > 0) options.max_decoded_bytes = asset.max_decoded_bytes;
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder,
                        codec::Decoder::Create(
                            asset.header, [&](const basis::Hash& hash) { return asset.Find(hash); }, options));
  if (asset.file) {
    for (const container::ChunkInfo& chunk : asset.file->chunks()) {
      HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, asset.file->ReadChunk(chunk));
      if (bytes.size() == chunk.size_bytes) {
        HOLO_RETURN_IF_ERROR(decoder.AddChunk(chunk.id, bytes));
      } else {
        HOLO_RETURN_IF_ERROR(decoder.AddPartialChunk(chunk.id, bytes));
      }
    }
    asset.file.reset();
  }
  asset.decoder = std::move(decoder);
  return {};
}

Result<std::int32_t> Keep(Asset asset) {
  HOLO_RETURN_IF_ERROR(StartIfComplete(asset));
  Module& module = TheModule();
  if (module.last_handle == INT32_MAX) return Fail(Code::kResourceExhausted, "asset: all handles have been used");
  module.assets.emplace(++module.last_handle, std::move(asset));
  return module.last_handle;
}

Result<std::int32_t> OpenHeader(const std::uint8_t* buffer, std::uint32_t max_decoded_bytes) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, Take(buffer));
  Asset asset;
  HOLO_ASSIGN_OR_RETURN(asset.header, container::ParseHeader(bytes));
  asset.max_decoded_bytes = max_decoded_bytes;
  return Keep(std::move(asset));
}

Result<std::int32_t> OpenFile(const std::uint8_t* buffer, std::uint32_t max_decoded_bytes) {
  HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> bytes, Take(buffer));
  Asset asset;
  HOLO_ASSIGN_OR_RETURN(asset.file,
                        container::AssetReader::Open(std::make_shared<container::MemorySource>(std::move(bytes))));
  asset.header = asset.file->header();
  for (const basis::Hash& hash : asset.header.bases) {
    const std::vector<std::uint8_t>* embedded = asset.file->EmbeddedBasis(hash);
    if (embedded == nullptr) continue;
    HOLO_ASSIGN_OR_RETURN(auto basis, basis::Basis::Parse(*embedded));
    asset.bases.push_back(std::move(basis));
  }
  asset.max_decoded_bytes = max_decoded_bytes;
  return Keep(std::move(asset));
}

Result<void> AddBasis(std::int32_t handle, const std::uint8_t* buffer) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, Take(buffer));
  HOLO_ASSIGN_OR_RETURN(Asset* const asset, Find(handle));
  HOLO_ASSIGN_OR_RETURN(auto basis, basis::Basis::Parse(bytes));
  bool named = false;
  for (const basis::Hash& hash : asset->header.bases) named |= hash == basis->hash();
  if (!named) {
    return Fail(Code::kInvalidArgument,
                "basis: expected one that the asset names, found " + bytes::ToHex(basis->hash()));
  }
  if (asset->Find(basis->hash()) == nullptr) asset->bases.push_back(std::move(basis));
  return StartIfComplete(*asset);
}

Result<codec::Decoder*> DecoderOf(std::int32_t handle) {
  HOLO_ASSIGN_OR_RETURN(Asset* const asset, Find(handle));
  if (!asset->decoder) return Fail(Code::kFailedPrecondition, "asset: expected its bases first");
  return &*asset->decoder;
}

Result<void> AddChunk(std::int32_t handle, std::uint32_t layer, std::uint32_t level, std::uint32_t tile,
                      const std::uint8_t* buffer, std::uint32_t is_partial) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, Take(buffer));
  HOLO_ASSIGN_OR_RETURN(codec::Decoder* const decoder, DecoderOf(handle));
  if (layer > UINT8_MAX || level > UINT8_MAX) {
    return Fail(Code::kInvalidArgument, "chunk: expected a layer and a level of at most 255, found " +
                                            std::to_string(layer) + " and " + std::to_string(level));
  }
  const container::ChunkId id{static_cast<std::uint8_t>(layer), static_cast<std::uint8_t>(level), tile};
  HOLO_ASSIGN_OR_RETURN(const pixels::Rect changed,
                        is_partial != 0 ? decoder->AddPartialChunk(id, bytes) : decoder->AddChunk(id, bytes));
  SetRectangle(changed.x, changed.y, changed.width, changed.height);
  return {};
}

// An upper bound, roughly, of what rendering a view takes: samples of 4 bytes, in bands of up to 256 rows and the
// patches around them, in up to four copies.
std::uint64_t RenderBytes(const pixels::Layout& layout, const render::OutputRect& rect, PixelFormat format) {
  const std::uint64_t native = pixels::SampleBytes(layout.sample_type) * layout.channels;
  const std::uint64_t output =
      std::uint64_t{rect.width} * rect.height * (native + (format == PixelFormat::kRgba8 ? 4 : 0));
  const std::uint64_t band = (std::uint64_t{rect.width} + 64) * (std::min(rect.height, 256u) + 64);
  return output + band * layout.channels * 16;
}

std::vector<std::uint8_t> ToRgba8(const pixels::Picture& picture) {
  const pixels::Layout& layout = picture.layout();
  const std::uint32_t colors = layout.channels - (layout.has_alpha ? 1 : 0);
  const std::uint32_t green = colors >= 3 ? 1 : 0;
  const std::uint32_t blue = colors >= 3 ? 2 : 0;
  std::vector<std::uint8_t> out;
  out.resize(std::size_t{layout.width} * layout.height * 4);
  std::uint8_t* to = out.data();
  const auto convert = [&](const auto* from, auto to_8_bit) {
    for (std::uint32_t x = 0; x < layout.width; ++x, from += layout.channels, to += 4) {
      to[0] = to_8_bit(from[0]);
      to[1] = to_8_bit(from[green]);
      to[2] = to_8_bit(from[blue]);
      to[3] = layout.has_alpha ? to_8_bit(from[layout.channels - 1]) : 255;
    }
  };
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    if (layout.sample_type == pixels::SampleType::kU8) {
      convert(picture.RowU8(y).data(), [](std::uint8_t v) { return v; });
    } else {
      convert(picture.RowU16(y).data(), [](std::uint16_t v) { return static_cast<std::uint8_t>((v + 128u) / 257u); });
    }
  }
  return out;
}

Result<void> Render(std::int32_t handle, render::View view, std::uint32_t format_number) {
  HOLO_ASSIGN_OR_RETURN(codec::Decoder* const decoder, DecoderOf(handle));
  if (format_number > static_cast<std::uint32_t>(PixelFormat::kRgba8)) {
    return Fail(Code::kInvalidArgument, "render: expected pixel format 0 or 1, found " + std::to_string(format_number));
  }
  const auto format = static_cast<PixelFormat>(format_number);
  const pixels::Layout& layout = decoder->header().layout;
  const pixels::Rect all{0, 0, layout.width, layout.height};
  if (view.region == pixels::Rect{}) view.region = all;
  // Of a view that cannot be rendered Render() says so itself.
  if (view.scale_log2 <= render::kMaxScaleLog2 && pixels::Intersect(view.region, all) == view.region) {
    const std::uint64_t bytes = RenderBytes(layout, render::OutputRectOf(view), format);
    if (bytes > kMaxRenderBytes || !Fits(static_cast<std::size_t>(bytes))) {
      return Fail(Code::kResourceExhausted,
                  "render: expected a view that takes at most " + std::to_string(kMaxRenderBytes) +
                      " bytes, and so much memory, found one of about " + std::to_string(bytes));
    }
  }
  Module& module = TheModule();
  HOLO_ASSIGN_OR_RETURN(module.picture, render::Render(*decoder, view));
  module.result = module.picture.bytes();
  if (format == PixelFormat::kRgba8) {
    module.result_bytes = ToRgba8(module.picture);
    module.result = module.result_bytes;
    module.picture = {};
  }
  const render::OutputRect rect = render::OutputRectOf(view);
  SetRectangle(rect.x, rect.y, rect.width, rect.height);
  return {};
}

// JSON from values that are JSON already.
std::string Array(const std::vector<std::string>& items) {
  std::string text = "[";
  for (const std::string& item : items) text.append(text.size() > 1 ? "," : "").append(item);
  return text + "]";
}

std::string Object(std::initializer_list<std::pair<const char*, std::string>> fields) {
  std::string text = "{";
  for (const auto& [name, value] : fields) {
    text.append(text.size() > 1 ? ",\"" : "\"").append(name).append("\":").append(value);
  }
  return text + "}";
}

std::string Quoted(std::string_view text) {
  return std::string("\"").append(text).append("\"");
}

std::string Number(std::uint64_t value) {
  return std::to_string(value);
}

Result<void> DescribeAsset(std::int32_t handle) {
  HOLO_ASSIGN_OR_RETURN(const Asset* const asset, Find(handle));
  const container::AssetHeader& header = asset->header;
  std::vector<std::string> levels;
  for (const container::Level& level : header.levels) {
    levels.push_back(Object({{"width", Number(level.width)},
                             {"height", Number(level.height)},
                             {"patchPx", Number(level.patch_px)},
                             {"patchesX", Number(level.patches_x)},
                             {"patchesY", Number(level.patches_y)},
                             {"tilesX", Number(level.tiles_x)},
                             {"tilesY", Number(level.tiles_y)},
                             {"pxPerSample", Number(level.px_per_sample)}}));
  }
  std::vector<std::string> bases;
  std::vector<std::string> missing;
  for (const basis::Hash& hash : header.bases) {
    bases.push_back(Quoted(bytes::ToHex(hash)));
    if (asset->Find(hash) == nullptr) missing.push_back(bases.back());
  }
  constexpr std::array<const char*, 3> kColorModels = {"generic", "gray", "rgb"};
  const std::optional<codec::Decoder>& decoder = asset->decoder;
  SetResult(Object({{"width", Number(header.layout.width)},
                    {"height", Number(header.layout.height)},
                    {"channels", Number(header.layout.channels)},
                    {"bitsPerSample", Number(8 * pixels::SampleBytes(header.layout.sample_type))},
                    {"colorModel", Quoted(kColorModels[static_cast<std::size_t>(header.layout.color_model)])},
                    {"hasAlpha", header.layout.has_alpha ? "true" : "false"},
                    {"sourceOrientation", Number(header.metadata.source_orientation)},
                    {"layers", Number(header.layer_count)},
                    {"maxK", Number(header.max_k)},
                    {"levels", Array(levels)},
                    {"bases", Array(bases)},
                    {"missingBases", Array(missing)},
                    {"receivedBytes", Number(decoder ? decoder->received_bytes() : 0)},
                    {"memoryBytes", Number(decoder ? decoder->memory_bytes() : 0)}}));
  return {};
}

void DescribeModule() {
  std::vector<std::string> built_in;
  for (const auto& basis : basis::BuiltIns()) {
    built_in.push_back(Quoted(bytes::ToHex(basis->hash())));
  }
  SetResult(Object({{"version", Quoted(HOLO_VERSION)},
                    {"formatVersion", Number(container::kFormatVersion)},
                    {"builtInBases", Array(built_in)}}));
}

Result<void> IccProfile(std::int32_t handle) {
  HOLO_ASSIGN_OR_RETURN(const Asset* const asset, Find(handle));
  TheModule().result = asset->header.metadata.icc_profile;
  return {};
}

}  // namespace

// A buffer of `bytes` zeros to be filled and passed on; null if there is no memory for it or it has more than 2^30.
HOLO_EXPORT(alloc) std::uint8_t* Alloc(std::uint32_t bytes) {
  if (bytes > kMaxBufferBytes || !Fits(bytes)) {
    SetResult(ToString({Code::kResourceExhausted, "buffer: expected at most " + std::to_string(kMaxBufferBytes) +
                                                      " bytes, and so much memory, found " + std::to_string(bytes)}));
    return nullptr;
  }
  std::vector<std::uint8_t> buffer;
  buffer.reserve(std::max(bytes, 1u));  // so that an empty one has an address, too
  buffer.resize(bytes);
  std::uint8_t* address = buffer.data();
  TheModule().buffers.emplace(address, std::move(buffer));
  return address;
}

// Gives up a buffer that was not passed on. An unknown address does nothing.
HOLO_EXPORT(release) void Release(const std::uint8_t* buffer) {
  TheModule().buffers.erase(buffer);
}

// Opens an asset from its header's bytes; chunks come by add_chunk(). max_decoded_bytes: see codec::Decoder::Options, 0
// for its default. Returns a handle.
HOLO_EXPORT(open_header) std::int32_t ExportOpenHeader(const std::uint8_t* buffer, std::uint32_t max_decoded_bytes) {
  return Finish(OpenHeader(buffer, max_decoded_bytes));
}

// Opens a .holo file or the beginning of one, with all chunks that are there. Returns a handle.
HOLO_EXPORT(open_file) std::int32_t ExportOpenFile(const std::uint8_t* buffer, std::uint32_t max_decoded_bytes) {
  return Finish(OpenFile(buffer, max_decoded_bytes));
}

// An unknown handle does nothing.
HOLO_EXPORT(close) void Close(std::int32_t handle) {
  TheModule().result = {};
  TheModule().assets.erase(handle);
}

// Gives an asset a basis that it names and that is not built in. With the last one the asset can take chunks and be
// rendered.
HOLO_EXPORT(add_basis) std::int32_t ExportAddBasis(std::int32_t handle, const std::uint8_t* buffer) {
  return Finish(AddBasis(handle, buffer));
}

// is_partial != 0: the beginning of a chunk whose rest will never come. rectangle() is what looks different now, in
// pixels of level 0; empty where nothing does.
HOLO_EXPORT(add_chunk)
std::int32_t ExportAddChunk(std::int32_t handle, std::uint32_t layer, std::uint32_t level, std::uint32_t tile,
                            const std::uint8_t* buffer, std::uint32_t is_partial) {
  return Finish(AddChunk(handle, layer, level, tile, buffer, is_partial));
}

// See render::View; format is a PixelFormat. result() is the pixels, rectangle() their render::OutputRect.
HOLO_EXPORT(render)
std::int32_t ExportRender(std::int32_t handle, std::uint32_t x, std::uint32_t y, std::uint32_t width,
                          std::uint32_t height, std::uint32_t scale_log2, std::uint32_t k, std::uint32_t smooth,
                          std::uint32_t format) {
  return Finish(Render(handle, {{x, y, width, height}, scale_log2, k, smooth != 0}, format));
}

// result() describes an asset, or the module for handle 0, as JSON: see AssetInfo and ModuleInfo in decoder.mjs.
HOLO_EXPORT(describe) std::int32_t ExportDescribe(std::int32_t handle) {
  if (handle != 0) return Finish(DescribeAsset(handle));
  DescribeModule();
  return 0;
}

// result() is the asset's ICC profile; empty for sRGB or unknown.
HOLO_EXPORT(icc_profile) std::int32_t ExportIccProfile(std::int32_t handle) {
  return Finish(IccProfile(handle));
}

// What the last call left: pixels, JSON, or the message of an error ("DATA_LOSS: ...", UTF-8).
HOLO_EXPORT(result) const std::uint8_t* ResultAddress() {
  return TheModule().result.data();
}
HOLO_EXPORT(result_bytes) std::uint32_t ResultBytes() {
  return static_cast<std::uint32_t>(TheModule().result.size());
}
// Four 32-bit integers: x, y, width, height.
HOLO_EXPORT(rectangle) const std::uint32_t* RectangleAddress() {
  return TheModule().rectangle.data();
}

}  // namespace holo::web
