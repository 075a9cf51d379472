#include <cctype>
#include <cmath>
#include <limits>
#include <regex>

#include "benchmarks/codec/coder.h"
#include "benchmarks/tools/tools.h"
#include "common/files/files.h"

namespace holo::benchmarks {
namespace {

using pixels::Picture;

// One peer as data. In commands, {in} and {out} are files; {setting} is the setting or, for a prefix, the cut;
// {script}, {environment} and {python} belong to newest_peers.py.
struct ToolPair {
  const char* name;
  const char* package;  // where it comes from
  const char* extension;
  std::vector<std::string> version_command;
  std::vector<std::string> settings;
  std::vector<std::string> encode;
  std::vector<std::string> decode;
  std::vector<std::string> decode_prefix;  // empty: not progressive
};

const std::vector<ToolPair>& ToolPairs() {
  static const std::vector<ToolPair> kPairs = {
      {"JPEG",
       "Debian's libjpeg-turbo-progs",
       "jpg",
       {"cjpeg", "-version"},
       {"5", "8", "12", "18", "26", "36", "48", "60", "70", "78", "85", "90", "94", "96"},
       {"cjpeg", "-quality", "{setting}", "-progressive", "-optimize", "-sample", "2x2", "-outfile", "{out}", "{in}"},
       {"djpeg", "-pnm", "-outfile", "{out}", "{in}"},
       {"djpeg", "-pnm", "-outfile", "{out}", "{in}"}},
      {"WebP",
       "Debian's webp",
       "webp",
       {"cwebp", "-version"},
       {"0", "4", "10", "20", "35", "50", "65", "78", "85", "90", "94", "97"},
       {"cwebp", "-quiet", "-m", "6", "-q", "{setting}", "{in}", "-o", "{out}"},
       {"dwebp", "-quiet", "-ppm", "{in}", "-o", "{out}"},
       {}},
      // The settings are compression ratios of 24 bits per pixel.
      {"JPEG 2000",
       "Debian's libopenjp2-tools",
       "j2k",
       {"opj_compress", "-h"},
       {"160", "120", "90", "64", "48", "36", "26", "20", "15", "12", "9.6"},
       {"opj_compress", "-I", "-r", "{setting}", "-i", "{in}", "-o", "{out}"},
       {"opj_decompress", "-quiet", "-i", "{in}", "-o", "{out}"},
       // Only whole layers: OpenJPEG shows a layer that ends early with heavy damage.
       {"opj_decompress", "-quiet", "-allow-partial", "-l", "{setting}", "-i", "{in}", "-o", "{out}"}},
      {"JPEG XL",
       "imagecodecs of PyPI",
       "jxl",
       {"python3", "{script}", "setup", "{environment}", "jxl"},
       {"15", "11", "8", "6", "4.5", "3.3", "2.4", "1.7", "1.2", "0.9", "0.7"},
       {"{python}", "{script}", "encode", "jxl", "{setting}", "{in}", "{out}"},
       {"{python}", "{script}", "decode", "jxl", "{in}", "{out}"},
       {}},
      {"AVIF",
       "imagecodecs of PyPI",
       "avif",
       {"python3", "{script}", "setup", "{environment}", "avif"},
       {"3", "8", "15", "22", "30", "38", "46", "54", "62", "70", "78", "85", "90"},
       {"{python}", "{script}", "encode", "avif", "{setting}", "{in}", "{out}"},
       {"{python}", "{script}", "decode", "avif", "{in}", "{out}"},
       {}},
      // For the prefixes of JPEG XL: the newest library comes without a tool that writes or shows them.
      {"JPEG XL -p",
       "Debian's libjxl-tools",
       "jxl",
       {"cjxl", "--version"},
       {"8", "20", "35", "50", "62", "72", "80", "86", "90", "94", "96"},
       {"cjxl", "{in}", "{out}", "-p", "-q", "{setting}", "-e", "7", "--num_threads=0"},
       {"djxl", "{in}", "{out}", "--num_threads=0"},
       {"djxl", "{in}", "{out}", "--allow_partial_files", "--num_threads=0"}},
  };
  return kPairs;
}

// Outside the source tree: below $XDG_CACHE_HOME, else ~/.cache.
std::string Environment() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + "/holo/peers";
  return std::string(home != nullptr ? home : "/tmp") + "/.cache/holo/peers";
}

std::vector<std::string> Fill(const std::vector<std::string>& command, const std::string& in, const std::string& out,
                              const std::string& setting) {
  std::vector<std::string> filled = command;
  for (std::string& argument : filled) {
    if (argument == "{script}") argument = HOLO_NEWEST_PEERS;
    if (argument == "{environment}") argument = Environment();
    if (argument == "{python}") argument = Environment() + "/bin/python";
    if (argument == "{in}") argument = in;
    if (argument == "{out}") argument = out;
    if (argument == "{setting}") argument = setting;
  }
  return filled;
}

class ToolCoder final : public Coder {
 public:
  ToolCoder(const ToolPair& pair, const std::string& program_version) : pair_(pair), name_(pair.name) {
    version_ = program_version;
    for (const auto* command : {&pair.encode, &pair.decode, &pair.decode_prefix}) {
      for (const std::string& argument : *command) version_ += " " + argument;
    }
  }

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] const std::string& version() const override { return version_; }
  [[nodiscard]] const std::vector<std::string>& settings() const override { return pair_.settings; }
  [[nodiscard]] bool is_progressive() const override { return !pair_.decode_prefix.empty(); }

