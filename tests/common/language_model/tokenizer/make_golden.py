#!/usr/bin/env python3
"""Writes golden/: what reference implementations make of texts, and a small tokenizer of our own.

    pip install tiktoken tokenizers
    make_golden.py FOLDER_WITH_encoder.json_AND_vocab.bpe [TEXT_FILE]

gpt2.json holds tiktoken's tokens of GPT-2, checked against Hugging Face's tokenizers; small.json the latter's tokens of
small_tokenizer.json, a vocabulary of 420 tokens trained here on a few sentences. With TEXT_FILE it prints the number of
its tokens and their SHA-256 (32 bits each, little-endian), which the test has for WikiText-2.
"""
import hashlib
import json
import pathlib
import random
import struct
import sys

import tiktoken
import tiktoken.load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GOLDEN = pathlib.Path(__file__).parent / "golden"

SENTENCES = [
    "The light of the lamp fell on the wall, and the wall gave back the light.",
    "She said that she'd seen it; they're sure he'll come, we've heard, I'm told it isn't so.",
    "In 1848 there were 12 ships, in 1849 there were 30, and in 1850 more than 100.",
    "A hologram keeps the whole picture in each of its parts, and every part shows the whole.",
    "    if (value > 0) {\n        return value;\n    }\n",
    "Ein Bild ist eine Summe von Bildern, größer und größer; été, naïve, façade.",
]

TEXTS = [
    "", " ", "  ", "a", " a", "  a", "   a", "a ", "a  ", "a b", "a  b", "a   b", "\n", "\n\n", "a\n", "a\n\nb", " \n", "\n ",
    "\n a", "\n  a", "a \n b", "\t\tif x:\n\t\t\treturn", "\r\n\r\n", "a\r\nb", "\u00a0", "a\u00a0b", " \u00a0b", "\u3000\u3000a",
    "\u2028\u2029x", "\x85y", "\x0b\x0c", "\x1c\x1d\x1e\x1f", "\x00\x01\x02", "\x7f", "\u200b \u200b", "\ufeffBOM", "\u180ex",
    " " * 3 + "x", " " * 15, " " * 64 + "x", " " * 200, "\n" * 50, "\t" * 33 + ".", " \n" * 20,
    "don't can't I'll we've they're she'd I'm it's", "DON'T CAN'T I'LL", "'s't're've'm'll'd", "''s ''' 't 'x 'rx '", "!'s .'t \"'re",
    "’s ‘t", "rock'n'roll o'clock", "it''s", "'" * 20,
    "0 1 12 123 1234 12345 123456789", "3.14159 1e-9 0x1F 1,000,000", "½ ⅔ ² ³ Ⅷ ٣٤٥ ๓ 〇", "x2y3", "100%", "$5.00 €7 £8",
    "The quick brown fox jumps over the lazy dog.", "supercalifragilisticexpialidocious", "a" * 100, "ab" * 60, "." * 40, "!?" * 30,
    "------------------------", "=" * 64, "_" * 13, "...", "… — – “x” «y»",
    "Съешь же ещё этих мягких французских булок", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "日本語のテキスト、句読点。", "中文没有空格的文本", "한국어 텍스트", "e\u0301 e\u0301a \u0301", "ﬁ ﬂ Ⓐ ª º ʰ",
    "😀", "😀😀😀", "a😀b", "👩‍👩‍👧‍👦", "🏳️‍🌈 🇩🇪 👍🏽", "❤️ ❤", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "\U0010ffff\U000e0001", "\u0378\ufffd\ufffe",
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # comment\n", "https://example.org/a?b=c&d=%20e#f", "{\"k\": null}\n",
    "Ġthe Ċ Ā ĠĠ", "SolidGoldMagikarp  petertodd", " \t \t x", "CamelCaseIdentifier snake_case_name kebab-case-name",
]

# Published by OpenAI (openai-cookbook, "How to count tokens with tiktoken"; tiktoken's README) and by Hugging Face
# (transformers' GPT2Tokenizer).
PUBLISHED = [
    ("hello world", [31373, 995]), ("Hello world", [15496, 995]), (" Hello world", [18435, 995]),
    ("tiktoken is great!", [83, 1134, 30001, 318, 1049, 0]),
    ("antidisestablishmentarianism", [415, 29207, 44390, 3699, 1042]), ("2 + 2 = 4", [17, 1343, 362, 796, 604]),
    ("お誕生日おめでとう", [2515, 232, 45739, 243, 37955, 33768, 98, 2515, 232, 1792, 223, 30640, 30201, 29557]),
]


def random_texts():
    """A few hundred characters each, of one kind or mixed, the same every time."""
    rng = random.Random(5)
    pools = ["abcdefghij'strevmlld ", " \t\n\r\u00a0\u3000\u2028\x85\x0b\x1c", "0123456789½²٣Ⅷ", "!?.,'\"()-–—…€",
             "éüßñøłžЖдяשלוםمرحبا", "日本語テキスト한국어", "😀👩\u200d🏽🇩🇪\ufe0f", "'stSTRELL ", "\x00\x01\x7f\x80\u0378\ufffd"]
    for _ in range(24):
        chosen = rng.sample(pools, rng.randint(1, 4))
        yield "".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(5, 60)))


def train_small():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>", "<|user|>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(GOLDEN / "small_tokenizer.json"), pretty=False)
    return without_special(GOLDEN / "small_tokenizer.json")


def without_special(path):
    """Special tokens would otherwise be found in the text."""
    loaded = json.loads(path.read_text())
    loaded["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(loaded))


def write(name, cases):
    lines = ",\n".join(json.dumps({"text": text, "ids": ids}, separators=(",", ":")) for text, ids in cases)
    (GOLDEN / name).write_text("[\n" + lines + "\n]\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    reference = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    merges = [tuple(line.split(" ")) for line in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]]
    second = Tokenizer(models.BPE(vocab=json.loads((folder / "encoder.json").read_text()), merges=merges))
    second.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text, ids in PUBLISHED:
        assert reference.encode_ordinary(text) == ids, (text, reference.encode_ordinary(text))

    GOLDEN.mkdir(exist_ok=True)
    texts = [text for text, _ in PUBLISHED] + TEXTS + list(random_texts())
    for text in texts:
        assert reference.encode_ordinary(text) == second.encode(text).ids, text
    write("gpt2.json", [(text, reference.encode_ordinary(text)) for text in texts])
    small = train_small()
    write("small.json", [(text, small.encode(text).ids) for text in SENTENCES + texts])

    if len(sys.argv) > 2:
        text = pathlib.Path(sys.argv[2]).read_bytes().decode("utf-8")
        ids = reference.encode_ordinary(text)
        print(len(ids), hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest())


if __name__ == "__main__":
    main()
