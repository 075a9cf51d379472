"""Text, vocabulary and tokens: from novels as plain files to what train.py reads.

    python prepare.py --novels 79-english-novels.tar.xz --out work

makes in work/:
    tokenizer.json          byte-level BPE, <|endoftext|> is the last token
    novels.u16              the novels for training, shuffled, <|endoftext|> before each
    chat.u16                the conversations in them as chats, <|endoftext|> before each
    held_out.u16            the novels in HELD_OUT, which neither the vocabulary nor the model ever sees
    calibration.txt         an excerpt of training text, from several novels
    held_out.txt            an excerpt of the held-out novels
    summary.json            what was counted
The same input gives the same output.
"""

import argparse
import json
import pathlib
import random
import tarfile

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import text

END = "<|endoftext|>"
# Whole novels. Others by the same authors are trained on.
HELD_OUT = ["Doyle_Hound_1902.txt", "Forster_View_1908.txt", "Stevenson_Treasure_1883.txt"]


def read_novels(path: pathlib.Path) -> dict[str, str]:
    if path.is_dir():
        found = {file.name: file.read_text("utf-8") for file in path.glob("*.txt")}
    else:
        with tarfile.open(path) as archive:
            found = {pathlib.PurePath(member.name).name: archive.extractfile(member).read().decode("utf-8")
                     for member in archive if member.isfile() and member.name.endswith(".txt")}
    if missing := [name for name in HELD_OUT if name not in found]:
        raise SystemExit(f"{path}: expected the held-out novels, found no {', '.join(missing)}")
    return dict(sorted(found.items()))


def train_tokenizer(lines, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=vocabulary - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=True))
    tokenizer.add_special_tokens([END])
    if tokenizer.token_to_id(END) != vocabulary - 1:
        raise SystemExit(f"expected {vocabulary} tokens, found {tokenizer.get_vocab_size()}")
    return tokenizer


def excerpt(paragraphs: list[str], length: int) -> str:
    """From the middle, about `length` characters, whole paragraphs."""
    out, size = [], 0
    for paragraph in paragraphs[len(paragraphs) // 3:]:
        if size >= length:
            break
        out.append(paragraph)
        size += len(paragraph) + 1
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--novels", type=pathlib.Path, required=True, help="a folder of .txt files, or a tar archive")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder, made if it is not there")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens, END included (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)

    novels = {name: text.paragraphs(raw) for name, raw in read_novels(options.novels).items()}
    names = [name for name in novels if name not in HELD_OUT]
    rng.shuffle(names)
    chats = [text.as_chat(turns) for name in names for turns in text.conversations(novels[name])]
    rng.shuffle(chats)

    tokenizer = train_tokenizer((line + "\n" for source in ([p for name in names for p in novels[name]], chats)
                                 for line in source), options.vocabulary)
    tokenizer.save(str(options.out / "tokenizer.json"))
    end = tokenizer.token_to_id(END)

    summary: dict = {"vocabulary": options.vocabulary, "trained_on": names, "kept_out": HELD_OUT}

    def write(name: str, documents: list[str]) -> None:
        ids = []
        for encoding in tokenizer.encode_batch(documents):
            ids.append(end)
            ids.extend(encoding.ids)
        numpy.array(ids, dtype="<u2").tofile(options.out / f"{name}.u16")
        summary[name] = {"documents": len(documents), "bytes": sum(len(d.encode()) for d in documents),
                         "tokens": len(ids)}
        print(name, summary[name], flush=True)

    write("novels", ["\n".join(novels[name]) + "\n" for name in names])
    write("chat", chats)
    write("held_out", ["\n".join(novels[name]) + "\n" for name in HELD_OUT])
    samples = {"calibration": [excerpt(novels[name], 50_000) for name in sorted(rng.sample(names, 12))],
               "held_out": [excerpt(novels[name], 100_000) for name in HELD_OUT]}
    for name, parts in samples.items():
        (options.out / f"{name}.txt").write_text("".join(parts), "utf-8")
        summary[f"{name}.txt"] = {"bytes": len("".join(parts).encode()),
                                  "tokens": sum(len(tokenizer.encode(part).ids) for part in parts)}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    print({name: summary[f"{name}.txt"] for name in samples})


if __name__ == "__main__":
    main()
