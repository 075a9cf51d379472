// The files that hold a tokenizer: vocab.json with merges.txt, tokenizer.json, and the metadata of a GGUF file.
#include <unordered_set>
#include <utility>

#include "common/files/files.h"
#include "common/json/json.h"
#include "common/language_model/tokenizer/byte_alphabet.h"
#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::tokenizer {
namespace {

using Json = nlohmann::json;

std::string Shown(const Json& value) {
  return value.dump(-1, ' ', true).substr(0, 100);
}

// The value of `key`; null where there is none.
const Json& At(const Json& object, const char* key) {
  static const Json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

bool IsId(const Json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() < kMaxTokens;
}

tl::unexpected<Error> NoId(const Json& value, const std::string& where) {
  return Fail(Code::kDataLoss,
              where + ": expected a number below " + std::to_string(kMaxTokens) + ", found " + Shown(value));
}

// {"text": number, ...}
Result<std::vector<Definition::Token>> ParseVocabulary(const Json& vocabulary, const std::string& where) {
  if (!vocabulary.is_object()) {
    return Fail(Code::kDataLoss, where + ": expected an object with a number for every token, found " +
                                     std::string(json::KindOf(vocabulary)));
  }
  std::vector<Definition::Token> tokens;
  tokens.reserve(vocabulary.size());
  for (const auto& [text, number] : vocabulary.items()) {
    if (!IsId(number)) return NoId(number, where + ": token " + Shown(text));
    tokens.push_back({text, number.get<TokenId>()});
  }
  return tokens;
}

// "left right"; neither side contains a space, as the alphabet has another character for it.
Result<std::pair<std::string, std::string>> ParseMerge(std::string_view text, const std::string& where) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
      text.find(' ', space + 1) != text.npos) {
    return Fail(Code::kDataLoss, where + ": expected two symbols with a space between them, found \"" +
                                     ToValidUtf8(text.substr(0, 100)) + "\"");
  }
  return std::pair(std::string(text.substr(0, space)), std::string(text.substr(space + 1)));
}

Result<std::vector<std::pair<std::string, std::string>>> ParseMergesText(std::span<const std::uint8_t> bytes,
                                                                         const std::string& name) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::pair<std::string, std::string>> merges;
  for (std::uint64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    // Symbols may begin with '#', but no merge is called #version.
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    HOLO_ASSIGN_OR_RETURN(auto merge, ParseMerge(line, name + ": line " + std::to_string(number)));
    merges.push_back(std::move(merge));
  }
  return merges;
}

Result<std::vector<std::pair<std::string, std::string>>> ParseMergesJson(const Json& list, const std::string& name) {
  if (!list.is_array()) {
    return Fail(Code::kDataLoss, name + ": model.merges: expected a list, found " + std::string(json::KindOf(list)));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const Json& entry : list) {
    const std::string where = name + ": model.merges: entry " + std::to_string(merges.size() + 1);
    if (entry.is_string()) {
      HOLO_ASSIGN_OR_RETURN(auto merge, ParseMerge(entry.get_ref<const std::string&>(), where));
      merges.push_back(std::move(merge));
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
    } else {
      return Fail(Code::kDataLoss, where + ": expected two symbols, found " + Shown(entry));
    }
  }
  return merges;
}

// {"text": number, ...}, in an older layout beside vocab.json.
Result<void> AddAddedTokens(std::span<const std::uint8_t> bytes, const std::string& name, Definition& definition) {
  HOLO_ASSIGN_OR_RETURN(const Json added, json::Parse(bytes, name));
  HOLO_ASSIGN_OR_RETURN(std::vector<Definition::Token> tokens, ParseVocabulary(added, name));
  std::unordered_set<std::string_view> known;
  for (const Definition::Token& token : definition.special_tokens) known.insert(token.text);
  std::vector<Definition::Token> fresh;
  for (Definition::Token& token : tokens) {
    if (!known.contains(token.text)) fresh.push_back(std::move(token));
  }
  std::move(fresh.begin(), fresh.end(), std::back_inserter(definition.special_tokens));
  return {};
}

// Tokens of plain ASCII that are neither a byte nor made by a merge: <|endoftext|>.
std::vector<Definition::Token> FindSpecialTokens(const Definition& definition) {
  std::unordered_set<std::string> made;
  for (const auto& [left, right] : definition.merges) made.insert(left + right);
  std::vector<Definition::Token> special;
  for (const Definition::Token& token : definition.tokens) {
    const bool is_ascii =
        token.text.find_first_not_of(
            "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~") ==
        std::string::npos;
    if (is_ascii && token.text.size() > 1 && !made.contains(token.text)) special.push_back(token);
  }
  return special;
}

