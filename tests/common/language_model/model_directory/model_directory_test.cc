#include "common/language_model/model_directory/model_directory.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/bytes/bytes.h"
#include "tests/common/language_model/tiny_model.h"

namespace holo::model_directory {
namespace {

Result<Manifest> Parse(const std::string& json) {
  return ParseManifest({reinterpret_cast<const std::uint8_t*>(json.data()), json.size()}, "compressed.json");
}

Manifest Example() {
  Manifest manifest;
  manifest.method = "latent";
  manifest.base_path = "../gpt2";
  manifest.base_fingerprint[0] = 0xAB;
  manifest.basis = {"basis.bin", 12345, {}};
  manifest.basis->sha256[31] = 1;
  manifest.bytes_per_token = 3096.5;
  manifest.calibration = {{"text", "a.txt"}, {"tokens", 100}};
  return manifest;
}

// A basis of the tiny model that keeps two principal components.
kv_cache::Basis TinyBasis(const weights::Weights& weights) {
  const weights::Config& config = weights.config();
  kv_cache::Basis basis;
  basis.method = kv_cache::Method::kReport;
  basis.geometry = {config.layers, config.heads, config.head_width()};
  basis.base_fingerprint = weights::Fingerprint(weights);
  basis.calibration = "{}";
  const std::size_t width = config.width;
  kv_cache::BasisLayer layer;
  layer.rank = 2;
  layer.mean.resize(2 * width);
  layer.encoder.resize(2 * width * 2);
  for (const std::size_t part : {0u, 1u}) {
    for (const std::size_t i : {0u, 1u}) layer.encoder[part * width * 2 + i * 2 + i] = 1;
  }
  basis.layers.assign(config.layers, layer);
  return basis;
}

Manifest ManifestFor(const kv_cache::Basis& basis) {
  Manifest manifest;
  manifest.method = "report";
  manifest.base_path = "../m";
  manifest.base_fingerprint = basis.base_fingerprint;
  manifest.bytes_per_token = 16;
  return manifest;
}

TEST_CASE("a manifest is read back as it was written") {
  Manifest manifest = Example();
  CHECK(Parse(SerialiseManifest(manifest)).value() == manifest);
  manifest.method = "int8";
  manifest.basis.reset();
  CHECK(Parse(SerialiseManifest(manifest)).value() == manifest);
}

TEST_CASE("the manifest of FORMAT.md is read") {
  const Manifest manifest = Parse(R"({
      "format": "holo compressed model",
      "version": 1,
      "method": "int8",
      "base": {"path": "../gpt2", "fingerprint": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
      "bytes_per_token": 19584,
      "calibration": {}
    })").value();
  CHECK(manifest.method == "int8");
  CHECK(manifest.base_path == "../gpt2");
  CHECK(manifest.base_fingerprint[1] == 0x11);
  CHECK(manifest.bytes_per_token == 19584);
}

TEST_CASE("every cut of a manifest is refused, and keys that are not known are not") {
  const std::string text = SerialiseManifest(Example());
  for (std::size_t size = 0; size + 2 < text.size(); ++size) {
    CAPTURE(size);
    CHECK(Parse(std::string(text.data(), size)).error().code == Code::kDataLoss);
  }
  nlohmann::json json = nlohmann::json::parse(text);
  json["from the future"] = 1;
  CHECK(Parse(json.dump()).value() == Example());
}

TEST_CASE("a manifest that is damaged is refused with the key, what was expected and what was found") {
  struct Row {
    const char* name;
    const char* patch;  // JSON merge patch: null removes
    Code code;
    const char* reason;
  };
  for (const Row& row :
       {Row{"no format", R"({"format": null})", Code::kDataLoss, "\"format\": expected"},
        {"another format", R"({"format": "x"})", Code::kDataLoss, "found \"x\""},
        {"no version", R"({"version": null})", Code::kDataLoss, "\"version\": expected"},
        {"version 2", R"({"version": 2})", Code::kUnimplemented, "expected 1, found 2"},
        {"negative version", R"({"version": -1})", Code::kDataLoss, "whole number"},
        {"no method", R"({"method": null})", Code::kDataLoss, "\"method\""},
        {"another method", R"({"method": "magic"})", Code::kUnimplemented, "found \"magic\""},
        {"no base", R"({"base": null})", Code::kDataLoss, "\"base\": expected an object"},
        {"base is a string", R"({"base": "x"})", Code::kDataLoss, "\"base\": expected an object"},
        {"no path", R"({"base": {"path": null}})", Code::kDataLoss, "\"base\": \"path\""},
        {"empty path", R"({"base": {"path": ""}})", Code::kDataLoss, "\"base\": \"path\""},
        {"path with a zero", "{\"base\": {\"path\": \"a\\u0000b\"}}", Code::kDataLoss, "\"base\": \"path\""},
        {"short fingerprint", R"({"base": {"fingerprint": "ab"}})", Code::kDataLoss, "64 hexadecimal digits"},
        {"no hexadecimal", R"({"base": {"fingerprint": "zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}})",
         Code::kDataLoss, "64 hexadecimal digits"},
        {"no basis", R"({"basis": null})", Code::kDataLoss, "\"basis\": expected an object, found nothing"},
        {"basis elsewhere", R"({"basis": {"file": "../x"}})", Code::kDataLoss, "same directory"},
        {"basis is the folder", R"({"basis": {"file": ".."}})", Code::kDataLoss, "same directory"},
        {"basis of no size", R"({"basis": {"bytes": null}})", Code::kDataLoss, "\"bytes\""},
        {"basis of any size", R"({"basis": {"bytes": 1e30}})", Code::kDataLoss, "\"bytes\""},
        {"huge basis", R"({"basis": {"bytes": 9000000000}})", Code::kDataLoss, "\"bytes\""},
        {"basis without need", R"({"method": "fp16"})", Code::kDataLoss, "nothing with method fp16"},
        {"no bytes", R"({"bytes_per_token": null})", Code::kDataLoss, "\"bytes_per_token\""},
        {"negative bytes", R"({"bytes_per_token": -3})", Code::kDataLoss, "above 0"},
        {"no calibration", R"({"calibration": null})", Code::kDataLoss, "\"calibration\": expected an object"}}) {
    CAPTURE(row.name);
    nlohmann::json json = nlohmann::json::parse(SerialiseManifest(Example()));
    json.merge_patch(nlohmann::json::parse(row.patch));
    const auto parsed = Parse(json.dump());
    REQUIRE_FALSE(parsed.has_value());
    CHECK(parsed.error().code == row.code);
    CHECK(parsed.error().message.find(row.reason) != std::string::npos);
    CHECK(parsed.error().message.find("compressed.json") != std::string::npos);
  }
}

