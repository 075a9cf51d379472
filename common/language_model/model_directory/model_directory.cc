#include "common/language_model/model_directory/model_directory.h"

#include <algorithm>

#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/json/json.h"
#include "common/language_model/gguf/gguf.h"

namespace holo::model_directory {
namespace {

namespace fs = std::filesystem;

Error At(Error error, const fs::path& path) {
  return WithContext(std::move(error), path.string());
}

Result<std::shared_ptr<const kv_cache::Scheme>> MakePlain(const weights::Config& config, std::string_view method) {
  const auto precision = PlainMethod(method);
  if (!precision) {
    return Fail(Code::kInvalidArgument,
                "cache: expected fp32, fp16, int8 or int4, found \"" + std::string(method) + "\"");
  }
  return kv_cache::MakePlainScheme({config.layers, config.heads, config.head_width(), config.keys()}, *precision);
}

}  // namespace

bool IsCompressed(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / kManifestName, ignored);
}

namespace {

constexpr std::uint64_t kMaxTokenizerConfigBytes = std::uint64_t{16} << 20;

Result<void> CheckTokenizer(const tokenizer::Tokenizer& tokenizer, const weights::Config& config, bool has_to_be_equal,
                            const fs::path& path) {
  if (tokenizer.vocabulary() == config.vocabulary) return {};
  if (!has_to_be_equal && tokenizer.vocabulary() < config.vocabulary) return {};
  return Fail(Code::kInvalidArgument, path.string() + ": expected a tokenizer of " +
                                          (has_to_be_equal ? "" : "at most ") + std::to_string(config.vocabulary) +
                                          " tokens, as many as the model has, found " +
                                          std::to_string(tokenizer.vocabulary()));
}

// Of a directory's chat_template.jinja or tokenizer_config.json.
Result<chat_template::Style> StyleOfDirectory(const fs::path& path) {
  std::error_code ignored;
  const fs::path jinja = path / "chat_template.jinja";
  if (fs::exists(jinja, ignored)) {
    HOLO_ASSIGN_OR_RETURN(const auto text, files::ReadFile(jinja, kMaxManifestBytes));
    return chat_template::Recognise({reinterpret_cast<const char*>(text.data()), text.size()}, jinja.string());
  }
  const fs::path config = path / "tokenizer_config.json";
  if (fs::exists(config, ignored)) {
    HOLO_ASSIGN_OR_RETURN(const auto text, files::ReadFile(config, kMaxTokenizerConfigBytes));
    HOLO_ASSIGN_OR_RETURN(const nlohmann::json parsed, json::Parse(text, config.string()));
    const auto found = parsed.is_object() ? parsed.find("chat_template") : parsed.end();
    if (parsed.is_object() && found != parsed.end() && found->is_string()) {
      return chat_template::Recognise(found->get_ref<const std::string&>(), config.string());
    }
  }
  return Fail(Code::kNotFound, path.string() + ": chat template: expected chat_template.jinja, or \"chat_template\" in "
                                               "tokenizer_config.json, found neither; choose one of chatml, "
                                               "llama2 and llama3");
}

Result<Base> OpenGguf(const fs::path& path) {
  HOLO_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::Open(path));
  Base base;
  base.path = path;
  HOLO_ASSIGN_OR_RETURN(weights::LlamaWeights weights, weights::LlamaFromGguf(file));
  base.weights = std::move(weights);
  HOLO_ASSIGN_OR_RETURN(tokenizer::Tokenizer tokenizer, tokenizer::Tokenizer::FromGguf(file));
  HOLO_RETURN_IF_ERROR(CheckTokenizer(tokenizer, base.weights.config(), /*has_to_be_equal=*/true, path));
  base.tokenizer = std::make_shared<const tokenizer::Tokenizer>(std::move(tokenizer));
  base.chat_style = chat_template::Recognise(file);
  return base;
}

}  // namespace

Result<Base> OpenBase(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return OpenGguf(path);
  if (!fs::is_directory(path, ignored)) {
    return Fail(fs::exists(path, ignored) ? Code::kInvalidArgument : Code::kNotFound,
                path.string() + ": expected a model directory or a GGUF file, found " +
                    (fs::exists(path, ignored) ? "something else" : "nothing"));
  }
  Base base;
  base.path = path;
  HOLO_ASSIGN_OR_RETURN(base.weights, weights::Open(path));
  HOLO_ASSIGN_OR_RETURN(tokenizer::Tokenizer tokenizer, tokenizer::Tokenizer::Open(path));
  HOLO_RETURN_IF_ERROR(CheckTokenizer(tokenizer, base.weights.config(), /*has_to_be_equal=*/false, path));
  base.tokenizer = std::make_shared<const tokenizer::Tokenizer>(std::move(tokenizer));
  base.chat_style = StyleOfDirectory(path);
  const fs::path chat_path = path / kTemplateName;
  if (fs::exists(chat_path, ignored)) {
    HOLO_ASSIGN_OR_RETURN(const auto json, files::ReadFile(chat_path, kMaxManifestBytes));
    HOLO_ASSIGN_OR_RETURN(base.chat_template, chat::ParseTemplate(json, chat_path.string()));
  }
  return base;
}

