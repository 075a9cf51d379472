#include "common/language_model/weights/weights.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "tests/common/language_model/weights/model_files.h"
#include "tests/temporary_folder.h"

namespace holo::weights {
namespace {

using testing::FloatTensor;
using testing::Gpt2ConfigJson;
using testing::Gpt2Tensors;
using testing::Safetensors;
using testing::TemporaryFolder;
using testing::TensorBytes;
using Bytes = std::vector<std::uint8_t>;

std::span<const std::uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string MessageOf(const Result<std::vector<Tensor>>& result) {
  return result ? "" : ToString(result.error());
}

std::string MessageOf(const Result<Gpt2Weights>& result) {
  return result ? "" : ToString(result.error());
}

// The GPT-2 that the tests below take and change.
struct SmallModel {
  std::map<std::string, TensorBytes> tensors = Gpt2Tensors(11, 5, 4, 2);
  nlohmann::json config = Gpt2ConfigJson(11, 5, 4, 2, 2);
  TemporaryFolder folder;

  Result<Gpt2Weights> Open() {
    folder.Write("config.json", config.dump());
    folder.Write("model.safetensors", Safetensors(tensors));
    return OpenGpt2(folder.path());
  }
  // The message without the folder's name.
  std::string Message() {
    std::string message = MessageOf(Open());
    const std::string path = folder.path().string();
    for (std::size_t at = message.find(path); at != std::string::npos; at = message.find(path)) {
      message.replace(at, path.size(), "DIR");
    }
    return message;
  }
};

TEST_CASE("the tensors of a safetensors file come with name, type, shape and bytes") {
  const Bytes file = Safetensors({{"b", FloatTensor({2, 1}, {1.5f, -2})}, {"a", {"BOOL", {}, {1}}}});
  const auto tensors = ParseSafetensors(file, "m.safetensors").value();
  REQUIRE(tensors.size() == 2);
  CHECK(tensors[0].name == "a");
  CHECK(tensors[0].dtype == Dtype::kBool);
  CHECK(tensors[0].shape.empty());
  CHECK(tensors[0].elements() == 1);
  CHECK(tensors[1].name == "b");
  CHECK(tensors[1].shape == std::vector<std::uint64_t>{2, 1});
  CHECK(ToFloat(tensors[1]).value() == std::vector<float>{1.5f, -2});
  CHECK(tensors[1].bytes.data() + tensors[1].bytes.size() == file.data() + file.size());
}

TEST_CASE("a file without tensors and tensors without elements are good") {
  CHECK(ParseSafetensors(Safetensors("{}   ", {}), "m").value().empty());
  const auto tensors = ParseSafetensors(
      Safetensors({{"a", FloatTensor({0, 3}, {})}, {"b", FloatTensor({1}, {7})}, {"c", FloatTensor({0}, {})}}), "m");
  CHECK(tensors.value().size() == 3);
}

TEST_CASE("a damaged safetensors file is refused with the tensor, what was expected and what was found") {
  struct Row {
    std::string header;
    std::size_t data_bytes;
    std::string message;
  };
  const Row rows[] = {
      {"", 0, "DATA_LOSS: m: header: expected JSON, found something else at byte 1"},
      {"[]", 0, "DATA_LOSS: m: header: expected an object, found an array"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1})", 4,
       "DATA_LOSS: m: header: expected each key once, found \"a\" again"},
      {R"({"a":7})", 0, "DATA_LOSS: m: tensor a: expected an object, found a whole number"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4,
       "DATA_LOSS: m: tensor a: expected \"dtype\" with the name of a type"},
      {R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}})", 4,
       "UNIMPLEMENTED: m: tensor a: expected a type such as F32, F16 or BF16, found \"F4\""},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
       "DATA_LOSS: m: tensor a: expected whole numbers from 0 in \"shape\", found a whole number"},
      {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4,
       "DATA_LOSS: m: tensor a: expected whole numbers from 0 in \"shape\", found a number"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4,
       "DATA_LOSS: m: tensor a: expected \"shape\" with at most 8 numbers, found 9"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4,
       "DATA_LOSS: m: tensor a: expected \"data_offsets\" with at most 2 numbers, found none"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
       "DATA_LOSS: m: tensor a: expected \"data_offsets\" [begin, end], begin not beyond end"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 11,
       "DATA_LOSS: m: tensor a: expected its data to end at byte 12 after the header, found that the file is cut off "
       "at "
       "11"},
      {R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}})", 12,
       "DATA_LOSS: m: tensor a: expected 16 bytes for F32 of shape [2, 2], found 12 bytes between its offsets"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "DATA_LOSS: m: tensor a: expected a shape that a file can hold, found [4294967296, 4294967296]"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
       5,
       "DATA_LOSS: m: tensor b: expected its data to begin at byte 4 after the header, where a ends, found 3: they "
       "overlap"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
       5,
       "DATA_LOSS: m: tensor b: expected its data to begin at byte 2 after the header, where a ends, found 3: a gap"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 5,
       "DATA_LOSS: m: expected the last tensor, a, to end with the file, found 3 bytes after it"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.header);
    CHECK(MessageOf(ParseSafetensors(Safetensors(row.header, Bytes(row.data_bytes)), "m")) == row.message);
  }
  Bytes long_header = Safetensors("{}", {});
  long_header[0] = 3;
  CHECK(MessageOf(ParseSafetensors(long_header, "m")) ==
        "DATA_LOSS: m: expected a safetensors header of at most 2 bytes, found the length 3");
  const std::string deep = R"({"a":)" + std::string(100'000, '[');
  CHECK(MessageOf(ParseSafetensors(Safetensors(deep, {}), "m")) ==
        "RESOURCE_EXHAUSTED: m: header: expected at most 32 arrays and objects inside each other, found more");
}

TEST_CASE("every cut and many changes of a safetensors file are survived") {
  const Bytes good = Safetensors({{"a", FloatTensor({2, 2}, {1, 2, 3, 4})}, {"b", {"U8", {3}, {1, 2, 3}}}});
  REQUIRE(ParseSafetensors(good, "m").has_value());
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    const Bytes prefix(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(ParseSafetensors(prefix, "m").has_value());
  }
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    Bytes damaged = good;
    damaged[random() % damaged.size()] = static_cast<std::uint8_t>(random());
    const auto tensors = ParseSafetensors(damaged, "m");
    if (!tensors) continue;
    for (const Tensor& tensor : *tensors) {
      CHECK(tensor.bytes.data() >= damaged.data());
      CHECK(tensor.bytes.data() + tensor.bytes.size() <= damaged.data() + damaged.size());
    }
  }
}