Result<Definition> ParseVocabularyFiles(std::span<const std::uint8_t> vocab_json,
                                        std::span<const std::uint8_t> merges_txt, const std::string& vocab_name,
                                        const std::string& merges_name) {
  Definition definition;
  HOLO_ASSIGN_OR_RETURN(const Json vocabulary, json::Parse(vocab_json, vocab_name));
  HOLO_ASSIGN_OR_RETURN(definition.tokens, ParseVocabulary(vocabulary, vocab_name));
  HOLO_ASSIGN_OR_RETURN(definition.merges, ParseMergesText(merges_txt, merges_name));
  definition.special_tokens = FindSpecialTokens(definition);
  return definition;
}

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Reads tokenizer.json.
class TokenizerJson {
 public:
  TokenizerJson(const Json& root, std::string_view name) : root_(root), name_(name) {}

  [[nodiscard]] Result<Definition> Parse() const {
    if (!root_.is_object() || !At(root_, "model").is_object()) {
      return Fail(Code::kDataLoss, name_ + ": expected an object with \"model\", found " + Shown(root_));
    }
    const Json& model = At(root_, "model");
    // The oldest files leave out the type.
    HOLO_RETURN_IF_ERROR(Expect(model, "model.", "type", {"BPE", nullptr}));
    HOLO_RETURN_IF_ERROR(Expect(model, "model.", "byte_fallback", {false, nullptr}));
    HOLO_RETURN_IF_ERROR(Expect(model, "model.", "ignore_merges", {false, true, nullptr}));
    HOLO_RETURN_IF_ERROR(Expect(model, "model.", "continuing_subword_prefix", {"", nullptr}));
    HOLO_RETURN_IF_ERROR(Expect(model, "model.", "end_of_word_suffix", {"", nullptr}));
    HOLO_RETURN_IF_ERROR(Expect(root_, "", "normalizer", {nullptr}));
    Definition definition;
    definition.ignores_merges = At(model, "ignore_merges") == true;
    HOLO_ASSIGN_OR_RETURN(definition.pre_tokenizer, ParsePreTokenizer());
    HOLO_ASSIGN_OR_RETURN(definition.tokens, ParseVocabulary(At(model, "vocab"), name_ + ": model.vocab"));
    HOLO_ASSIGN_OR_RETURN(definition.merges, ParseMergesJson(At(model, "merges"), name_));
    HOLO_ASSIGN_OR_RETURN(definition.special_tokens, ParseAddedTokens());
    return definition;
  }

 private:
  [[nodiscard]] Result<void> Expect(const Json& object, const std::string& path, const char* key,
                                    std::initializer_list<Json> allowed) const {
    const Json& found = At(object, key);
    for (const Json& value : allowed) {
      if (found == value) return {};
    }
    return Fail(Code::kUnimplemented, name_ + ": \"" + path + key + "\": expected " + Shown(*allowed.begin()) +
                                          " for a byte-level BPE like GPT-2's, found " + Shown(found));
  }

  // ByteLevel; or two in a Sequence: Digits or Split, and then ByteLevel.
  [[nodiscard]] Result<PreTokenizer> ParsePreTokenizer() const {
    const Json& pre_tokenizer = At(root_, "pre_tokenizer");
    if (!pre_tokenizer.is_object()) {
      return Fail(Code::kUnimplemented,
                  name_ + ": \"pre_tokenizer\": expected ByteLevel, found " + Shown(pre_tokenizer));
    }
    if (At(pre_tokenizer, "type") != "Sequence") {
      HOLO_RETURN_IF_ERROR(ExpectByteLevel(pre_tokenizer, "pre_tokenizer.", {true, nullptr}));
      return PreTokenizer::kGpt2;
    }
    const Json& parts = At(pre_tokenizer, "pretokenizers");
    if (!parts.is_array() || parts.size() != 2 || !parts[0].is_object() || !parts[1].is_object()) {
      return Fail(
          Code::kUnimplemented,
          name_ + ": \"pre_tokenizer.pretokenizers\": expected Digits or Split, then ByteLevel, found " + Shown(parts));
    }
    const std::string first = "pre_tokenizer.pretokenizers[0].";
    const std::string second = "pre_tokenizer.pretokenizers[1].";
    if (At(parts[0], "type") == "Digits") {
      HOLO_RETURN_IF_ERROR(Expect(parts[0], first, "individual_digits", {true}));
      HOLO_RETURN_IF_ERROR(ExpectByteLevel(parts[1], second, {true, nullptr}));
      return PreTokenizer::kSmolLm2;
    }
    HOLO_RETURN_IF_ERROR(Expect(parts[0], first, "type", {"Split"}));
    HOLO_RETURN_IF_ERROR(Expect(parts[0], first, "pattern", {Json{{"Regex", kLlama3Pattern}}}));
    HOLO_RETURN_IF_ERROR(Expect(parts[0], first, "behavior", {"Isolated"}));
    HOLO_RETURN_IF_ERROR(Expect(parts[0], first, "invert", {false, nullptr}));
    HOLO_RETURN_IF_ERROR(ExpectByteLevel(parts[1], second, {false}));
    return PreTokenizer::kLlama3;
  }