Result<chat::Form> ChatForm(const Base& base, std::string_view choice) {
  const auto create = [&](chat_template::Style style) -> Result<chat::Form> {
    auto form = chat_template::ChatTemplate::Create(std::move(style), *base.tokenizer);
    if (!form) return tl::unexpected(At(std::move(form).error(), base.path));
    return chat::Form(std::move(*form));
  };
  if (choice == "plain") return chat::Form(chat::PlainTemplate(*base.tokenizer));
  if (!choice.empty()) {
    HOLO_ASSIGN_OR_RETURN(const chat_template::Format format, chat_template::ParseFormat(choice));
    if (base.chat_style && base.chat_style->format == format) return create(*base.chat_style);
    chat_template::Style style;
    style.format = format;
    return create(std::move(style));
  }
  if (base.chat_template) return chat::Form(*base.chat_template);
  if (base.chat_style) return create(*base.chat_style);
  const Error& error = base.chat_style.error();
  if (error.code != Code::kNotFound) return tl::unexpected(error);
  if (base.weights.gpt2() != nullptr) return chat::Form(chat::PlainTemplate(*base.tokenizer));
  return Fail(Code::kFailedPrecondition, error.message + ", or plain");
}

Result<Manifest> OpenManifest(const fs::path& path) {
  const fs::path file = path / kManifestName;
  HOLO_ASSIGN_OR_RETURN(const auto json, files::ReadFile(file, kMaxManifestBytes));
  return ParseManifest(json, file.string());
}

Result<kv_cache::Basis> OpenBasis(const fs::path& path, const Manifest& manifest) {
  const fs::path file = path / manifest.basis->name;
  HOLO_ASSIGN_OR_RETURN(const auto content, files::ReadFile(file, kMaxBasisBytes));
  if (content.size() != manifest.basis->size_bytes) {
    return Fail(Code::kDataLoss, file.string() + ": expected " + std::to_string(manifest.basis->size_bytes) +
                                     " bytes, as " + std::string(kManifestName) + " says, found " +
                                     std::to_string(content.size()));
  }
  if (const Digest found = bytes::Sha256(content); found != manifest.basis->sha256) {
    return Fail(Code::kDataLoss, file.string() + ": expected SHA-256 " + bytes::ToHex(manifest.basis->sha256) +
                                     ", as " + std::string(kManifestName) + " says, found " + bytes::ToHex(found));
  }
  HOLO_ASSIGN_OR_RETURN(kv_cache::Basis basis, kv_cache::ParseBasis(content, file.string()));
  if (basis.base_fingerprint != manifest.base_fingerprint || kv_cache::MethodName(basis.method) != manifest.method) {
    return Fail(Code::kDataLoss, file.string() + ": expected a basis of method " + manifest.method +
                                     " for the model " + bytes::ToHex(manifest.base_fingerprint) + ", as " +
                                     std::string(kManifestName) + " says, found method " +
                                     std::string(kv_cache::MethodName(basis.method)) + " for " +
                                     bytes::ToHex(basis.base_fingerprint));
  }
  return basis;
}

