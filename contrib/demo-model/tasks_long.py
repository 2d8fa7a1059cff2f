"""Long texts with keys hidden in them.

The filler is made of sentences that end in a full stop and are joined by one
space, so the tokens of the whole are the tokens of its sentences one after
the other: long texts are cheap to make and exact in length.
"""

from dataclasses import dataclass

_WHO = ["The farmer", "The pilot", "A sailor", "The teacher", "My uncle",
        "The old man", "The queen", "A small child", "The doctor",
        "Our neighbour", "The judge", "A tired guard", "The cook",
        "The young woman", "A stranger", "The captain"]
_DID = ["walked to", "looked at", "thought about", "came back from",
        "waited near", "wrote about", "dreamed of", "spoke of", "found",
        "painted", "remembered", "never saw", "went past", "forgot"]
_WHAT = ["the river", "the old mill", "the market", "the tower",
         "the garden", "a quiet street", "the bridge", "the harbor",
         "the white house", "a green hill", "the station", "the forest",
         "a narrow path", "the empty room", "the lake", "the church"]
_WHEN = ["in the morning", "after dinner", "in the rain", "at night",
         "before the storm", "on a cold day", "in summer", "last winter",
         "every evening", "once more", "without a word", "with a smile"]


@dataclass
class LongText:
    """sentences: the text.  asks: (question, answer) pairs."""
    sentences: list
    asks: list


def filler(rng):
    return "%s %s %s %s." % (rng.choice(_WHO), rng.choice(_DID),
                             rng.choice(_WHAT), rng.choice(_WHEN))


class FillerPool:
    """Filler sentences with their token counts, made once."""

    def __init__(self, rng, count_tokens, size=4000):
        self.items = []
        for _ in range(size):
            text = filler(rng)
            self.items.append((text, count_tokens(" " + text)))


def haystack(src, pool, tokens, keys, missing=0):
    """About `tokens` tokens of filler with `keys` keys planted in it, and
    questions about them; `missing` is the share of questions about others."""
    r = src.rng
    names = src.distinct(keys)
    planted, asks = [], []
    for name in names:
        key = src.digits(5)
        if r.random() < missing:
            asks.append(("What is the key of the %s?" % name,
                         "The key of the %s is not known to me." % name))
            continue
        planted.append("The key of the %s is %s." % (name, key))
        asks.append(("What is the key of the %s?" % name,
                     "The key of the %s is %s." % (name, key)))
    sentences, total = [], 0
    while total < tokens:
        text, size = r.choice(pool.items)
        sentences.append(text)
        total += size
    where = sorted(r.randrange(len(sentences) + 1) for _ in planted)
    for place, text in zip(reversed(where), planted):
        sentences.insert(place, text)
    r.shuffle(asks)
    return LongText(sentences, asks)