  [[nodiscard]] Result<void> ExpectByteLevel(const Json& part, const std::string& path,
                                             std::initializer_list<Json> use_regex) const {
    HOLO_RETURN_IF_ERROR(Expect(part, path, "type", {"ByteLevel"}));
    HOLO_RETURN_IF_ERROR(Expect(part, path, "add_prefix_space", {false}));
    return Expect(part, path, "use_regex", use_regex);
  }

  [[nodiscard]] Result<std::vector<Definition::Token>> ParseAddedTokens() const {
    const Json& list = At(root_, "added_tokens");
    std::vector<Definition::Token> tokens;
    if (list.is_null()) return tokens;
    if (!list.is_array()) {
      return Fail(Code::kDataLoss,
                  name_ + ": \"added_tokens\": expected a list, found " + std::string(json::KindOf(list)));
    }
    for (const Json& entry : list) {
      const std::string where = name_ + ": \"added_tokens\": entry " + std::to_string(tokens.size() + 1);
      if (!entry.is_object() || !At(entry, "content").is_string()) {
        return Fail(Code::kDataLoss, where + ": expected an object with \"content\", found " + Shown(entry));
      }
      // Another kind would have to be searched for in the text.
      if (At(entry, "special") != true) {
        return Fail(Code::kUnimplemented, where + ": expected a special token, found " + Shown(entry));
      }
      if (!IsId(At(entry, "id"))) return NoId(At(entry, "id"), where);
      tokens.push_back({At(entry, "content").get<std::string>(), At(entry, "id").get<TokenId>()});
    }
    return tokens;
  }

  const Json& root_;
  std::string name_;
};

// Types of tokens in tokenizer.ggml.token_type.
enum GgufTokenType : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

Result<PreTokenizer> GgufPreTokenizer(const gguf::File& file) {
  struct Row {
    std::string_view name;
    PreTokenizer pre_tokenizer;
  };
  constexpr Row kRows[] = {{"gpt-2", PreTokenizer::kGpt2},
                           {"smollm", PreTokenizer::kSmolLm2},
                           {"llama-bpe", PreTokenizer::kLlama3},
                           {"llama3", PreTokenizer::kLlama3},
                           {"llama-v3", PreTokenizer::kLlama3}};
  HOLO_ASSIGN_OR_RETURN(const std::string_view found, file.String("tokenizer.ggml.pre"));
  for (const Row& row : kRows) {
    if (row.name == found) return row.pre_tokenizer;
  }
  return Fail(Code::kUnimplemented,
              file.name() +
                  ": key \"tokenizer.ggml.pre\": expected gpt-2, smollm, llama-bpe, llama3 or llama-v3, found \"" +
                  ToValidUtf8(found.substr(0, 100)) + "\"");
}

Result<std::optional<TokenId>> GgufTokenRole(const gguf::File& file, std::string_view key) {
  if (file.Find(key) == nullptr) return std::optional<TokenId>();
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t id, file.Unsigned(key, kMaxTokens - 1));
  return std::optional<TokenId>(static_cast<TokenId>(id));
}

