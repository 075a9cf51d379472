// The safetensors format: https://github.com/huggingface/safetensors#format
#include <algorithm>
#include <set>
#include <utility>

#include "common/bytes/bytes.h"
#include "common/json/json.h"
#include "common/language_model/weights/weights.h"

namespace holo::weights {
namespace {

constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxShards = 1024;
constexpr std::size_t kMaxNameBytes = 512;

std::string Bytes(std::uint64_t count) {
  return std::to_string(count) + " bytes";
}

std::optional<Dtype> DtypeFromName(std::string_view name) {
  for (std::uint8_t i = 0; i <= static_cast<std::uint8_t>(Dtype::kF64); ++i) {
    if (DtypeName(static_cast<Dtype>(i)) == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

// The numbers of an array of at most `max_count` whole numbers, none negative.
Result<std::vector<std::uint64_t>> Numbers(const nlohmann::json& entry, const char* key, std::size_t max_count,
                                           const std::string& where) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array() || found->size() > max_count) {
    return Fail(Code::kDataLoss, where + ": expected \"" + key + "\" with at most " + std::to_string(max_count) +
                                     " numbers, found " +
                                     (found == entry.end() ? "none"
                                      : found->is_array()  ? std::to_string(found->size())
                                                           : std::string(json::KindOf(*found))));
  }
  std::vector<std::uint64_t> numbers;
  for (const nlohmann::json& number : *found) {
    if (!number.is_number_unsigned()) {
      return Fail(Code::kDataLoss, where + ": expected whole numbers from 0 in \"" + key + "\", found " +
                                       std::string(json::KindOf(number)));
    }
    numbers.push_back(number.get<std::uint64_t>());
  }
  return numbers;
}

Result<Tensor> ParseEntry(const std::string& tensor_name, const nlohmann::json& entry,
                          std::span<const std::uint8_t> data, std::string_view name) {
  const std::string where = std::string(name) + ": tensor " + tensor_name.substr(0, kMaxNameBytes);
  if (tensor_name.size() > kMaxNameBytes) {
    return Fail(Code::kDataLoss, where + "...: expected a name of at most " + Bytes(kMaxNameBytes));
  }
  if (!entry.is_object()) {
    return Fail(Code::kDataLoss, where + ": expected an object, found " + std::string(json::KindOf(entry)));
  }
  Tensor tensor;
  tensor.name = tensor_name;
  const auto type = entry.find("dtype");
  if (type == entry.end() || !type->is_string()) {
    return Fail(Code::kDataLoss, where + ": expected \"dtype\" with the name of a type");
  }
  const std::optional<Dtype> dtype = DtypeFromName(type->get_ref<const std::string&>());
  if (!dtype) {
    return Fail(Code::kUnimplemented, where + ": expected a type such as F32, F16 or BF16, found \"" +
                                          type->get_ref<const std::string&>().substr(0, 40) + "\"");
  }
  tensor.dtype = *dtype;
  HOLO_ASSIGN_OR_RETURN(tensor.shape, Numbers(entry, "shape", kMaxDimensions, where));
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> offsets, Numbers(entry, "data_offsets", 2, where));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Fail(Code::kDataLoss, where + ": expected \"data_offsets\" [begin, end], begin not beyond end");
  }
  if (offsets[1] > data.size()) {
    return Fail(Code::kDataLoss, where + ": expected its data to end at byte " + std::to_string(offsets[1]) +
                                     " after the header, found that the file is cut off at " +
                                     std::to_string(data.size()));
  }
  std::uint64_t expected_bytes = DtypeBytes(*dtype);
  for (const std::uint64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(expected_bytes, extent, &expected_bytes)) {
      return Fail(Code::kDataLoss,
                  where + ": expected a shape that a file can hold, found " + ShapeToString(tensor.shape));
    }
  }
  if (expected_bytes != offsets[1] - offsets[0]) {
    return Fail(Code::kDataLoss, where + ": expected " + Bytes(expected_bytes) + " for " +
                                     std::string(DtypeName(*dtype)) + " of shape " + ShapeToString(tensor.shape) +
                                     ", found " + Bytes(offsets[1] - offsets[0]) + " between its offsets");
  }
  tensor.bytes = data.subspan(offsets[0], expected_bytes);
  return tensor;
}

