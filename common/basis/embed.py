#!/usr/bin/env python3
"""Writes builtin.cc from two files made by `holo basis train`.

Usage: embed.py LUMA.basis CHROMA.basis > builtin.cc
"""
import sys


def literal(path):
    data = open(path, "rb").read()
    lines = []
    for start in range(0, len(data), 24):
        lines.append("    " + " ".join(f"{byte}," for byte in data[start:start + 24]))
    return len(data), "\n".join(lines)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print("// Made by embed.py; see basis/README.md for what the bases were trained on.")
    print("// clang-format off")
    print('#include "common/basis/builtin.h"\n')
    print("namespace holo::basis {\nnamespace {\n")
    for name, path in (("kLuma", sys.argv[1]), ("kChroma", sys.argv[2])):
        size, body = literal(path)
        print(f"constexpr std::uint8_t {name}[{size}] = {{\n{body}\n}};\n")
    print("}  // namespace\n")
    print("std::span<const std::uint8_t> LumaBytes() { return kLuma; }")
    print("std::span<const std::uint8_t> ChromaBytes() { return kChroma; }\n")
    print("}  // namespace holo::basis")


main()