TEST_CASE("half precision becomes what ldexp says, all 65,536 of them") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const int mantissa = static_cast<int>(bits & 1023);
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
    if (exponent == 31) expected = mantissa == 0 ? INFINITY : NAN;
    if ((bits & 0x8000) != 0) expected = -expected;
    const float found = HalfToFloat(static_cast<std::uint16_t>(bits));
    const bool is_same = std::isnan(expected) ? std::isnan(found) : found == static_cast<float>(expected);
    if (!is_same || std::signbit(found) != ((bits & 0x8000) != 0)) FAIL_CHECK("bits " << bits << " give " << found);
  }
}

TEST_CASE("bfloat16 is the upper half of float32, and types convert at any alignment") {
  CHECK(BFloat16ToFloat(0x3F80) == 1);
  CHECK(BFloat16ToFloat(0xC049) == -3.140625f);
  const Bytes data = {9, 0x80, 0x3F, 0x49, 0xC0, 0x00, 0x3C, 0, 0, 0x80, 0x3F};
  const auto span = std::span(data);
  CHECK(ToFloat({"b", Dtype::kBF16, {2}, span.subspan(1, 4)}).value() == std::vector<float>{1, -3.140625f});
  CHECK(ToFloat({"h", Dtype::kF16, {1}, span.subspan(5, 2)}).value() == std::vector<float>{1});
  const Tensor odd{"f", Dtype::kF32, {1}, span.subspan(7, 4)};
  CHECK(ToFloat(odd).value() == std::vector<float>{1});
  CHECK_FALSE(Tensor{"b", Dtype::kBF16, {2}, span.subspan(1, 4)}.AsFloat().has_value());
  alignas(4) const std::uint8_t aligned[9] = {0, 0, 0x80, 0x3F, 0, 0, 0, 0x40, 0};
  CHECK(Tensor{"f", Dtype::kF32, {2}, std::span(aligned).first(8)}.AsFloat().value()[1] == 2);
  CHECK_FALSE(Tensor{"f", Dtype::kF32, {2}, std::span(aligned).subspan(1, 8)}.AsFloat().has_value());
}