// A file of this folder, not a way out of it.
bool IsShardName(std::string_view name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

Result<std::vector<Tensor>> MapSafetensors(const std::filesystem::path& path, TensorSet& set) {
  HOLO_ASSIGN_OR_RETURN(auto file, files::MappedFile::Open(path));
  set.files.push_back(file);
  return ParseSafetensors(file->bytes(), path.string());
}

Result<TensorSet> OpenShards(const std::filesystem::path& index_path) {
  HOLO_ASSIGN_OR_RETURN(const auto bytes, files::ReadFile(index_path, kMaxIndexBytes));
  const std::string name = index_path.string();
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json index, json::Parse(bytes, name));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    return Fail(Code::kDataLoss, name + ": expected \"weight_map\" with a file for every tensor");
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsShardName(shard.get_ref<const std::string&>())) {
      return Fail(Code::kDataLoss, name + ": tensor " + tensor.substr(0, kMaxNameBytes) +
                                       ": expected the name of a .safetensors file in the same folder, found " +
                                       shard.dump(-1, ' ', true).substr(0, 100));
    }
    shards[shard.get<std::string>()].push_back(tensor);
    if (shards.size() > kMaxShards) {
      return Fail(Code::kResourceExhausted, name + ": expected at most " + std::to_string(kMaxShards) + " files");
    }
  }
  TensorSet set;
  for (const auto& [shard, wanted] : shards) {
    const std::filesystem::path path = index_path.parent_path() / shard;
    auto tensors = MapSafetensors(path, set);
    if (!tensors) return tl::unexpected(WithContext(std::move(tensors).error(), name));
    std::map<std::string, Tensor, std::less<>> found;
    for (Tensor& tensor : *tensors) found.emplace(tensor.name, std::move(tensor));
    for (const std::string& tensor : wanted) {
      auto node = found.extract(tensor);
      if (node.empty()) {
        return Fail(Code::kDataLoss, name + ": tensor " + tensor + ": expected it in " + shard + ", found none there");
      }
      set.tensors.insert(std::move(node));
    }
  }
  return set;
}

}  // namespace

Result<std::vector<Tensor>> ParseSafetensors(std::span<const std::uint8_t> file, std::string_view name) {
  bytes::ByteReader reader(file, name);
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t header_bytes, reader.ReadU64());
  if (header_bytes > std::min(kMaxHeaderBytes, std::uint64_t{reader.remaining()})) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a safetensors header of at most " +
                                     Bytes(std::min(kMaxHeaderBytes, std::uint64_t{reader.remaining()})) +
                                     ", found the length " + std::to_string(header_bytes));
  }
  HOLO_ASSIGN_OR_RETURN(const auto header_text, reader.ReadSpan(header_bytes));
  HOLO_ASSIGN_OR_RETURN(const auto data, reader.ReadSpan(reader.remaining()));
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json header, json::Parse(header_text, std::string(name) + ": header"));
  if (!header.is_object()) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": header: expected an object, found " + std::string(json::KindOf(header)));
  }
  std::vector<Tensor> tensors;
  for (const auto& [tensor_name, entry] : header.items()) {
    if (tensor_name == "__metadata__") continue;
    HOLO_ASSIGN_OR_RETURN(Tensor tensor, ParseEntry(tensor_name, entry, data, name));
    tensors.push_back(std::move(tensor));
  }
  // Empty tensors before the ones that begin where they lie.
  std::stable_sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  std::uint64_t expected_begin = 0;
  std::string_view previous = "the header";
  for (const Tensor& tensor : tensors) {
    const auto begin = static_cast<std::uint64_t>(tensor.bytes.data() - data.data());
    if (begin != expected_begin) {
      return Fail(Code::kDataLoss, std::string(name) + ": tensor " + tensor.name +
                                       ": expected its data to begin at byte " + std::to_string(expected_begin) +
                                       " after the header, where " + std::string(previous) + " ends, found " +
                                       std::to_string(begin) + (begin < expected_begin ? ": they overlap" : ": a gap"));
    }
    expected_begin = begin + tensor.bytes.size();
    previous = tensor.name;
  }
  if (expected_begin != data.size()) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected the last tensor, " + std::string(previous) +
                                     ", to end with the file, found " + Bytes(data.size() - expected_begin) +
                                     " after it");
  }
  return tensors;
}

const Tensor* TensorSet::Find(std::string_view name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

Result<TensorSet> OpenTensors(const std::filesystem::path& model_dir) {
  std::error_code ignored;
  const std::filesystem::path single = model_dir / "model.safetensors";
  const std::filesystem::path index = model_dir / "model.safetensors.index.json";
  if (std::filesystem::exists(single, ignored)) {
    TensorSet set;
    HOLO_ASSIGN_OR_RETURN(std::vector<Tensor> tensors, MapSafetensors(single, set));
    for (Tensor& tensor : tensors) set.tensors.emplace(tensor.name, std::move(tensor));
    return set;
  }
  if (std::filesystem::exists(index, ignored)) return OpenShards(index);
  std::string found;
  if (!std::filesystem::is_directory(model_dir, ignored)) {
    found = std::filesystem::exists(model_dir, ignored) ? "a file in place of the folder" : "no such folder";
  } else if (std::filesystem::exists(model_dir / "pytorch_model.bin", ignored)) {
    found = "only pytorch_model.bin, which has to be converted";
  } else {
    found = "neither";
  }
  return Fail(Code::kNotFound,
              model_dir.string() + ": expected model.safetensors or model.safetensors.index.json, found " + found);
}

}  // namespace holo::weights
