#include <algorithm>
#include <cmath>

#include "common/bytes/bytes.h"
#include "common/json/json.h"
#include "common/language_model/model_directory/model_directory.h"

namespace holo::model_directory {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "holo compressed model";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kMaxPathBytes = 4096;
constexpr std::size_t kMaxNameBytes = 255;
constexpr const char* kMethods[] = {"fp32", "fp16", "int8", "int4", "latent", "report", "stored"};

// One object of the manifest.
class Reader {
 public:
  Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  [[nodiscard]] const Json* Find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }

  [[nodiscard]] tl::unexpected<Error> Problem(const char* key, const std::string& expected) const {
    const Json* value = Find(key);
    return Fail(Code::kDataLoss, where_ + ": \"" + key + "\": expected " + expected + ", found " +
                                     (value == nullptr ? "nothing" : value->dump(-1, ' ', true).substr(0, 100)));
  }

  [[nodiscard]] Result<std::string> Text(const char* key, std::size_t max_bytes) const {
    const Json* value = Find(key);
    const bool is_good = value != nullptr && value->is_string() && !value->get_ref<const std::string&>().empty() &&
                         value->get_ref<const std::string&>().size() <= max_bytes &&
                         value->get_ref<const std::string&>().find('\0') == std::string::npos;
    if (!is_good) return Problem(key, "a string of 1 to " + std::to_string(max_bytes) + " bytes");
    return value->get<std::string>();
  }

  [[nodiscard]] Result<Digest> Hash(const char* key) const {
    const Json* value = Find(key);
    if (value != nullptr && value->is_string() && value->get_ref<const std::string&>().size() == 64) {
      if (const auto parsed = bytes::FromHex(value->get_ref<const std::string&>())) {
        Digest digest{};
        std::copy(parsed->begin(), parsed->end(), digest.begin());
        return digest;
      }
    }
    return Problem(key, "64 hexadecimal digits");
  }

  [[nodiscard]] Result<Reader> Object(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr || !value->is_object()) return Problem(key, "an object");
    return Reader(*value, where_ + ": \"" + key + "\"");
  }

 private:
  const Json& object_;
  std::string where_;
};

}  // namespace

std::optional<kv_cache::Precision> PlainMethod(std::string_view method) {
  for (const auto precision : {kv_cache::Precision::kF32, kv_cache::Precision::kF16, kv_cache::Precision::kInt8,
                               kv_cache::Precision::kInt4}) {
    if (method == kv_cache::PrecisionName(precision)) return precision;
  }
  return std::nullopt;
}

std::string SerialiseManifest(const Manifest& manifest) {
  Json out = {{"format", kFormat},
              {"version", kVersion},
              {"method", manifest.method},
              {"base", {{"path", manifest.base_path}, {"fingerprint", bytes::ToHex(manifest.base_fingerprint)}}},
              {"bytes_per_token", manifest.bytes_per_token},
              {"calibration", manifest.calibration}};
  if (manifest.basis) {
    out["basis"] = {{"file", manifest.basis->name},
                    {"bytes", manifest.basis->size_bytes},
                    {"sha256", bytes::ToHex(manifest.basis->sha256)}};
  }
  // A path need not be UTF-8.
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Manifest> ParseManifest(std::span<const std::uint8_t> text, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const Json root, json::Parse(text, name, {.max_depth = 8, .max_values = 10'000}));
  if (!root.is_object()) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected an object, found " + std::string(json::KindOf(root)));
  }
  const Reader reader(root, std::string(name));
  const Json* format = reader.Find("format");
  if (format == nullptr || *format != kFormat) return reader.Problem("format", "\"" + std::string(kFormat) + "\"");
  const Json* version = reader.Find("version");
  if (version == nullptr || !version->is_number_unsigned()) return reader.Problem("version", "a whole number");
  if (*version != kVersion) {
    return Fail(Code::kUnimplemented, std::string(name) + ": \"version\": expected " + std::to_string(kVersion) +
                                          ", found " + version->dump());
  }
  Manifest manifest;
  HOLO_ASSIGN_OR_RETURN(manifest.method, reader.Text("method", 100));
  if (std::find(std::begin(kMethods), std::end(kMethods), manifest.method) == std::end(kMethods)) {
    return Fail(Code::kUnimplemented, std::string(name) +
                                          ": \"method\": expected fp32, fp16, int8, int4, latent, report or stored, "
                                          "found \"" + manifest.method + "\"");
  }
  HOLO_ASSIGN_OR_RETURN(const Reader base, reader.Object("base"));
  HOLO_ASSIGN_OR_RETURN(manifest.base_path, base.Text("path", kMaxPathBytes));
  HOLO_ASSIGN_OR_RETURN(manifest.base_fingerprint, base.Hash("fingerprint"));
  const Json* bytes_per_token = reader.Find("bytes_per_token");
  if (bytes_per_token == nullptr || !bytes_per_token->is_number() || !(bytes_per_token->get<double>() > 0)) {
    return reader.Problem("bytes_per_token", "a number above 0");
  }
  manifest.bytes_per_token = bytes_per_token->get<double>();
  const Json* calibration = reader.Find("calibration");
  if (calibration == nullptr || !calibration->is_object()) return reader.Problem("calibration", "an object");
  manifest.calibration = *calibration;
  if (PlainMethod(manifest.method)) {
    if (reader.Find("basis") != nullptr) return reader.Problem("basis", "nothing with method " + manifest.method);
    return manifest;
  }
  HOLO_ASSIGN_OR_RETURN(const Reader basis, reader.Object("basis"));
  Manifest::BasisFile file;
  HOLO_ASSIGN_OR_RETURN(file.name, basis.Text("file", kMaxNameBytes));
  if (file.name.find('/') != std::string::npos || file.name == "." || file.name == "..") {
    return basis.Problem("file", "the name of a file in the same directory");
  }
  const Json* size = basis.Find("bytes");
  if (size == nullptr || !size->is_number_unsigned() || size->get<std::uint64_t>() > kMaxBasisBytes) {
    return basis.Problem("bytes", "a whole number up to " + std::to_string(kMaxBasisBytes));
  }
  file.size_bytes = size->get<std::uint64_t>();
  HOLO_ASSIGN_OR_RETURN(file.sha256, basis.Hash("sha256"));
  manifest.basis = std::move(file);
  return manifest;
}

}  // namespace holo::model_directory