TEST_CASE("NaN, infinity and integers are refused with their place") {
  std::vector<float> values(5000, 1);
  values[4000] = std::numeric_limits<float>::quiet_NaN();
  const TensorBytes raw = FloatTensor({50, 100}, values);
  Tensor tensor{"h.0.x", Dtype::kF32, raw.shape, raw.data};
  CHECK(CheckFinite(tensor).error().message ==
        "tensor h.0.x: expected finite numbers, found NaN as element 4000 of shape [50, 100]");
  CHECK(ToFloat(tensor).error().code == Code::kInvalidArgument);
  std::vector<float> part(10);
  CHECK(CopyToFloat(tensor, 3990, part).has_value());
  CHECK_FALSE(CopyToFloat(tensor, 3991, part).has_value());
  CHECK(CopyToFloat(tensor, 4991, part).error().code == Code::kOutOfRange);
  const Bytes halves = {0x00, 0xFC};
  CHECK(CheckFinite({"i", Dtype::kF16, {1}, halves}).error().message ==
        "tensor i: expected finite numbers, found infinity as element 0 of shape [1]");
  CHECK(CheckFinite({"i", Dtype::kU16, {1}, halves}).error().message ==
        "tensor i: expected type F32, F16 or BF16, found U16");
}

TEST_CASE("a GPT-2 directory opens, with and without prefix, masks and a head beside") {
  SmallModel plain;
  const Gpt2Weights weights = plain.Open().value();
  CHECK(weights.config.vocabulary == 11);
  CHECK(weights.config.context == 5);
  CHECK(weights.config.width == 4);
  CHECK(weights.config.heads == 2);
  CHECK(weights.config.head_width() == 2);
  CHECK(weights.config.inner_width == 16);
  CHECK(weights.config.layer_norm_epsilon == 1e-5f);
  CHECK(weights.layers.size() == 2);
  CHECK(weights.layers[1].attention_weight.shape == std::vector<std::uint64_t>{4, 12});
  CHECK(weights.layers[1].fc_projection_weight.name == "h.1.mlp.c_proj.weight");
  CHECK(weights.head.bytes.data() == weights.wte.bytes.data());
  CHECK(weights.ignored.empty());
  int visited = 0;
  weights.ForEach([&](const Tensor& tensor) { visited += CheckFinite(tensor) ? 1 : 0; });
  CHECK(visited == 28);

  SmallModel other;
  other.tensors = Gpt2Tensors(11, 5, 4, 2, "transformer.");
  other.tensors["transformer.h.0.attn.bias"] = {"U8", {1, 1, 5, 5}, Bytes(25)};
  other.tensors["transformer.h.1.attn.masked_bias"] = FloatTensor({}, {-1e4f});
  other.tensors["lm_head.weight"] = other.tensors["transformer.wte.weight"];
  const Gpt2Weights prefixed = other.Open().value();
  CHECK(prefixed.ignored == std::vector<std::string>{"transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"});
  CHECK(prefixed.wpe.name == "wpe.weight");
  CHECK(ToFloat(prefixed.layers[1].ln_2_bias).value() == ToFloat(weights.layers[1].ln_2_bias).value());
  CHECK(Fingerprint(prefixed) == Fingerprint(weights));
}

TEST_CASE("a head of its own is used where the configuration says so") {
  SmallModel model;
  model.config["tie_word_embeddings"] = false;
  CHECK(model.Message() ==
        "INVALID_ARGUMENT: DIR: tensor lm_head.weight: expected [11, 4], found no tensor of that name");
  model.tensors["lm_head.weight"] = FloatTensor({11, 4}, std::vector<float>(44, 2));
  const Gpt2Weights weights = model.Open().value();
  CHECK(ToFloat(weights.head).value() == std::vector<float>(44, 2));
  model.config["tie_word_embeddings"] = true;
  CHECK(
      model.Message() ==
      "INVALID_ARGUMENT: DIR: tensor lm_head.weight: expected the values of wte.weight, as config.json has a tied head "
      "(\"tie_word_embeddings\"), found others");
}