Result<Definition> DefinitionOfGguf(const gguf::File& file) {
  HOLO_ASSIGN_OR_RETURN(const std::string_view model, file.String("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return Fail(Code::kUnimplemented, file.name() +
                                          ": key \"tokenizer.ggml.model\": expected gpt2, a byte-level BPE, found \"" +
                                          ToValidUtf8(model.substr(0, 100)) + "\"" +
                                          (model == "llama" ? ", a SentencePiece vocabulary" : ""));
  }
  Definition definition;
  HOLO_ASSIGN_OR_RETURN(definition.pre_tokenizer, GgufPreTokenizer(file));
  definition.ignores_merges = definition.pre_tokenizer == PreTokenizer::kLlama3;
  HOLO_ASSIGN_OR_RETURN(const auto texts, file.Strings("tokenizer.ggml.tokens", kMaxTokens));
  HOLO_ASSIGN_OR_RETURN(const auto merges, file.Strings("tokenizer.ggml.merges", kMaxMerges));
  for (const std::string_view merge : merges) {
    const std::string where =
        file.name() + ": tokenizer.ggml.merges: entry " + std::to_string(definition.merges.size() + 1);
    HOLO_ASSIGN_OR_RETURN(auto parts, ParseMerge(merge, where));
    definition.merges.push_back(std::move(parts));
  }
  for (TokenId id = 0; id < texts.size(); ++id) definition.tokens.push_back({std::string(texts[id]), id});
  if (file.Find("tokenizer.ggml.token_type") == nullptr) {
    definition.special_tokens = FindSpecialTokens(definition);
  } else {
    HOLO_ASSIGN_OR_RETURN(const auto types, file.Integers("tokenizer.ggml.token_type", kMaxTokens));
    if (types.size() != texts.size()) {
      return Fail(Code::kDataLoss, file.name() + ": key \"tokenizer.ggml.token_type\": expected " +
                                       std::to_string(texts.size()) + " types, one for each token, found " +
                                       std::to_string(types.size()));
    }
    for (TokenId id = 0; id < types.size(); ++id) {
      if (types[id] == kNormal) continue;
      if (types[id] == kUnknown || types[id] == kControl || types[id] == kUnused) {
        definition.special_tokens.push_back(definition.tokens[id]);
        continue;
      }
      const std::string found = types[id] == kUserDefined
                                    ? "a user-defined one (4), which would be searched for in texts"
                                : types[id] == kByte ? "one that stands for a byte (6)"
                                                     : std::to_string(types[id]);
      return Fail(Code::kUnimplemented, file.name() + ": tokenizer.ggml.token_type: token " + std::to_string(id) +
                                            " \"" + ToValidUtf8(texts[id].substr(0, 100)) +
                                            "\": expected a normal, unknown, control or unused token, found " + found);
    }
  }
  HOLO_ASSIGN_OR_RETURN(definition.begin_token, GgufTokenRole(file, "tokenizer.ggml.bos_token_id"));
  HOLO_ASSIGN_OR_RETURN(definition.end_token, GgufTokenRole(file, "tokenizer.ggml.eos_token_id"));
  // As llama.cpp has it where the file does not say.
  definition.wants_begin_token = definition.pre_tokenizer == PreTokenizer::kLlama3;
  if (file.Find("tokenizer.ggml.add_bos_token") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(definition.wants_begin_token, file.Bool("tokenizer.ggml.add_bos_token"));
  }
  return definition;
}

}  // namespace

Result<Tokenizer> Tokenizer::FromGguf(const gguf::File& file) {
  HOLO_ASSIGN_OR_RETURN(const Definition definition, DefinitionOfGguf(file));
  return Create(definition, file.name());
}

Result<Tokenizer> Tokenizer::FromVocabulary(std::span<const std::uint8_t> vocab_json,
                                            std::span<const std::uint8_t> merges_txt, std::string_view name) {
  const std::string prefix(name);
  HOLO_ASSIGN_OR_RETURN(const Definition definition,
                        ParseVocabularyFiles(vocab_json, merges_txt, prefix + ": vocabulary", prefix + ": merges"));
  return Create(definition, name);
}

Result<Tokenizer> Tokenizer::FromTokenizerJson(std::span<const std::uint8_t> bytes, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const Json root, json::Parse(bytes, name));
  HOLO_ASSIGN_OR_RETURN(const Definition definition, TokenizerJson(root, name).Parse());
  return Create(definition, name);
}

Result<Tokenizer> Tokenizer::Open(const std::filesystem::path& model_dir) {
  std::error_code ignored;
  const std::filesystem::path whole = model_dir / "tokenizer.json";
  if (std::filesystem::exists(whole, ignored)) {
    HOLO_ASSIGN_OR_RETURN(const auto bytes, files::ReadFile(whole, kMaxFileBytes));
    return FromTokenizerJson(bytes, whole.string());
  }
  for (const auto& [vocab_name, merges_name] :
       {std::pair("vocab.json", "merges.txt"), std::pair("encoder.json", "vocab.bpe")}) {
    const std::filesystem::path vocab_path = model_dir / vocab_name;
    if (!std::filesystem::exists(vocab_path, ignored)) continue;
    const std::filesystem::path merges_path = model_dir / merges_name;
    HOLO_ASSIGN_OR_RETURN(const auto vocab, files::ReadFile(vocab_path, kMaxFileBytes));
    HOLO_ASSIGN_OR_RETURN(const auto merges, files::ReadFile(merges_path, kMaxFileBytes));
    HOLO_ASSIGN_OR_RETURN(Definition definition,
                          ParseVocabularyFiles(vocab, merges, vocab_path.string(), merges_path.string()));
    const std::filesystem::path added_path = model_dir / "added_tokens.json";
    if (std::filesystem::exists(added_path, ignored)) {
      HOLO_ASSIGN_OR_RETURN(const auto added, files::ReadFile(added_path, kMaxFileBytes));
      HOLO_RETURN_IF_ERROR(AddAddedTokens(added, added_path.string(), definition));
    }
    return Create(definition, model_dir.string());
  }
  return Fail(Code::kNotFound,
              model_dir.string() + ": expected tokenizer.json, or vocab.json and merges.txt, found neither");
}

}  // namespace holo::tokenizer
