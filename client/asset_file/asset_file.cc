#include "client/asset_file/asset_file.h"

#include <algorithm>
#include <string>
#include <system_error>

#include "client/core/client.h"
#include "common/files/files.h"

namespace holo::asset_file {
namespace {

constexpr std::size_t kMaxListed = 4096;
constexpr std::string_view kExtension = ".basis";

// Every *.basis in a folder, without an error for what is none.
std::vector<std::filesystem::path> BasisFiles(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(folder, error);
       !error && entry != std::filesystem::directory_iterator() && files.size() < kMaxListed; entry.increment(error)) {
    if (entry->path().extension() == kExtension && !files::IsTemporaryName(entry->path()))
      files.push_back(entry->path());
  }
  return files;
}

std::shared_ptr<const basis::Basis> FindInFolder(const std::filesystem::path& folder, const basis::Hash& hash) {
  for (const std::filesystem::path& path : BasisFiles(folder)) {
    const auto bytes = files::ReadFile(path, basis::kMaxBasisBytes);
    if (!bytes || basis::HashOf(*bytes) != hash) continue;
    if (auto parsed = basis::Basis::Parse(*bytes)) return *parsed;
  }
  return nullptr;
}

}  // namespace

Result<std::shared_ptr<const basis::Basis>> LoadBasis(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path, basis::kMaxBasisBytes));
  auto parsed = basis::Basis::Parse(bytes);
  if (!parsed) return tl::unexpected(WithContext(std::move(parsed).error(), path.string()));
  return parsed;
}

Result<AssetFile> Open(const std::filesystem::path& path, const OpenOptions& options) {
  std::shared_ptr<const basis::Basis> given;
  if (options.basis) {
    HOLO_ASSIGN_OR_RETURN(given, LoadBasis(*options.basis));
  }
  HOLO_ASSIGN_OR_RETURN(const auto file, files::FileSource::Open(path));
  std::shared_ptr<const container::ByteSource> source = file;
  if (options.prefix_bytes) source = std::make_shared<files::PrefixSource>(source, *options.prefix_bytes);
  auto reader = container::AssetReader::Open(std::move(source));
  if (!reader) return tl::unexpected(WithContext(std::move(reader).error(), path.string()));

  std::vector<std::shared_ptr<const basis::Basis>> embedded;
  for (const basis::Hash& hash : reader->header().bases) {
    const std::vector<std::uint8_t>* bytes = reader->EmbeddedBasis(hash);
    if (bytes == nullptr) continue;
    auto parsed = basis::Basis::Parse(*bytes);
    if (!parsed) return tl::unexpected(WithContext(std::move(parsed).error(), path.string()));
    embedded.push_back(std::move(*parsed));
  }
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  auto resolve = [given, embedded = std::move(embedded), folder](const basis::Hash& hash) {
    if (given != nullptr && given->hash() == hash) return given;
    if (auto built_in = basis::FindBuiltIn(hash)) return built_in;
    for (const auto& candidate : embedded) {
      if (candidate->hash() == hash) return candidate;
    }
    if (auto beside = FindInFolder(folder, hash)) return beside;
    return client::BasisCache::ForUser().Find(hash);
  };
  return AssetFile{std::move(*reader), std::move(resolve)};
}

Result<codec::Decoder> Decode(const AssetFile& asset, const pixels::Rect& wanted, std::uint32_t scale_log2,
                              const std::function<bool(double)>& progress) {
  const container::AssetHeader& header = asset.reader.header();
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder, codec::Decoder::Create(header, asset.resolve));
  const pixels::Rect all{0, 0, header.layout.width, header.layout.height};
  const pixels::Rect region = pixels::Intersect(wanted.empty() ? all : wanted, all);
  if (region.empty()) return decoder;
  std::vector<container::AssetHeader::TileRange> ranges;
  for (std::uint32_t level = 0; level < header.levels.size(); ++level) {
    ranges.push_back(header.TilesTouching(level, region));
  }
  const std::vector<container::ChunkInfo>& chunks = asset.reader.chunks();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const container::ChunkInfo& chunk = chunks[i];
    if (progress && i % 64 == 0 && !progress(static_cast<double>(i) / static_cast<double>(chunks.size()))) {
      return Fail(Code::kCancelled, "decode: cancelled");
    }
    const std::uint32_t level = chunk.id.level;
    // A level finer than the output adds nothing where the next one is fine enough.
    const bool too_fine = level + 1 < header.levels.size() && scale_log2 < 32 &&
                          header.levels[level + 1].px_per_sample <= std::uint64_t{1} << scale_log2;
    const container::Level& geometry = header.levels[level];
    const std::uint32_t x = chunk.id.tile % geometry.tiles_x;
    const std::uint32_t y = chunk.id.tile / geometry.tiles_x;
    const auto& range = ranges[level];
    if (too_fine || x < range.x0 || x > range.x1 || y < range.y0 || y > range.y1) continue;
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, asset.reader.ReadChunk(chunk));
    if (bytes.size() == chunk.size_bytes) {
      HOLO_RETURN_IF_ERROR(decoder.AddChunk(chunk.id, bytes));
    } else {
      HOLO_RETURN_IF_ERROR(decoder.AddPartialChunk(chunk.id, bytes));
    }
  }
  return decoder;
}

}  // namespace holo::asset_file