TEST_CASE("a compressed model is written whole, opened, and refers to its base wherever both are") {
  const testing::TemporaryFolder folder;
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  const Base base = OpenBase(folder / "m").value();
  CHECK(base.weights.config().layers == 2);
  CHECK_FALSE(base.chat_template.has_value());
  const kv_cache::Basis basis = TinyBasis(base.weights);
  REQUIRE(Save(folder / "c", ManifestFor(basis), &basis, false).has_value());
  CHECK(IsCompressed(folder / "c"));
  CHECK_FALSE(IsCompressed(folder / "m"));
  const Model model = Open(folder / "c", {}).value();
  CHECK(model.method == "report");
  CHECK(model.scheme->bytes_per_token() == 2 * 2 * 2 * 2);
  CHECK(*model.basis == basis);
  // Seen from the manifest, not from where the program runs; the base may be somewhere else.
  std::filesystem::create_directory(folder / "d");
  std::filesystem::rename(folder / "c", folder / "d/c");
  CHECK(Open(folder / "d/c", {}).error().code == Code::kNotFound);
  Options elsewhere;
  elsewhere.base = folder / "m";
  CHECK(Open(folder / "d/c", elsewhere).has_value());
  CHECK(Open(folder / "m", elsewhere).error().code == Code::kInvalidArgument);
}

// Bytes of `file` that this process holds in memory, of all its mappings of it.
std::uint64_t ResidentBytes(const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/smaps");
  REQUIRE(maps.good());
  std::uint64_t kilobytes = 0;
  bool is_of_file = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) {
      is_of_file = line.ends_with(file.string());
    } else if (is_of_file && line.starts_with("Rss:")) {
      kilobytes += std::stoull(line.substr(4));
    }
  }
  return kilobytes * 1024;
}

TEST_CASE("an opened model holds its weights in memory once") {
  const auto shipped = FindShipped(std::filesystem::read_symlink("/proc/self/exe"));
  REQUIRE(shipped.has_value());
  const std::filesystem::path file = std::filesystem::canonical(*shipped) / "model.safetensors";
  const Model model = Open(*shipped, {}).value();
  const weights::Tensor& tensor = model.base.weights.gpt2()->wte;
  CHECK(ResidentBytes(file) < std::filesystem::file_size(file) / 10);
  // They can still be read, and the count above counts.
  CHECK(weights::CheckFinite(tensor).has_value());
  CHECK(ResidentBytes(file) >= tensor.bytes.size());
}