TEST_CASE("the fingerprint changes with any value and with the configuration") {
  SmallModel model;
  const auto before = Fingerprint(model.Open().value());
  CHECK(Fingerprint(model.Open().value()) == before);
  model.config["layer_norm_epsilon"] = 1e-6;
  CHECK(Fingerprint(model.Open().value()) != before);
  model.config.erase("layer_norm_epsilon");
  model.tensors["h.1.mlp.c_fc.bias"].data[7] ^= 1;
  CHECK(Fingerprint(model.Open().value()) != before);
}

TEST_CASE("a tensor that is missing or not as expected is refused by name") {
  const auto message = [](const std::string& name, const TensorBytes* tensor) {
    SmallModel model;
    if (tensor == nullptr) {
      model.tensors.erase(name);
    } else {
      model.tensors[name] = *tensor;
    }
    return model.Message();
  };
  CHECK(message("ln_f.bias", nullptr) ==
        "INVALID_ARGUMENT: DIR: tensor ln_f.bias: expected [4], found no tensor of that name");
  const TensorBytes wrong_shape = FloatTensor({12, 4}, std::vector<float>(48));
  CHECK(
      message("h.1.attn.c_attn.weight", &wrong_shape) ==
      "INVALID_ARGUMENT: DIR: tensor h.1.attn.c_attn.weight: expected F32, F16 or BF16 of shape [4, 12], found F32 of "
      "shape [12, 4]");
  const TensorBytes wrong_type{"I32", {4}, Bytes(16)};
  CHECK(
      message("h.0.ln_2.weight", &wrong_type) ==
      "INVALID_ARGUMENT: DIR: tensor h.0.ln_2.weight: expected F32, F16 or BF16 of shape [4], found I32 of shape [4]");
  const TensorBytes extra = FloatTensor({4}, std::vector<float>(4));
  CHECK(message("h.2.ln_1.weight", &extra) ==
        "INVALID_ARGUMENT: DIR: tensor h.2.ln_1.weight: expected 2 layers as in config.json, found more");
}

TEST_CASE("shards are put together by their index") {
  auto tensors = Gpt2Tensors(11, 5, 4, 2);
  std::map<std::string, TensorBytes> shards[2];
  nlohmann::json map;
  const char* const names[2] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  for (auto& [name, tensor] : tensors) {
    const int shard = name < "h.1" ? 0 : 1;
    shards[shard][name] = tensor;
    map[name] = names[shard];
  }
  const TemporaryFolder folder;
  folder.Write("config.json", Gpt2ConfigJson(11, 5, 4, 2, 2).dump());
  folder.Write(names[0], Safetensors(shards[0]));
  CHECK(OpenGpt2(folder.path()).error().code == Code::kNotFound);
  const auto write_index = [&] {
    folder.Write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  };
  write_index();
  CHECK(MessageOf(OpenGpt2(folder.path())).find(names[1]) != std::string::npos);
  folder.Write(names[1], Safetensors(shards[1]));
  const Gpt2Weights weights = OpenGpt2(folder.path()).value();
  CHECK(weights.files.size() == 2);
  SmallModel whole;
  CHECK(Fingerprint(weights) == Fingerprint(whole.Open().value()));

  map["h.1.ln_1.bias"] = names[0];
  write_index();
  CHECK(MessageOf(OpenGpt2(folder.path()))
            .find("tensor h.1.ln_1.bias: expected it in model-00001-of-00002.safetensors, "
                  "found none there") != std::string::npos);
  for (const nlohmann::json& bad : {nlohmann::json("../other.safetensors"), nlohmann::json("/etc/passwd"),
                                    nlohmann::json("model.bin"), nlohmann::json(7)}) {
    CAPTURE(bad);
    map["h.1.ln_1.bias"] = bad;
    write_index();
    CHECK(MessageOf(OpenGpt2(folder.path())).find("expected the name of a .safetensors file in the same folder") !=
          std::string::npos);
  }
}