  [[nodiscard]] Result<std::vector<std::uint8_t>> Encode(const Picture& picture,
                                                         const std::string& setting) const override {
    const std::string out = std::string("out.") + pair_.extension;
    return RunOn(SerializePpm(picture), Fill(pair_.encode, "in.ppm", out, setting), "in.ppm", out);
  }

  [[nodiscard]] Result<std::vector<std::uint8_t>> EncodeToSize(const Picture& picture, std::uint64_t target_bytes,
                                                               std::span<const std::uint64_t> cuts) const override {
    if (std::string_view(pair_.extension) == "j2k") {
      // One quality layer up to each cut: the most that this peer can make of a prefix of that length.
      const double raw_bytes = 3.0 * picture.width() * picture.height();
      std::string ratios;
      for (const std::uint64_t cut : cuts) ratios += std::to_string(raw_bytes / static_cast<double>(cut)) + ",";
      return Encode(picture, ratios + std::to_string(raw_bytes / static_cast<double>(target_bytes)));
    }
    std::vector<std::uint8_t> best;
    auto miss = std::numeric_limits<double>::infinity();
    for (int low = 1, high = 100; low <= high;) {
      const int middle = (low + high) / 2;
      HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> file, Encode(picture, std::to_string(middle)));
      const double ratio = std::log(static_cast<double>(file.size()) / static_cast<double>(target_bytes));
      if (ratio > 0) {
        high = middle - 1;
      } else {
        low = middle + 1;
      }
      if (std::abs(ratio) < miss) {
        miss = std::abs(ratio);
        best = std::move(file);
      }
    }
    return best;
  }

  [[nodiscard]] Result<Picture> Decode(std::span<const std::uint8_t> file) const override {
    return DecodeWith(pair_.decode, file, 0);
  }
  [[nodiscard]] Result<Picture> DecodePrefix(std::span<const std::uint8_t> prefix, std::size_t cut) const override {
    return DecodeWith(pair_.decode_prefix, prefix, cut);
  }

 private:
  [[nodiscard]] Result<Picture> DecodeWith(const std::vector<std::string>& command, std::span<const std::uint8_t> file,
                                           std::size_t cut) const {
    const std::string in = std::string("in.") + pair_.extension;
    HOLO_ASSIGN_OR_RETURN(const auto pnm,
                          RunOn(file, Fill(command, in, "out.ppm", std::to_string(cut)), in, "out.ppm"));
    return ParsePnm(pnm);
  }

  // Decoders report a truncated file by their exit status although they have written a picture: what counts is that
  // there is an output.
  [[nodiscard]] Result<std::vector<std::uint8_t>> RunOn(std::span<const std::uint8_t> input,
                                                        const std::vector<std::string>& command, const std::string& in,
                                                        const std::string& out) const {
    HOLO_ASSIGN_OR_RETURN(const TemporaryDirectory directory, TemporaryDirectory::Create());
    HOLO_RETURN_IF_ERROR(files::AtomicWrite(directory.path() / in, input));
    HOLO_ASSIGN_OR_RETURN(const ToolResult result, RunTool(command, directory.path()));
    auto output = files::ReadFile(directory.path() / out);
    if (!output) {
      return Fail(Code::kUnknown, command.front() + ": expected a file, found exit status " +
                                      std::to_string(result.exit_code) + " and: " + result.output);
    }
    return output;
  }

  const ToolPair& pair_;
  std::string name_;
  std::string version_;
};

}  // namespace

