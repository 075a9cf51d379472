// Makes the inputs that fuzzing starts from, out of small pictures of our own.
#include <filesystem>
#include <iostream>
#include <string>

#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/plain/plain.h"
#include "common/protocol/protocol.h"
#include "server/completion/sessions.h"
#include "tests/common/language_model/gguf/gguf_files.h"
#include "tests/common/language_model/weights/model_files.h"

namespace {

using namespace holo;
using Bytes = std::vector<std::uint8_t>;

std::filesystem::path root;

void Write(const std::string& name, const Bytes& bytes) {
  const std::filesystem::path path = root / name;
  if (!files::MakeDirectories(path.parent_path()) || !files::AtomicWrite(path, bytes)) {
    std::cerr << path << ": cannot write\n";
    std::exit(1);
  }
}

pixels::Picture Gradient(const pixels::Layout& layout) {
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  const unsigned scale = layout.sample_type == pixels::SampleType::kU8 ? 1 : 257;
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) {
        picture.Set(x, y, c, static_cast<std::uint16_t>((x * 5 + y * 3 * (c + 1) + (x > y ? 60 : 0)) % 256 * scale));
      }
    }
  }
  return picture;
}

void Append(Bytes& to, const std::string& message) {
  to.push_back(static_cast<std::uint8_t>(message.size()));
  to.push_back(static_cast<std::uint8_t>(message.size() >> 8));
  to.insert(to.end(), message.begin(), message.end());
}

void WriteSavedSessions() {
  completion::SavedSession session;
  session.id = "sess-0123456789abcdefghijklmnopqrstuv";
  session.model = "tiny";
  session.state.tokens = {1, 2, 3};
  Write("session/text", completion::SerialiseSession(session));
  session.owner = "key 0123456789ab";
  session.state.messages = {{chat_template::Role::kUser, "Hi"}, {chat_template::Role::kAssistant, "Yes"}};
  session.state.memory = std::make_shared<const std::vector<std::uint8_t>>(Bytes{1, 2, 3, 4});
  Write("session/conversation", completion::SerialiseSession(session));
}

// A whole session, as both sides hear it.
void WriteSession(const Bytes& file) {
  auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(file)).value();
  const auto asset = std::make_shared<const protocol::Asset>(std::move(reader));
  protocol::ServerSession server({});
  protocol::ClientSession client({});
  const std::uint32_t handle = client.Open("picture").value();
  (void)client.SetView(handle, {});
  Bytes to_server = {0};
  Bytes to_client = {1};
  protocol::Clock::time_point now{};
  for (int round = 0; round < 100; ++round) {
    while (auto message = client.NextMessage()) {
      Append(to_server, message->SerializeAsString());
      server.Receive(*message, now);
    }
    while (const auto request = server.TakeOpenRequest()) server.CompleteOpen(request->handle, asset);
    auto next = server.NextMessage(now);
    if (next.kind != protocol::ServerSession::Next::Kind::kMessage) continue;
    Append(to_client, next.message.SerializeAsString());
    (void)client.Receive(std::move(next.message));
    client.Acknowledge(client.received_payload_bytes());
  }
  Write("protocol/to_server", to_server);
  Write("protocol/to_client", to_client);
  Bytes resume = client.Resume().Serialize();
  resume.insert(resume.begin(), 2);
  Write("protocol/resume", resume);
}

void WriteChunks(const Bytes& file) {
  const auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(file)).value();
  Bytes out;
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    const Bytes bytes = reader.ReadChunk(chunk).value();
    if (bytes.size() > 255) continue;
    out.insert(out.end(), {chunk.id.level, chunk.id.layer, static_cast<std::uint8_t>(chunk.id.tile),
                           static_cast<std::uint8_t>(bytes.size())});
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  Write("chunk/picture", out);
}

Bytes Joined(char first, const std::string& text) {
  Bytes bytes = {static_cast<std::uint8_t>(first)};
  bytes.insert(bytes.end(), text.begin(), text.end());
  return bytes;
}