TEST_CASE("directories without the files say what they have") {
  const TemporaryFolder folder;
  CHECK(OpenGpt2(folder.path()).error().code == Code::kNotFound);
  CHECK(OpenTensors(folder / "nowhere").error().message.ends_with("found no such folder"));
  CHECK(OpenTensors(folder.path()).error().message.ends_with("found neither"));
  folder.Write("pytorch_model.bin", "x");
  CHECK(
      OpenTensors(folder.path()).error().message.ends_with("found only pytorch_model.bin, which has to be converted"));
}

TEST_CASE("configurations of every GPT-2 are read") {
  struct Row {
    const char* name;
    std::uint32_t width, layers, heads;
  };
  for (const Row& row : {Row{"distil", 768, 6, 12}, Row{"small", 768, 12, 12}, Row{"medium", 1024, 24, 16},
                         Row{"large", 1280, 36, 20}, Row{"xl", 1600, 48, 25}}) {
    CAPTURE(row.name);
    nlohmann::json json = Gpt2ConfigJson(50257, 1024, row.width, row.layers, row.heads);
    json["n_inner"] = nullptr;
    json["activation_function"] = "gelu_new";
    json["bos_token_id"] = json["eos_token_id"] = 50256;
    json["task_specific_params"] = {{"text-generation", {{"do_sample", true}}}};
    const Config config = ParseGpt2Config(AsBytes(json.dump()), "config.json").value();
    CHECK(config.inner_width == 4 * row.width);
    CHECK(config.end_tokens == std::vector<std::uint32_t>{50256});
    CHECK(config.tied_head);
  }
  // As they were published first: no model_type, n_ctx beside n_positions.
  const Config old =
      ParseGpt2Config(
          AsBytes(R"({"vocab_size": 300, "n_ctx": 64, "n_embd": 12, "n_layer": 1, "n_head": 3, "n_inner": 20,
                  "architectures": ["GPT2LMHeadModel"], "eos_token_id": 50256})"),
          "c")
          .value();
  CHECK(old.context == 64);
  CHECK(old.inner_width == 20);
  CHECK(old.end_tokens.empty());
}

TEST_CASE("configurations of something else are refused by name") {
  struct Row {
    std::string key;
    nlohmann::json value;
    std::string message;
  };
  const Row rows[] = {
      {"model_type", "llama", "UNIMPLEMENTED: c: \"model_type\": expected \"gpt2\", found \"llama\""},
      {"activation_function", "relu",
       "UNIMPLEMENTED: c: \"activation_function\": expected \"gelu_new\", found \"relu\""},
      {"scale_attn_weights", false, "UNIMPLEMENTED: c: \"scale_attn_weights\": expected true, found false"},
      {"scale_attn_by_inverse_layer_idx", true,
       "UNIMPLEMENTED: c: \"scale_attn_by_inverse_layer_idx\": expected false, found true"},
      {"n_head", 3, "INVALID_ARGUMENT: c: \"n_head\": expected a divisor of n_embd, 4, found 3"},
      {"n_head", 0, "INVALID_ARGUMENT: c: \"n_head\": expected a whole number from 1 to 1024, found 0"},
      {"n_layer", -2, "INVALID_ARGUMENT: c: \"n_layer\": expected a whole number from 1 to 1024, found -2"},
      {"vocab_size", nullptr,
       "INVALID_ARGUMENT: c: \"vocab_size\": expected a whole number from 1 to 1048576, found nothing"},
      {"n_embd", 4000000000u,
       "INVALID_ARGUMENT: c: \"n_embd\": expected a whole number from 1 to 65536, found 4000000000"},
      {"layer_norm_epsilon", 0,
       "INVALID_ARGUMENT: c: \"layer_norm_epsilon\": expected a number above 0, at most 1, found 0"},
      {"tie_word_embeddings", 1, "INVALID_ARGUMENT: c: \"tie_word_embeddings\": expected true or false, found 1"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.key);
    nlohmann::json json = Gpt2ConfigJson(11, 5, 4, 2, 2);
    json[row.key] = row.value;
    const auto config = ParseGpt2Config(AsBytes(json.dump()), "c");
    CHECK((config ? "" : ToString(config.error())) == row.message);
  }
  CHECK(ParseGpt2Config(AsBytes("[]"), "c").error().message == "c: expected an object, found an array");
  CHECK(ParseGpt2Config(AsBytes("{}"), "c").error().code == Code::kUnimplemented);
}

}  // namespace
}  // namespace holo::weights