std::vector<std::unique_ptr<Coder>> FindPeers(std::vector<std::string>& missing) {
  std::vector<std::unique_ptr<Coder>> peers;
  const auto directory = TemporaryDirectory::Create();
  if (!directory) {
    missing.push_back(ToString(directory.error()));
    return peers;
  }
  for (const ToolPair& pair : ToolPairs()) {
    const bool newest = pair.version_command.front() == "python3";
    const auto result = RunTool(Fill(pair.version_command, "", "", ""), directory->path());
    if (!result || (newest && result->exit_code != 0)) {
      missing.push_back(std::string(pair.name) + " is left out: " + (result ? result->output : result.error().message) +
                        " (" + pair.package + ")");
      continue;
    }
    std::smatch match;
    const std::regex version(newest ? R"([a-z]+ \d+\.\d+(\.\d+)*)" : R"(\d+\.\d+(\.\d+)*)");
    const std::string found =
        std::regex_search(result->output, match, version) ? match.str() : std::string("of unknown version");
    peers.push_back(std::make_unique<ToolCoder>(pair, newest ? found : pair.version_command.front() + " " + found));
  }
  return peers;
}

Result<Picture> ParsePnm(std::span<const std::uint8_t> bytes) {
  std::size_t offset = 0;
  const auto next_number = [&]() -> Result<std::uint32_t> {
    while (offset < bytes.size() && (std::isspace(bytes[offset]) != 0 || bytes[offset] == '#')) {
      if (bytes[offset] == '#') {
        while (offset < bytes.size() && bytes[offset] != '\n') ++offset;
      } else {
        ++offset;
      }
    }
    std::uint32_t value = 0;
    const std::size_t start = offset;
    while (offset < bytes.size() && std::isdigit(bytes[offset]) != 0 && value < pixels::kMaxDimension / 10) {
      value = value * 10 + (bytes[offset++] - '0');
    }
    if (offset == start) return Fail(Code::kDataLoss, "PNM header: expected a number at byte " + std::to_string(start));
    return value;
  };
  const bool grey = bytes.size() > 2 && bytes[0] == 'P' && bytes[1] == '5';
  if (!grey && !(bytes.size() > 2 && bytes[0] == 'P' && bytes[1] == '6')) {
    return Fail(Code::kDataLoss, "PNM: expected P5 or P6 at the beginning");
  }
  offset = 2;
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t width, next_number());
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t height, next_number());
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t maximum, next_number());
  if (maximum != 255) return Fail(Code::kDataLoss, "PNM: expected samples up to 255, found " + std::to_string(maximum));
  ++offset;
  HOLO_ASSIGN_OR_RETURN(Picture picture,
                        Picture::Create({width, height, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}));
  const std::size_t sample_bytes = picture.bytes().size() / (grey ? 3 : 1);
  if (offset > bytes.size() || bytes.size() - offset < sample_bytes) {
    return Fail(Code::kDataLoss, "PNM: expected " + std::to_string(sample_bytes) + " bytes of samples, found " +
                                     std::to_string(bytes.size() - std::min(offset, bytes.size())));
  }
  for (std::size_t i = 0; i < picture.bytes().size(); ++i) picture.bytes()[i] = bytes[offset + (grey ? i / 3 : i)];
  return picture;
}

std::vector<std::uint8_t> SerializePpm(const Picture& picture) {
  const std::string header =
      "P6\n" + std::to_string(picture.width()) + " " + std::to_string(picture.height()) + "\n255\n";
  std::vector<std::uint8_t> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), picture.bytes().begin(), picture.bytes().end());
  return bytes;
}

}  // namespace holo::benchmarks