// Manifests of compressed models, and a template.
void WriteModels() {
  const auto manifest = [](const std::string& method, const std::string& basis) {
    return Joined(0, "{\n  \"format\": \"holo compressed model\",\n  \"version\": 1,\n  \"method\": \"" + method +
                         "\",\n  \"base\": {\"path\": \"../gpt2\", \"fingerprint\": "
                         "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"}," +
                         basis +
                         "\n  \"bytes_per_token\": 3096.5,\n  \"calibration\": {\"text\": \"a.txt\", "
                         "\"bytes\": 605847, \"tokens\": 131072}\n}\n");
  };
  Write("model_directory/plain", manifest("int8", ""));
  Write("model_directory/latent",
        manifest("latent",
                 "\n  \"basis\": {\"file\": \"basis.bin\", \"bytes\": 2113536, \"sha256\": "
                 "\"ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\"},"));
  Write("model_directory/template", Joined(1, "{\"template\": {\"start\": \"<|endoftext|>\", \"prompt\": "
                                              "\"\u2014 {user}\\n\u2014\", \"stop\": \"\\n\"}}\n"));
}

// A vocabulary of the bytes and three merges, in both of its forms, and texts.
void WriteTokenizers() {
  nlohmann::json vocabulary;
  std::uint32_t stand_in = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const std::uint32_t c = is_itself ? byte : stand_in++;
    std::string text(1, static_cast<char>(c));
    if (c >= 0x80) text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    vocabulary[text] = byte;
  }
  vocabulary["er"] = 256;
  vocabulary["\u0120t"] = 257;
  vocabulary["\u0120ther"] = 259;
  vocabulary["\u0120th"] = 258;
  vocabulary["<|endoftext|>"] = 260;
  const std::string merges = "#version: 0.2\ne r\n\u0120 t\n\u0120t h\n\u0120th er\n";
  Write("tokenizer/vocabulary_and_merges", Joined(1, vocabulary.dump() + std::string(1, '\0') + merges));
  const nlohmann::json whole = {
      {"added_tokens", {{{"id", 260}, {"content", "<|endoftext|>"}, {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocabulary},
        {"merges", {"e r", "\u0120 t", nlohmann::json::array({"\u0120t", "h"}), "\u0120th er"}}}}};
  Write("tokenizer/tokenizer_json", Joined(0, whole.dump()));
  testing::GgufWriter gguf;
  std::vector<std::string> tokens(vocabulary.size());
  for (const auto& [text, id] : vocabulary.items()) tokens[id.get<std::size_t>()] = text;
  std::vector<std::int32_t> types(tokens.size(), 1);
  types[260] = 3;
  gguf.AddString("tokenizer.ggml.model", "gpt2");
  gguf.AddString("tokenizer.ggml.pre", "llama-bpe");
  gguf.AddStrings("tokenizer.ggml.tokens", tokens);
  gguf.AddI32s("tokenizer.ggml.token_type", types);
  gguf.AddStrings("tokenizer.ggml.merges", {"e r", "\u0120 t", "\u0120t h", "\u0120th er"});
  gguf.AddU32("tokenizer.ggml.eos_token_id", 260);
  const Bytes gguf_file = gguf.File();
  Write("tokenizer/gguf", Joined(3, {gguf_file.begin(), gguf_file.end()}));
  Write("tokenizer/text", Joined(2, "There's   other text, they'll \u00e9rer 12\u00b2!\n\n  \U0001F600 \u65e5\u672c "));
  Write("tokenizer/no_text", Joined(2, "\xF0\x9F\x98 \xED\xA0\x80\xC0\xAF 's\xE2\x82"));
}

void WriteWeights() {
  auto tensors = testing::Gpt2Tensors(3, 2, 2, 1);
  tensors["h.0.attn.bias"] = {"BOOL", {1, 1, 2, 2}, Bytes(4)};
  tensors["lm_head.weight"] = tensors["wte.weight"];
  Write("weights/gpt2", testing::Safetensors(tensors));
  Write("weights/types",
        testing::Safetensors(
            {{"a", {"F16", {2}, Bytes(4)}}, {"b", {"BF16", {1, 2}, Bytes(4)}}, {"c", {"I64", {0}, {}}}}));
  const std::string config = testing::Gpt2ConfigJson(3, 2, 2, 1, 1).dump();
  Write("weights/config", {config.begin(), config.end()});
}

