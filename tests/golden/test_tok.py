"""Token ids and decoded text against mistral-common, on its own vocabulary."""

import json
import os
import pathlib
import random
import subprocess
import unicodedata

import pytest

tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
PROBE = pathlib.Path(os.environ["SIROCCO_BUILDDIR"]) / "tests/golden/tok_probe"
DATA = pathlib.Path(tekken.__file__).parents[2] / "data"
FILES = [p for p in (DATA / "tekken_240911.json",
                     TOP / "contrib/demo-model/model/tekken.json")
         if p.exists()]
REAL = DATA / "tekken_240911.json"
POLICY = {"ignore": tekken.SpecialTokenPolicy.IGNORE,
          "keep": tekken.SpecialTokenPolicy.KEEP}

# Blocks of many scripts, symbols, spaces, private use and unassigned.
BLOCKS = [(0x20, 0x7e), (0x20, 0x7e), (0x20, 0x7e), (0, 0x1f), (0xa0, 0x24f),
          (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x5ff),
          (0x600, 0x6ff), (0x900, 0x97f), (0xe00, 0xe7f), (0x1100, 0x11ff),
          (0x1680, 0x1680), (0x180b, 0x180f), (0x2000, 0x206f),
          (0x20a0, 0x20bf), (0x2190, 0x21ff), (0x3000, 0x30ff),
          (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xe0ff),
          (0xfe00, 0xfe0f), (0xff00, 0xffef), (0x10400, 0x1044f),
          (0x1d400, 0x1d7ff), (0x1f1e6, 0x1f1ff), (0x1f300, 0x1faff),
          (0x20000, 0x2007f), (0xe0020, 0xe007f), (0x10ff00, 0x10ffff)]
WORDS = ("the quick brown fox it's I'm We'll don't HTTPServer fooBar x2 3.14 "
         "2024-05-01 naïve café Zürich Straße ÅNGSTRÖM Привет мир здравствуй "
         "日本語 中文分词 한국어 ภาษาไทย हिन्दी العربية עברית Ελληνικά 🎉 👩‍👩‍👧 🇫🇷 ✈️ "
         "[INST] [/INST] <s> </s> [TOOL_CALLS] [ARGS] [THINK] <SPECIAL_20> "
         "<|endoftext|> [IMG] <unk> 	tab ... !!! ??? -> => :: // /* */ {} "
         "[] () \"\" '' \\n \\ / ./a/b https://x.y/z?a=b&c=d#e").split(" ")
SPACES = [" ", " ", " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n",
          "\n  ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e",
          "\u200b", "\u2028", ""]


def sample(rng):
    """One random string of one of several kinds."""
    kind = rng.randrange(6)
    if kind == 0:
        return "".join(rng.choice(WORDS) + rng.choice(SPACES)
                       for _ in range(rng.randrange(1, 30)))
    if kind == 1:
        low, high = rng.choice(BLOCKS)
        return "".join(chr(rng.randint(low, high))
                       for _ in range(rng.randrange(1, 40)))
    if kind == 2:
        return "".join(chr(rng.randint(*rng.choice(BLOCKS)))
                       for _ in range(rng.randrange(1, 40)))
    if kind == 3:
        return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 20)))
    if kind == 4:
        return rng.choice(WORDS + SPACES) * rng.randrange(1, 200)
    text = rng.choice(SOURCES)
    at = rng.randrange(len(text))
    return text[at:at + rng.randrange(1, 400)]


SOURCES = [p.read_text() for d in ("src/base", "tests/golden", "contrib")
           for p in sorted((TOP / d).glob("*"))
           if p.is_file() and p.suffix in (".c", ".h", ".py", "")]


def is_old(text):
    """No characters whose category depends on the Unicode version: the
    matcher's tables and Python's may be of different years."""
    return all(unicodedata.category(c) != "Cn" or ord(c) > 0xf0000
               for c in text)


def probe(file, *arguments, values):
    text = "".join(json.dumps(v) + "\n" for v in values)
    done = subprocess.run([PROBE, file, *arguments], input=text,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(x) for x in done.stdout.split("\n")[:-1]]


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.parent.name)
def pair(request):
    return request.param, tekken.Tekkenizer.from_file(request.param)


def test_ids_of_many_strings(pair):
    file, reference = pair
    rng = random.Random(1)
    texts = [t for t in (sample(rng) for _ in range(12000)) if is_old(t)]
    assert len(texts) >= 10000
    ours = probe(file, "encode", values=texts)
    for text, ids in zip(texts, ours):
        assert ids == reference.encode(text, False, False), ascii(text)


def test_committed_cases():
    """Ids that upstream publishes for every released tekken file."""
    cases = json.loads((TOP / "tests/data/tok_cases.json").read_text())
    ours = probe(REAL, "encode", values=[c["text"] for c in cases])
    for case, ids in zip(cases, ours):
        assert ids == case["ids"], case["text"]


@pytest.mark.parametrize("policy", ["ignore", "keep"])
def test_decoding_random_ids(pair, policy):
    """Nearly all such sequences are ill-formed UTF-8 in many places."""
    file, reference = pair
    rng = random.Random(2)
    special = reference.num_special_tokens
    pools = [(0, special - 1), (special, special + 255),
             (special, reference.n_words - 1)]
    runs = [[rng.randint(*rng.choice(pools))
             for _ in range(rng.randrange(1, 30))] for _ in range(5000)]
    runs += [[rng.randint(special + 0x80, special + 0xff)
              for _ in range(rng.randrange(1, 12))] for _ in range(5000)]
    ours = probe(file, "decode", policy, values=runs)
    for ids, text in zip(runs, ours):
        assert text == reference.decode(ids, POLICY[policy]), ids


def test_raise_refuses_special_ids(pair):
    file, reference = pair
    ours = probe(file, "decode", "raise",
                 values=[[reference.num_special_tokens + 65], [1],
                         [reference.n_words]])
    assert ours[0] == "A" and "error" in ours[1] and "error" in ours[2]


def test_every_token_decodes_to_itself(pair):
    file, reference = pair
    ids = [[i] for i in range(reference.n_words)]
    ours = probe(file, "decode", "keep", values=ids)
    for i, text in enumerate(ours):
        assert text == reference.id_to_piece(i)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "A", "1", "!", "日", "́",
                                  "🎉", "ab", " a", "a ", "aA", "\r\n "])
def test_a_megabyte_of_one_thing_is_encoded(unit):
    """Same ids as the reference where it can follow. A quadratic encoder
    would need hours for the megabyte, and run into the probe's time limit."""
    short, long = (unit * 20000)[:20000], (unit * (1 << 20))[:1 << 20]
    reference = tekken.Tekkenizer.from_file(REAL)
    ids, many = probe(REAL, "encode", values=[short, long])
    assert ids == reference.encode(short, False, False)
    assert len(many) > 1000