Result<Model> Open(const fs::path& path, const Options& options) {
  Model model;
  model.path = path;
  fs::path base_path = path;
  if (IsCompressed(path)) {
    HOLO_ASSIGN_OR_RETURN(model.manifest, OpenManifest(path));
    if (model.manifest->basis) {
      HOLO_ASSIGN_OR_RETURN(kv_cache::Basis basis, OpenBasis(path, *model.manifest));
      model.basis = std::make_shared<const kv_cache::Basis>(std::move(basis));
    }
    base_path = options.base.empty() ? path / model.manifest->base_path : options.base;
    std::error_code ignored;
    if (!fs::exists(base_path, ignored)) {
      return Fail(Code::kNotFound, path.string() + ": its base model " + base_path.string() +
                                       " is not there; if it was moved, say where it is (--base)");
    }
  } else if (!options.base.empty()) {
    return Fail(Code::kInvalidArgument, path.string() + ": a base model is for compressed models, this is none");
  }
  HOLO_ASSIGN_OR_RETURN(model.base, OpenBase(base_path));
  const weights::Weights& weights = model.base.weights;
  if (model.manifest) {
    const Digest found = weights::Fingerprint(weights);
    if (found != model.manifest->base_fingerprint) {
      return Fail(Code::kFailedPrecondition,
                  path.string() + ": it was made for weights with fingerprint " +
                      bytes::ToHex(model.manifest->base_fingerprint) + ", those of " + base_path.string() +
                      " have " + bytes::ToHex(found) + ": they have changed, and it has to be built anew");
    }
  }
  auto loaded = transformer::Model::Create(weights, options.weight_type);
  if (!loaded) return tl::unexpected(At(std::move(loaded).error(), base_path));
  model.transformer = std::move(*loaded);
  model.method = model.manifest ? model.manifest->method : options.plain_method;
  auto scheme = model.basis ? calibration::MakeScheme(*model.basis, weights) : MakePlain(weights.config(), model.method);
  if (!scheme) return tl::unexpected(At(std::move(scheme).error(), path));
  model.scheme = std::move(*scheme);
  return model;
}

Result<void> CheckReplaceable(const fs::path& path, bool force) {
  std::error_code error;
  const fs::path target = path.filename().empty() ? path.parent_path() : path;
  const fs::path parent = target.parent_path();
  if (!parent.empty() && !fs::is_directory(parent, error)) {
    return Fail(Code::kNotFound, "write " + path.string() + ": there is no folder " + parent.string());
  }
  if (!fs::exists(target, error)) return {};
  if (!force) return Fail(Code::kAlreadyExists, path.string() + ": this exists; -f replaces it");
  if (!fs::is_directory(target, error)) {
    return Fail(Code::kFailedPrecondition, path.string() + ": only a compressed model is replaced, this is a file");
  }
  for (const auto& entry : fs::directory_iterator(target, error)) {
    const std::string name = entry.path().filename().string();
    if (name == kManifestName || name == kBasisName) continue;
    return Fail(Code::kFailedPrecondition, path.string() + ": only a compressed model is replaced, this has " + name +
                                               " in it");
  }
  if (error) return tl::unexpected(files::FromErrno(error.value(), "list", path));
  return {};
}

Result<void> Save(const fs::path& path, Manifest manifest, const kv_cache::Basis* basis, bool force) {
  HOLO_RETURN_IF_ERROR(CheckReplaceable(path, force));
  std::vector<std::uint8_t> basis_bytes;
  manifest.basis.reset();
  if (basis != nullptr) {
    basis_bytes = kv_cache::SerialiseBasis(*basis);
    manifest.basis = {std::string(kBasisName), basis_bytes.size(), bytes::Sha256(basis_bytes)};
  }
  const std::string text = SerialiseManifest(manifest);
  std::vector<files::NamedBytes> contents = {
      {std::string(kManifestName), {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}}};
  if (basis != nullptr) contents.push_back({std::string(kBasisName), basis_bytes});
  return files::AtomicWriteDirectory(path, contents, force ? files::IfExists::kReplace : files::IfExists::kFail);
}

const NamedModel* FindNamed(std::string_view name) {
  for (const NamedModel& model : kNamedModels) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

Result<fs::path> PathOfNamed(const NamedModel& model) {
  HOLO_ASSIGN_OR_RETURN(const fs::path cache, files::UserCacheDir());
  return cache / "models" / model.name / fs::path(model.file).filename();
}

Result<fs::path> Locate(const std::string& path) {
  std::error_code ignored;
  const NamedModel* model = FindNamed(path);
  if (model == nullptr || fs::exists(path, ignored)) return fs::path(path);
  HOLO_ASSIGN_OR_RETURN(fs::path file, PathOfNamed(*model));
  if (fs::exists(file, ignored)) return file;
  return Fail(Code::kNotFound, path + ": expected this model as " + file.string() + ", found nothing; holo lm pull " +
                                   path + " fetches it");
}

Result<fs::path> FindShipped(const fs::path& program) {
  std::error_code ignored;
  for (fs::path folder = program.parent_path(); !folder.empty(); folder = folder.parent_path()) {
    for (const char* below : {"deploy/models/novelist", "share/holo/models/novelist"}) {
      if (fs::exists(folder / below / "config.json", ignored)) return folder / below;
    }
    if (folder == folder.parent_path()) break;
  }
  return Fail(Code::kNotFound,
              "model: expected the one that ships in deploy/models/novelist or share/holo/models/novelist above " +
                  program.string() + ", found none; name a GPT-2 directory instead");
}

}  // namespace holo::model_directory
