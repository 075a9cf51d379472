"""Novels as plain files into even text, and the conversations that are in them.

A novel becomes one paragraph a line: hard line breaks, blank lines, typographic quotation marks, markup for italics and
doubled spaces are gone, and speech stands in double quotation marks everywhere. conversations() finds paragraphs that
follow each other and are speech, and keeps what is spoken.
"""

import re
import statistics

# One turn of a chat: what holo.json tells `holo lm chat`. No novel has the character at the start of a line.
TURN = "\u2014 "

_DASHES = re.compile(r"\s*(?:[\u2013\u2014\u2015]|(?<![-\w])-{1,3}(?![-\w])|-{2,})\s*")
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\u2026": "...",
                        "_": "", "\ufeff": "", "\r": ""})


def paragraphs(raw: str) -> list[str]:
    """The paragraphs of a novel, each on one line."""
    lines = [line.strip() for line in raw.translate(_PLAIN).split("\n")]
    full = sorted(len(line) for line in lines if line)
    if not full:
        return []
    blank = sum(1 for line in lines if not line)
    longest = full[len(full) * 9 // 10]
    wrapped = longest < 95
    # Where a line is a paragraph, blank lines may stand between chapters only.
    if blank * (8 if wrapped else 2) > len(full):
        blocks = "\n".join(lines).split("\n\n")
    elif not wrapped:
        blocks = lines
    else:
        # Wrapped, and no blank lines: a sentence's end well before the margin ends a paragraph.
        blocks, block = [], []
        for line in lines:
            block.append(line)
            if len(line) < 0.8 * longest and re.search(r"[.!?:;\"']$", line):
                blocks.append(" ".join(block))
                block = []
        blocks.append(" ".join(block))
    out = []
    for block in blocks:
        block = _DASHES.sub(" - ", block)
        block = re.sub(r"\s+", " ", block).strip()
        block = re.sub(r" ([,;!?])(?=\s|$)", r"\1", block)
        if block:
            out.append(block)
    return _double_quotes(out)


def _double_quotes(blocks: list[str]) -> list[str]:
    doubles = sum(block.count('"') for block in blocks)
    singles = sum(len(re.findall(r"(?:^|\s)'\w", block)) for block in blocks)
    if singles < 3 * doubles:
        return blocks
    out = []
    for block in blocks:
        block = block.replace('"', "\0")
        block = re.sub(r"(^|[\s(])'(?=[\w\0])", r'\1"', block)
        block = re.sub(r"(?<=[,.!?;:)-])'(?=[\s;,.)]|$)", '"', block)
        out.append(block.replace("\0", "'"))
    return out


_QUOTED = re.compile(r'"([^"]+)"')


def spoken(paragraph: str) -> str | None:
    """What is said in a paragraph that is mostly speech; nothing for any other."""
    if not paragraph.startswith('"') or paragraph.count('"') % 2:
        return None
    pieces = [piece.strip() for piece in _QUOTED.findall(paragraph)]
    pieces = [piece for piece in pieces if piece]
    if not pieces or sum(map(len, pieces)) * 2 < len(paragraph):
        return None
    said = pieces[0]
    for piece in pieces[1:]:
        # "Yes," said he. "I will." is two sentences; "Yes," said he, "I will." may be one.
        if said.endswith(",") and re.match(r"(?!I\b|I')[A-Z]", piece):
            said = said[:-1] + "."
        said += " " + piece
    said = re.sub(r"\s+", " ", said).removeprefix("- ").strip()
    if said.endswith((",", ";", ":")):
        said = said[:-1] + "."
    if not said or not said[0].isalnum() or "[" in said:
        return None
    if said[-1] not in ".!?'-":
        said += "."
    return said[0].upper() + said[1:]


def conversations(blocks: list[str], longest_turn: int = 320) -> list[list[str]]:
    """Turns of two people in alternation, as far as quotation marks tell: at least two, each of at most longest_turn
    characters."""
    found: list[list[str]] = []
    turns: list[str] = []
    for block in [*blocks, ""]:
        said = spoken(block) if block else None
        if said is not None and len(said) <= longest_turn:
            turns.append(said)
            continue
        if len(turns) >= 2:
            found.append(turns)
        turns = []
    return found


def as_chat(turns: list[str]) -> str:
    return "".join(f"{TURN}{turn}\n" for turn in turns)
