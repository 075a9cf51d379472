// holo_benchmark_preview: how few bytes show the whole picture.
//
// For each picture: the chunks in the order of the file, until the picture they show has a structural similarity (SSIM)
// of at least 0.6 with the final one. Counted are the bytes that a server sends (header, stored bases and chunks) and
// those of the beginning of the file (index included), for the picture at full size and as a window of at most
// 1920 x 1080 shows it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "benchmarks/codec/holo_coder.h"
#include "common/image_io/image_io.h"
#include "common/quality/quality.h"
#include "common/render/render.h"

namespace holo::benchmarks {
namespace {

struct Preview {
  std::uint64_t sent_bytes = 0;
  std::uint64_t file_bytes = 0;
};

Result<double> SimilarityAfter(const container::AssetReader& reader, std::size_t chunk_count,
                               const pixels::Picture& final_picture, const render::View& view) {
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder, MakeDecoder(reader));
  for (std::size_t i = 0; i < chunk_count; ++i) {
    const container::ChunkInfo& chunk = reader.chunks()[i];
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, reader.ReadChunk(chunk));
    HOLO_RETURN_IF_ERROR(decoder.AddChunk(chunk.id, bytes));
  }
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture shown, render::Render(decoder, view));
  return quality::Ssim(final_picture, shown);
}

Result<Preview> FindPreview(const container::AssetReader& reader, double similarity, std::uint32_t scale_log2) {
  const render::View view{{}, scale_log2, 0};
  HOLO_ASSIGN_OR_RETURN(codec::Decoder decoder, MakeDecoder(reader));
  HOLO_RETURN_IF_ERROR(AddAllChunks(reader, decoder));
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture final_picture, render::Render(decoder, view));
  // Similarity rises with the bytes, but for noise: bisect.
  std::size_t low = std::min<std::size_t>(1, reader.chunks().size());  // grey is no preview, however smooth the picture
  std::size_t high = reader.chunks().size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    HOLO_ASSIGN_OR_RETURN(const double found, SimilarityAfter(reader, middle, final_picture, view));
    if (found >= similarity) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  Preview preview;
  if (!reader.chunks().empty()) preview.file_bytes = reader.chunks().front().offset;
  preview.sent_bytes = reader.header_bytes().size();
  for (const basis::Hash& hash : reader.header().bases) {
    if (const auto* embedded = reader.EmbeddedBasis(hash)) preview.sent_bytes += embedded->size();
  }
  for (std::size_t i = 0; i < high; ++i) {
    const container::ChunkInfo& chunk = reader.chunks()[i];
    preview.sent_bytes += chunk.size_bytes;
    preview.file_bytes = std::max(preview.file_bytes, chunk.offset + chunk.size_bytes);
  }
  return preview;
}

Result<void> Measure(const std::filesystem::path& path, float quality, double similarity) {
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(path));
  codec::EncodeOptions options;
  options.quality = quality;
  options.threads = 2;
  HOLO_ASSIGN_OR_RETURN(codec::Encoded encoded, codec::Encode(picture, options));
  HOLO_ASSIGN_OR_RETURN(const container::AssetReader reader, OpenBytes(encoded.file));
  std::uint32_t scale_log2 = 0;
  while ((picture.width() >> scale_log2) > 1920 || (picture.height() >> scale_log2) > 1080) ++scale_log2;
  HOLO_ASSIGN_OR_RETURN(const Preview full, FindPreview(reader, similarity, 0));
  HOLO_ASSIGN_OR_RETURN(const Preview window, FindPreview(reader, similarity, scale_log2));
  const double file_bytes = static_cast<double>(encoded.file.size());
  std::printf("%-40s %7.2f %10zu %9llu %6.2f %9llu %9llu %6.2f %9llu\n", path.filename().c_str(),
              static_cast<double>(picture.width()) * picture.height() / 1e6, encoded.file.size(),
              static_cast<unsigned long long>(full.sent_bytes), 100 * static_cast<double>(full.sent_bytes) / file_bytes,
              static_cast<unsigned long long>(full.file_bytes), static_cast<unsigned long long>(window.sent_bytes),
              100 * static_cast<double>(window.sent_bytes) / file_bytes,
              static_cast<unsigned long long>(window.file_bytes));
  std::fflush(stdout);
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  float quality = 75;
  double similarity = 0.6;
  CLI::App app{"The bytes that show a recognisable picture of the whole."};
  app.add_option("pictures", paths, "Pictures or folders of them; default: $HOLO_TEST_DATA/kodak and the panorama");
  app.add_option("--quality", quality, "Of the files, 0 to 100");
  app.add_option("--similarity", similarity, "SSIM with the final picture that counts as a preview");
  CLI11_PARSE(app, argc, argv);
  if (paths.empty()) {
    const char* folder = std::getenv("HOLO_TEST_DATA");
    const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
    paths = {data + "/kodak", data + "/large"};
  }
  std::vector<std::filesystem::path> pictures;
  for (const std::filesystem::path path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      pictures.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      if (holo::image_io::IsPictureName(entry.path())) pictures.push_back(entry.path());
    }
  }
  std::sort(pictures.begin(), pictures.end());
  std::printf("%-40s %7s %10s | at full size: %-11s | in a window:\n", "", "", "", "");
  std::printf("%-40s %7s %10s %9s %6s %9s %9s %6s %9s\n", "picture", "MP", "file", "sent", "%", "of file", "sent", "%",
              "of file");
  int exit_code = 0;
  for (const std::filesystem::path& path : pictures) {
    const auto result = holo::benchmarks::Measure(path, quality, similarity);
    if (result) continue;
    std::cerr << path.filename().string() << ": " << holo::ToString(result.error()) << "\n";
    exit_code = holo::ToExitCode(result.error().code);
  }
  return exit_code;
}