TEST_CASE("weights that have changed since are refused, and so is a damaged basis") {
  const testing::TemporaryFolder folder;
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  const kv_cache::Basis basis = TinyBasis(OpenBase(folder / "m").value().weights);
  REQUIRE(Save(folder / "c", ManifestFor(basis), &basis, false).has_value());
  Manifest plain = ManifestFor(basis);
  plain.method = "int8";
  REQUIRE(Save(folder / "p", plain, nullptr, false).has_value());
  CHECK(Open(folder / "p", {}).value().method == "int8");

  testing::TinyModel other;
  other.seed = 2;
  REQUIRE(testing::WriteTinyModel(folder, "m", other));
  for (const char* name : {"c", "p"}) {
    CAPTURE(name);
    const auto opened = Open(folder / name, {});
    REQUIRE_FALSE(opened.has_value());
    CHECK(opened.error().code == Code::kFailedPrecondition);
    CHECK(opened.error().message.find("have changed") != std::string::npos);
  }
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  REQUIRE(Open(folder / "c", {}).has_value());

  auto bytes = files::ReadFile(folder / "c/basis.bin").value();
  bytes[90] ^= 1;
  REQUIRE(folder.Write("c/basis.bin", bytes));
  const auto flipped = Open(folder / "c", {});
  CHECK(flipped.error().code == Code::kDataLoss);
  CHECK(flipped.error().message.find("SHA-256") != std::string::npos);
  bytes.pop_back();
  REQUIRE(folder.Write("c/basis.bin", bytes));
  CHECK(Open(folder / "c", {}).error().message.find("bytes, as compressed.json says") != std::string::npos);
  // A good basis of another method than the manifest says.
  REQUIRE(Save(folder / "c", ManifestFor(basis), &basis, true).has_value());
  Manifest lying = OpenManifest(folder / "c").value();
  lying.method = "latent";
  REQUIRE(folder.Write("c/compressed.json", SerialiseManifest(lying)));
  CHECK(Open(folder / "c", {}).error().code == Code::kDataLoss);
}

TEST_CASE("nothing but a compressed model is ever replaced") {
  const testing::TemporaryFolder folder;
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  const kv_cache::Basis basis = TinyBasis(OpenBase(folder / "m").value().weights);
  const Manifest manifest = ManifestFor(basis);
  REQUIRE(Save(folder / "c", manifest, &basis, false).has_value());
  CHECK(Save(folder / "c", manifest, &basis, false).error().code == Code::kAlreadyExists);
  CHECK(Save(folder / "c", manifest, &basis, true).has_value());
  CHECK(Save(folder / "m", manifest, &basis, true).error().code == Code::kFailedPrecondition);
  CHECK(files::ReadFile(folder / "m/config.json").has_value());
  REQUIRE(folder.Write("f", "file"));
  CHECK(Save(folder / "f", manifest, &basis, true).error().code == Code::kFailedPrecondition);
  CHECK(Save(folder / "no/c", manifest, &basis, false).error().code == Code::kNotFound);
  for (int n = 1; n < 100; ++n) {
    files::FailOperationForTest(n, ENOSPC);
    const auto saved = Save(folder / "new", manifest, &basis, false);
    if (!files::FailOperationForTest(0, 0)) {
      CHECK(saved.has_value());
      break;
    }
    CHECK(saved.error().code == Code::kResourceExhausted);
    CHECK_FALSE(std::filesystem::exists(folder / "new"));
  }
}

TEST_CASE("a directory that is no model is refused with what is wrong") {
  const testing::TemporaryFolder folder;
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  CHECK(Open(folder / "none", {}).error().code == Code::kNotFound);
  REQUIRE(folder.Write("file", "x"));
  CHECK(Open(folder / "file", {}).error().code == Code::kDataLoss);
  Options options;
  options.plain_method = "latent";
  CHECK(Open(folder / "m", options).error().code == Code::kInvalidArgument);
  REQUIRE(folder.Write("m/holo.json", R"({"template": {"prompt": "{user}", "stop": "\n"}})"));
  CHECK(OpenBase(folder / "m").value().chat_template->stop == "\n");
  REQUIRE(folder.Write("m/holo.json", R"({"template": 3})"));
  CHECK(OpenBase(folder / "m").error().code == Code::kInvalidArgument);

  testing::TinyModel nan;
  nan.nan = "h.1.mlp.c_fc.weight";
  REQUIRE(testing::WriteTinyModel(folder, "nan", nan));
  const auto opened = Open(folder / "nan", {});
  CHECK(opened.error().code == Code::kInvalidArgument);
  CHECK(opened.error().message.find("h.1.mlp.c_fc.weight") != std::string::npos);

  // A tokenizer that knows more tokens than the model.
  REQUIRE(testing::WriteTinyModel(folder, "more"));
  auto vocabulary = nlohmann::json::parse(files::ReadFile(folder / "more/vocab.json").value());
  vocabulary["<|one more|>"] = testing::kTinyVocabulary;
  REQUIRE(folder.Write("more/vocab.json", vocabulary.dump()));
  CHECK(OpenBase(folder / "more").error().message.find("at most 258 tokens") != std::string::npos);
}

TEST_CASE("the model that ships is found from a program below or beside it") {
  const testing::TemporaryFolder folder;
  CHECK(FindShipped(folder / "build/release/client/cli/holo").error().code == Code::kNotFound);
  REQUIRE(folder.Write("deploy/models/novelist/config.json", "{}"));
  CHECK(FindShipped(folder / "build/release/client/cli/holo").value() == folder / "deploy/models/novelist");
  REQUIRE(folder.Write("usr/share/holo/models/novelist/config.json", "{}"));
  CHECK(FindShipped(folder / "usr/bin/holo").value() == folder / "usr/share/holo/models/novelist");
}

}  // namespace
}  // namespace holo::model_directory
