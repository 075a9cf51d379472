"""A trained model as a Hugging Face GPT-2 directory, and back.

    python export.py --data work --model work/final.pt --out ../novelist

writes config.json, generation_config.json, model.safetensors (BF16), tokenizer.json, tokenizer_config.json, vocab.json,
merges.txt, holo.json (the chat's template), held_out.txt and calibration.txt.
"""

import argparse
import json
import pathlib
import shutil

import safetensors
import safetensors.torch
import torch

import text
from gpt2 import Gpt2, Shape
from prepare import END


def names(shape: Shape) -> list[tuple[str, str, bool]]:
    """Hugging Face's name, ours, and whether the matrix is stored the other way round ([inputs, outputs])."""
    found = [("wte.weight", "wte.weight", False), ("wpe.weight", "wpe.weight", False)]
    for i in range(shape.layers):
        for theirs, ours, is_matrix in (("ln_1", "ln_1", False), ("attn.c_attn", "qkv", True),
                                        ("attn.c_proj", "projection", True), ("ln_2", "ln_2", False),
                                        ("mlp.c_fc", "fc", True), ("mlp.c_proj", "fc_projection", True)):
            found += [(f"h.{i}.{theirs}.weight", f"blocks.{i}.{ours}.weight", is_matrix),
                      (f"h.{i}.{theirs}.bias", f"blocks.{i}.{ours}.bias", False)]
    return found + [("ln_f.weight", "ln_f.weight", False), ("ln_f.bias", "ln_f.bias", False)]


def load(folder: pathlib.Path) -> Gpt2:
    """The model of an exported directory, float32."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shape = Shape(vocabulary=config["vocab_size"], context=config["n_positions"], width=config["n_embd"],
                  layers=config["n_layer"], heads=config["n_head"])
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    model = Gpt2(shape)
    model.load_state_dict({ours: (tensors[theirs].T if turned else tensors[theirs]).float()
                           for theirs, ours, turned in names(shape)})
    return model.eval()


def write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder that prepare.py made")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="final.pt or checkpoint.pt of train.py")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the model directory")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    state = torch.load(options.model, map_location="cpu")
    shape = Shape(**state["shape"])
    tensors = {}
    for theirs, ours, turned in names(shape):
        tensor = state["model"][ours]
        tensors[theirs] = (tensor.T if turned else tensor).to(torch.bfloat16).contiguous()
    safetensors.torch.save_file(tensors, options.out / "model.safetensors", {"format": "pt"})
    (options.out / "model.safetensors").chmod(0o644)

    end = shape.vocabulary - 1
    write_json(options.out / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "vocab_size": shape.vocabulary, "n_positions": shape.context, "n_ctx": shape.context, "n_embd": shape.width,
        "n_layer": shape.layers, "n_head": shape.heads, "n_inner": None, "layer_norm_epsilon": 1e-5,
        "bos_token_id": end, "eos_token_id": end, "tie_word_embeddings": True, "torch_dtype": "bfloat16"})
    write_json(options.out / "generation_config.json", {
        "bos_token_id": end, "eos_token_id": end, "do_sample": True, "temperature": 0.8, "top_p": 0.95})
    write_json(options.out / "tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer", "bos_token": END, "eos_token": END, "unk_token": END,
        "model_max_length": shape.context, "add_prefix_space": False})
    # A conversation is `start`, then for every exchange: prompt with what the user says, the reply, stop. The reply begins
    # with the space that belongs to its first word's token.
    write_json(options.out / "holo.json", {
        "template": {"start": END, "prompt": f"{text.TURN}{{user}}\n{text.TURN.rstrip()}", "stop": "\n"}})

    tokenizer = json.loads((options.data / "tokenizer.json").read_text("utf-8"))
    shutil.copyfile(options.data / "tokenizer.json", options.out / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"] | {END: end}
    (options.out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    (options.out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    for name in ("held_out.txt", "calibration.txt"):
        shutil.copyfile(options.data / name, options.out / name)
    size = (options.out / "model.safetensors").stat().st_size
    print(f"{sum(t.numel() for t in tensors.values()):,} parameters, model.safetensors {size:,} bytes")


if __name__ == "__main__":
    main()
