"""holo's engine against llama.cpp: the same GPT-2 124M geometry, the same random weights, the same run.

    python3 -m venv VENV
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON
      -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON" VENV/bin/pip install llama-cpp-python gguf
    VENV/bin/python against_llama.py --engine build/release/benchmarks/common/language_model/holo_benchmark_engine --work FOLDER

Weights are written once, as a model directory and as GGUF files: F32 against fp32, BF16 against bf16, Q8_0 against int8.
Both programs take turns; the best of all rounds counts, as other programs only add time. Prints tokens/s of a prompt and
of decoding behind it (keys and values in half precision in both), and the ratio holo / llama.cpp.
"""

import argparse
import json
import pathlib
import subprocess
import struct
import sys
import time

import numpy

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 768, 12, 12, 50257, 1024
TYPES = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0"}


def make_weights() -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(1)
    weights = {}

    def add(name: str, shape: tuple[int, ...], scale: float = 0.02, mean: float = 0.0) -> None:
        weights[name] = (mean + scale * random.standard_normal(shape, dtype=numpy.float32)).astype(numpy.float32)

    add("wte.weight", (VOCABULARY, WIDTH))
    add("wpe.weight", (CONTEXT, WIDTH))
    for i in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            add(f"h.{i}.{norm}.weight", (WIDTH,), 0.1, 1.0)
            add(f"h.{i}.{norm}.bias", (WIDTH,), 0.1)
        for name, inputs, outputs in (("attn.c_attn", WIDTH, 3 * WIDTH), ("attn.c_proj", WIDTH, WIDTH),
                                      ("mlp.c_fc", WIDTH, 4 * WIDTH), ("mlp.c_proj", 4 * WIDTH, WIDTH)):
            add(f"h.{i}.{name}.weight", (inputs, outputs))
            add(f"h.{i}.{name}.bias", (outputs,))
    add("ln_f.weight", (WIDTH,), 0.1, 1.0)
    add("ln_f.bias", (WIDTH,), 0.1)
    return weights


def write_directory(weights: dict[str, numpy.ndarray], folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, tensor in weights.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            file.write(tensor.tobytes())
    (folder / "config.json").write_text(json.dumps({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS,
        "n_head": HEADS}))


def write_gguf(weights: dict[str, numpy.ndarray], kind: str, path: pathlib.Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type({"F32": 0, "BF16": 32, "Q8_0": 7}[kind])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t 0"])
    quantisation = gguf.GGMLQuantizationType[kind]

    def add(name: str, tensor: numpy.ndarray, matrix: bool) -> None:
        if matrix and kind != "F32":
            writer.add_tensor(name, gguf.quants.quantize(tensor, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, tensor)

    names = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
             "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    add("token_embd.weight", weights["wte.weight"], True)
    add("position_embd.weight", weights["wpe.weight"], False)
    for i in range(LAYERS):
        for theirs, ours in names.items():
            tensor = weights[f"h.{i}.{theirs}.weight"]
            add(f"blk.{i}.{ours}.weight", numpy.ascontiguousarray(tensor.T), tensor.ndim == 2)
            add(f"blk.{i}.{ours}.bias", weights[f"h.{i}.{theirs}.bias"], False)
    add("output_norm.weight", weights["ln_f.weight"], False)
    add("output_norm.bias", weights["ln_f.bias"], False)
    add("output.weight", weights["wte.weight"], True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    def __init__(self, path: pathlib.Path, threads: int):
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        # Its messages would be many; they stay referenced here.
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = CONTEXT
        settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.model or not self.context:
            sys.exit(f"{path}: llama.cpp cannot load it")

    def decode(self, tokens: list[int]) -> None:
        array = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(tokens))) != 0:
            sys.exit("llama.cpp: decode failed")
        self.api.llama_get_logits(self.context)  # waits until they are there

    def run(self, prompt: int, steps: int) -> tuple[float, float]:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        tokens = [i * 7919 % VOCABULARY for i in range(prompt)]
        start = time.perf_counter()
        self.decode(tokens)
        middle = time.perf_counter()
        for i in range(steps):
            self.decode([i])
        end = time.perf_counter()
        return prompt / (middle - start), steps / (end - middle)


def run_engine(options: argparse.Namespace, kind: str) -> tuple[float, float]:
    output = subprocess.run(
        [options.engine, "--model", options.work / "model", "--only", "prefill", "decode", "--weights", kind, "--threads",
         str(options.threads), "--rounds", "2", "--steps", str(options.steps), "--prompt", str(options.prompt)],
        check=True, capture_output=True, text=True).stdout
    values = {line.split()[0]: float(line.split()[-2]) for line in output.splitlines() if line.endswith("tokens/s")}
    return values["prefill"], values["decode"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="holo_benchmark_engine")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for 1.3 GB of weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    weights = None
    for kind in options.types:
        path = options.work / f"{TYPES[kind]}.gguf"
        if path.exists() and (options.work / "model/config.json").exists():
            continue
        if weights is None:
            weights = make_weights()
            write_directory(weights, options.work / "model")
        write_gguf(weights, TYPES[kind], path)
    del weights
    print(f"{'weights':8} {'what':8} {'holo':>10} {'llama.cpp':>10} tokens/s {'ratio':>7}")
    for kind in options.types:
        llama = Llama(options.work / f"{TYPES[kind]}.gguf", options.threads)
        llama.run(64, 4)
        best = {"holo": (0.0, 0.0), "llama": (0.0, 0.0)}
        for _ in range(options.rounds):
            for name, run in (("holo", lambda: run_engine(options, kind)),
                              ("llama", lambda: max(llama.run(options.prompt, options.steps) for _ in range(2)))):
                best[name] = tuple(max(pair) for pair in zip(best[name], run()))
        for i, what in enumerate(("prefill", "decode")):
            ours, theirs = best["holo"][i], best["llama"][i]
            print(f"{kind:8} {what:8} {ours:10.1f} {theirs:10.1f} {'':8} {ours / theirs:6.2f}x", flush=True)


if __name__ == "__main__":
    main()