void WriteGguf() {
  using gguf::ValueType;
  testing::GgufWriter values;
  values.AddKey("u8", ValueType::kU8);
  values.values().WriteU8(1);
  values.AddKey("i16", ValueType::kI16);
  values.values().WriteU16(0xFFFE);
  values.AddF32("f32", 1.5f);
  values.AddKey("i64", ValueType::kI64);
  values.values().WriteU64(7);
  values.AddArray("nested", ValueType::kArray, 1);
  values.values().WriteU32(static_cast<std::uint32_t>(ValueType::kBool));
  values.values().WriteU64(2);
  values.values().WriteU16(1);
  Write("gguf/values", values.File());
  testing::GgufWriter tensors(2);
  tensors.AddString("general.architecture", "llama");
  tensors.AddU32("general.alignment", 16);
  tensors.SetAlignment(16);
  tensors.AddStrings("tokenizer.ggml.tokens", {"a", "b"});
  tensors.AddI32s("tokenizer.ggml.token_type", {1, 3});
  for (const gguf::Type type : gguf::kTypes) {
    const std::size_t elements = gguf::BlockElements(type);
    tensors.AddTensor(gguf::TypeName(type), {1, elements}, gguf::TypeNumber(type), Bytes(gguf::BlockBytes(type), 60));
  }
  Write("gguf/tensors", tensors.File());
}

