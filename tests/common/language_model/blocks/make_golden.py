#!/usr/bin/env python3
"""Writes golden.json: blocks of every type, and the float32 that the gguf package of PyPI expands them to.

    pip install gguf
    make_golden.py

Blocks are random bytes, with scales between 2^-8 and 1; both are written in hexadecimal digits as they lie in memory.
"""
import json
import pathlib

import numpy
from gguf import GGMLQuantizationType, quants

# Offsets of float16 in a block.
SCALES = {"F16": [0], "BF16": [], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
          "Q6_K": [208]}
BYTES = {"F16": 2, "BF16": 2, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q4_K": 144, "Q6_K": 210}


def main():
    random = numpy.random.default_rng(6)
    rows = []
    for name, offsets in SCALES.items():
        count = 64 if BYTES[name] == 2 else 2
        blocks = random.integers(0, 256, (count, BYTES[name]), dtype=numpy.uint8)
        if name == "BF16":  # no NaN: an exponent of 1 to 127
            blocks[:, 1] = random.integers(0, 63, count)
        for offset in offsets:
            scale = random.uniform(2**-8, 1, count) * random.choice([-1, 1], count)
            blocks[:, offset:offset + 2] = scale.astype("<f2").view(numpy.uint8).reshape(count, 2)
        if name == "F16":  # and denormals
            blocks[:8, 1] &= 0x83
        values = quants.dequantize(blocks.reshape(-1), getattr(GGMLQuantizationType, name)).astype("<f4")
        rows.append({"type": name, "blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()})
    lines = ",\n".join(json.dumps(row) for row in rows)
    (pathlib.Path(__file__).parent / "golden.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    main()
