"""Trains the byte-pair vocabulary and writes tekken.json (version v15).

    python3 tokenizer.py --out model/tekken.json

The merges are learned on the fixed part of the training text (instructions,
JSON of tools, answers).  The words that prompts are about (lexicon.py) are
left out, so they are spelled in short pieces, which is what makes reversing
and upper-casing a word learnable for a model this small.
"""

import argparse
import base64
import json
from collections import Counter

import regex

import chatfmt
import generate
import tasks_long
from lexicon import CITIES, ENGLISH, NAMES, make_source

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]",
           "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
           "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]",
           "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
           "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
LATER = {32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]",
         36: "[MODEL_SETTINGS]", 37: "[/MODEL_SETTINGS]"}
NUM_SPECIAL = 64
VOCAB_SIZE = 1024


def special_tokens():
    names = SPECIAL + ["<SPECIAL_%d>" % i
                       for i in range(len(SPECIAL), NUM_SPECIAL)]
    for rank, name in LATER.items():
        names[rank] = name
    return [{"rank": i, "token_str": n, "is_control": True}
            for i, n in enumerate(names)]


def texts(chat):
    """Every piece of text in a chat that is encoded by itself."""
    if chat["system"]:
        yield chat["system"]
    if chat["tools"]:
        yield json.dumps(chat["tools"], ensure_ascii=False)
    yield json.dumps({"reasoning_effort": chat["effort"]})
    for m in chat["messages"]:
        content = m["content"]
        if isinstance(content, str):
            yield content
        else:
            yield from (v for k, v in content if k == "text")
        if m.get("think"):
            yield m["think"]
        for name, args in m.get("calls") or []:
            yield name
            yield json.dumps(args, ensure_ascii=False)


def count_pieces(seed, chats, least):
    """Pieces of the fixed text with their counts."""
    split = regex.compile(PATTERN)
    src = make_source(seed)
    counts = Counter()
    for _ in range(chats):
        for text in texts(generate.short_chat(src)):
            counts.update(split.findall(text))
    for _ in range(chats // 20):
        counts.update(split.findall(" " + tasks_long.filler(src.rng)))
    payload = {w.lower() for w in ENGLISH + NAMES + CITIES}
    payload -= {"hello", "key", "letter", "page", "book", "table", "picture",
                "middle", "field", "uncle", "station", "image"}
    return {p: c for p, c in counts.items()
            if c >= least and p.strip(" _/.\"'").lower() not in payload
            and len(p) > 1}


def learn(counts, merges):
    """Byte-pair merges: the most frequent pair first, ties by bytes."""
    words = [([bytes([b]) for b in p.encode()], c)
             for p, c in sorted(counts.items())]
    vocab = [bytes([b]) for b in range(256)]
    known = set(vocab)
    while len(vocab) < 256 + merges:
        pairs = Counter()
        for parts, c in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += c
        fresh = [(c, p) for p, c in pairs.items()
                 if p[0] + p[1] not in known]
        if not fresh:
            raise SystemExit("too little text for %d merges" % merges)
        best = max(fresh)[1]
        joined = best[0] + best[1]
        vocab.append(joined)
        known.add(joined)
        for parts, _ in words:
            i = 0
            while i + 1 < len(parts):
                if parts[i] + parts[i + 1] == joined:
                    parts[i:i + 2] = [joined]
                i += 1
    return vocab


def tekken(vocab):
    """The contents of tekken.json."""
    def shown(token):
        try:
            return token.decode()
        except UnicodeDecodeError:
            return None
    return {
        "config": {"pattern": PATTERN, "num_vocab_tokens": len(vocab),
                   "default_vocab_size": len(vocab) + NUM_SPECIAL,
                   "default_num_special_tokens": NUM_SPECIAL,
                   "version": "v15"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode(),
                   "token_str": shown(t)} for i, t in enumerate(vocab)],
        "special_tokens": special_tokens(),
        "image": {"image_patch_size": 14, "max_image_size": 1540,
                  "spatial_merge_size": 2},
        "model_settings_builder": {"reasoning_effort": {
            "type": "enum", "accepts_none": True, "default": "none",
            "values": ["none", "high"]}},
        "version": 1, "type": "Tekken"}


def main():
    parser = argparse.ArgumentParser(description="train the tokenizer")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--chats", type=int, default=12000)
    options = parser.parse_args()
    counts = count_pieces(options.seed, options.chats, 12)
    vocab = learn(counts, VOCAB_SIZE - NUM_SPECIAL - 256)
    with open(options.out, "w", encoding="utf-8") as f:
        json.dump(tekken(vocab), f, ensure_ascii=False, indent=1)
        f.write("\n")
    encoder = chatfmt.Encoder(options.out)
    print("%d pieces, %d tokens" % (len(counts), encoder.vocab_size))


if __name__ == "__main__":
    main()