// Without the digests at their ends, which the fuzz target computes.
void WriteCaches() {
  const auto write = [](const std::string& name, Bytes bytes) {
    bytes.resize(bytes.size() - 32);
    Write("kv_cache/" + name, bytes);
  };
  kv_cache::Basis basis;
  basis.geometry = {1, 1, 32};
  basis.calibration = "{}";
  kv_cache::BasisLayer latent;
  latent.rank = 32;
  latent.mean.assign(32, 0.5f);
  latent.encoder.assign(32 * 32, 0.25f);
  latent.decoder.assign(32 * 32, 0.125f);
  latent.bits = {5};
  basis.layers.push_back(latent);
  write("latent", kv_cache::SerialiseBasis(basis));
  basis.method = kv_cache::Method::kReport;
  basis.geometry = {1, 1, 1};
  kv_cache::BasisLayer report;
  report.rank = 1;
  report.mean = {1, 2};
  report.encoder = {1, -1};
  basis.layers = {report};
  write("report", kv_cache::SerialiseBasis(basis));
  basis.method = kv_cache::Method::kStored;
  basis.geometry = {2, 1, 16};
  kv_cache::BasisLayer stored;
  stored.rank = 16;
  stored.mean.assign(16, 0.0f);
  stored.encoder.assign(256, 0.5f);
  stored.decoder.assign(256, 0.5f);
  for (std::uint8_t i = 0; i < 16; ++i) stored.classes.push_back(static_cast<std::uint8_t>(63 - 4 * i));
  basis.layers.assign(2, stored);
  basis.table = kv_cache::MakeCoderTable({});
  write("stored_basis", kv_cache::SerialiseBasis(basis));
  // The scheme that kv_cache_fuzz.cc has.
  const kv_cache::LayerWeights weights{std::vector<float>(256), std::vector<float>(256), std::vector<float>(16)};
  kv_cache::Cache coded(kv_cache::MakeProjectedScheme(basis, std::vector(2, weights)).value());
  std::vector<float> coordinates(16 * 7);
  for (std::size_t i = 0; i < coordinates.size(); ++i) {
    coordinates[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50) * (i % 16 == 0 ? 20.0f : 0.2f);
  }
  for (std::size_t layer = 0; layer < 2; ++layer) {
    coded.Append(layer, {7, coordinates.data(), nullptr, nullptr, 0}, coordinates.data());
  }
  coded.Commit(7);
  const std::uint32_t tokens[] = {1, 22, 333, 4444, 55555, 666666, 7777777};
  Write("kv_cache/stored_block", kv_cache::SaveBlock(coded, 0, std::array<std::uint8_t, 32>{}, tokens));
  Write("kv_cache/stored_code", coded.scheme().Pack(0, 7, coded.Stored(0, 0)));
  // The other one.
  kv_cache::Basis rotated;
  rotated.geometry = {2, 2, 16, 1};
  kv_cache::BasisLayer split;
  split.rank = 64;
  split.key_rank = 32;
  split.mean.assign(32, 0.0f);
  split.encoder.assign(32 * 64, 0.5f);
  split.decoder.assign(64 * 32, 0.5f);
  split.bits = {5, 3};
  rotated.layers.assign(2, split);
  const kv_cache::LayerWeights halves{std::vector<float>(32 * 16, 0.1f), std::vector<float>(32 * 16, 0.1f),
                                      std::vector<float>(16)};
  const std::vector<double> frequencies(8, 0.1);
  const auto rotation = std::make_shared<const kv_cache::Rotation>(frequencies, 64);
  kv_cache::Cache of_keys(kv_cache::MakeProjectedScheme(rotated, std::vector(2, halves), rotation).value());
  coordinates.resize(64 * 7, 0.75f);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    of_keys.Append(layer, {7, coordinates.data(), nullptr, nullptr, 0}, coordinates.data());
  }
  of_keys.Commit(7);
  Write("kv_cache/latent_block", kv_cache::SaveBlock(of_keys, 0, std::array<std::uint8_t, 32>{}, tokens));
  Write("kv_cache/latent_code", of_keys.scheme().Pack(0, 7, of_keys.Stored(0, 0)));
  kv_cache::Cache cache(kv_cache::MakePlainScheme({1, 1, 16}, kv_cache::Precision::kInt4).value());
  const std::vector<float> row(16, 1.5f);
  cache.Append(0, {1, row.data(), row.data(), row.data(), 16}, nullptr);
  cache.Commit(1);
  const std::uint32_t token = 7;
  write("saved", kv_cache::SaveCache(cache, std::array<std::uint8_t, 32>{}, {&token, 1}));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_corpus FOLDER\n";
    return 2;
  }
  root = argv[1];
  using pixels::ColorModel;
  using pixels::SampleType;
  const pixels::Picture rgb = Gradient({40, 30, 3, SampleType::kU8, ColorModel::kRgb, false});
  const pixels::Picture gray = Gradient({17, 9, 2, SampleType::kU16, ColorModel::kGray, true});
  const pixels::Picture five = Gradient({24, 16, 5, SampleType::kU8, ColorModel::kGeneric, false});

  codec::EncodeOptions options;
  options.quality = 50;
  const Bytes rgb_file = codec::Encode(rgb, options).value().file;
  Write("asset/rgb", rgb_file);
  options.lapped = false;
  Write("asset/drawing", codec::Encode(rgb, options).value().file);
  options.lapped.reset();
  Write("asset/gray_alpha_16", codec::Encode(gray, options).value().file);
  options.basis_choice = codec::BasisChoice::kOwn;
  options.k = 7;
  Write("asset/own_basis", codec::Encode(five, options).value().file);
  Write("basis/luma", basis::BuiltInLuma()->bytes());
  Write("basis/empty", {'H', 'B', 'A', 'S', 1, 1, 0, 0, 0});

  const pixels::Picture large = Gradient({300, 270, 3, SampleType::kU8, ColorModel::kRgb, false});
  codec::EncodeOptions coarse;
  coarse.quality = 5;
  coarse.basis_choice = codec::BasisChoice::kUniversal;
  WriteChunks(codec::Encode(large, coarse).value().file);
  WriteSession(rgb_file);
  WriteSavedSessions();
  WriteTokenizers();
  WriteWeights();
  WriteGguf();
  WriteCaches();
  WriteModels();

  plain::Options plain_options;
  plain_options.k = 5;
  Write("plain/rgb", plain::Serialize(plain::Encode(rgb, plain_options).value()));

  const std::filesystem::path scratch = std::filesystem::temp_directory_path() / "holo_make_corpus";
  (void)files::MakeDirectories(scratch);
  for (const char* extension : {"png", "jpg", "tiff", "webp", "bmp", "ppm", "jp2"}) {
    const std::filesystem::path path = scratch / (std::string("picture.") + extension);
    pixels::Picture picture = rgb.Clone();
    picture.metadata().icc_profile = {0, 1, 2, 3, 4, 5, 6, 7};
    if (image_io::Save(path, picture))
      Write(std::string("image/") + extension + "_file", files::ReadFile(path).value());
  }
  std::filesystem::remove_all(scratch);
  const std::string csv = "1,2,3\n4.5,-6e3,7\n";
  Write("matrix/csv", {csv.begin(), csv.end()});
  std::string npy = std::string("\x93NUMPY\x01", 7) + std::string(1, '\0') + "\x76" + std::string(1, '\0') +
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  npy.resize(127, ' ');
  npy += '\n';
  npy += std::string("\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40\0\0\xa0\x40\0\0\xc0\x40", 24);
  Write("matrix/npy", {npy.begin(), npy.end()});
  return 0;
}
