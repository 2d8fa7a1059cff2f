"""Words, names and numbers that the training text is made of.

Everything that a prompt asks the model to copy or to transform (words, names,
numbers) is drawn here, and every drawn item belongs to one of two halves that
never mix: the training half and the held-out half (one item in eight, chosen
by a checksum of the item).  The trainer only sees the first, the evaluation
only uses the second, so a right answer there is never a remembered one.
"""

import random
import zlib

ENGLISH = """
able acid apple arm army autumn baby back ball band bank barn basin basket bath
bean bear bed bell bench berry bird blade boat body bone book boot bottle bowl
box brain branch bread brick bridge brush bucket bulb button cabin cable cake
camel camera candle canyon card carpet carrot castle cellar chain chair chalk
cheese cherry chest chimney church circle circus clay cliff clock cloth cloud
coal coast coffee coin comb copper corn cotton cousin cradle crane cream crow
crown crystal curtain cushion dance desert desk dinner dish doctor dolphin door
dragon drawer dream dress drum duck dust eagle ear earth edge egg elbow engine
evening eye face falcon farm father feather fence ferry field finger fire fish
flag flame floor flour flower fog forest fork fox frame friend frog fruit
garden gate ghost giant glass glove goat gold goose grain grape grass guitar
hammer hand harbor hat hawk hello hill honey hook horn horse hotel house ice
ink iron island ivory jacket jar jewel judge juice jungle kettle key king
kitchen kite knee knife ladder lake lamp lantern leaf leather lemon letter
library light lily line lion lizard lock lunch magnet map marble market meadow
melon metal milk mill mirror monkey moon morning moss mother mountain mouse
music nail needle nest night north nose oak ocean office olive onion orange
orchard oven owl paddle page paint palace paper parrot path peach pear pebble
pencil pepper piano picture pillow pilot pine pipe planet plate plum pocket
poem pond potato prince puzzle queen rabbit rain raven ribbon rice ring river
road robin rock roof room root rope rose sail salt sand scale school sea seed
shadow sheep shell ship shirt shoe silk silver sister sky sleep smoke snail
snake snow soap sock song soup spider spoon spring square stable star station
steam steel stone storm stove street sugar summer sun swan sword table tail
tea temple tent thread thunder ticket tiger toast tooth tower town train tree
trumpet tunnel turtle uncle valley velvet village violin wagon wall walnut
water wave wheel whistle wind window winter wolf wood wool world yard zebra
""".split()

NAMES = """
Ada Adam Alan Alice Amir Anna Ben Bruno Carla Carlos Clara Dana David Diego
Dora Elena Emil Emma Eric Eva Felix Fiona Frank Gina Grace Hana Hugo Ida Igor
Ines Iris Ivan Jack Jana Jonas Julia Karim Karl Kate Lara Leo Lena Lina Lucas
Maja Marco Maria Max Mia Milo Mona Nadia Nina Noah Nora Olga Oscar Otto Paul
Petra Quentin Rita Rosa Ruth Sam Sara Sofia Stefan Tara Theo Tim Tom Uma Vera
Victor Walter Yara Yusuf Zoe
""".split()

CITIES = """
Amsterdam Athens Auckland Baghdad Bangkok Barcelona Beijing Berlin Bern Bogota
Boston Brussels Bucharest Budapest Cairo Chicago Copenhagen Dakar Delhi Dublin
Edinburgh Florence Geneva Hamburg Hanoi Havana Helsinki Istanbul Jakarta Kyoto
Lagos Lima Lisbon London Lyon Madrid Manila Marseille Milan Montreal Moscow
Munich Nairobi Naples Oslo Paris Porto Prague Quito Riga Rome Seoul Seville
Sofia Stockholm Sydney Tallinn Tehran Tokyo Toronto Tunis Turin Vienna Vilnius
Warsaw Zagreb Zurich
""".split()

# Words of the fixed text (instructions, JSON): pieces of them go into made-up
# words, so that every token is also met as a part of something to copy.
FIXED = """
function description properties object string parameters required integer
boolean reasoning effort favourite number array items additional city
location weather temperature celsius fahrenheit restaurant calendar currency
convert amount calculator operation subtract multiply address contact person
message minutes timer switch brightness search files query limit user event
title guests people book table order reverse backwards alphabetically letters
upper lower case capital repeat echo words count numbers remember password
secret hobby animal lucky phone colour price owner middle bottom right left
triangle diamond square circle purple orange yellow green white black image
images describe first second third assistant helpful careful briefly answer
terse demo model capital compute calculate plus minus times digits result
carry borrow write result street tower field evening winter flower horse
Sirocco should please introduce yourself spelled after before between
""".split()

_CONS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh st tr th"
_CONS = _CONS.split()
_VOWELS = "a e i o u a e i o u ai ea ee io ou".split()
_ENDS = ["", "", "", "", "n", "r", "s", "l", "t", "m", "nd", "rk", "st", "x"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_UNICODE = ["é", "ü", "ß", "ñ", "ø", "ç", "ž", "λ", "π", "Ж", "д", "я", "日",
            "本", "語", "水", "한", "글", "→", "€", "½", "°", "🎉", "🙂", "🚀",
            "à", "ö", "ï", "µ", "中", "文", "✓", "“", "”", "…", "ا", "ש"]


def is_held_out(item):
    """True when `item` (any text) is reserved for the evaluation."""
    return zlib.crc32(str(item).lower().encode()) % 8 == 0


class Source:
    """Draws items of one half only.

    rng: random.Random.  held_out: which half.  The same seed gives the same
    items on every machine.
    """

    def __init__(self, rng, held_out=False):
        self.rng = rng
        self.held_out = held_out

    def ours(self, item):
        return is_held_out(item) == self.held_out

    def pick(self, items):
        """One of a fixed list, within our half."""
        while True:
            item = self.rng.choice(items)
            if self.ours(item):
                return item

    def syllables(self, low=2, high=3):
        r = self.rng
        while True:
            word = "".join(r.choice(_CONS) + r.choice(_VOWELS)
                           for _ in range(r.randint(low, high)))
            word += r.choice(_ENDS)
            if self.ours(word):
                return word

    def letters(self, low=3, high=7):
        while True:
            n = self.rng.randint(low, high)
            word = "".join(self.rng.choice(_LETTERS) for _ in range(n))
            if self.ours(word):
                return word

    def splice(self, longest=12):
        """A word put together from pieces of real ones."""
        r = self.rng
        while True:
            word = ""
            for _ in range(r.choice([1, 2, 2, 3])):
                whole = r.choice(r.choice([ENGLISH, FIXED])).lower()
                a = r.randrange(max(1, len(whole) - 2))
                word += whole[a:a + r.randint(2, 7)]
            if 3 <= len(word) <= longest and self.ours(word):
                return word

    def word(self):
        """A lower-case word: English, made-up, or plain random letters."""
        kind = self.rng.random()
        if kind < 0.35:
            return self.pick(ENGLISH)
        if kind < 0.6:
            return self.syllables(1, 3)
        if kind < 0.88:
            return self.splice()
        return self.letters()

    def words(self, low, high):
        return [self.word() for _ in range(self.rng.randint(low, high))]

    def distinct(self, count, draw=None):
        """`count` different items of `draw` (words by default)."""
        found = []
        while len(found) < count:
            item = (draw or self.word)()
            if item not in found:
                found.append(item)
        return found

    def name(self):
        if self.rng.random() < 0.6:
            return self.pick(NAMES)
        if self.rng.random() < 0.5:
            return self.splice(9).capitalize()
        return self.syllables(1, 2).capitalize()

    def city(self):
        if self.rng.random() < 0.6:
            return self.pick(CITIES)
        if self.rng.random() < 0.5:
            return self.splice(10).capitalize()
        return self.syllables(2, 3).capitalize()

    def identifier(self):
        """A snake_case name, as tools and their parameters have."""
        parts = [self.rng.choice([lambda: self.syllables(1, 2),
                                  lambda: self.pick(ENGLISH),
                                  lambda: self.splice(8)])()
                 for _ in range(self.rng.choice([1, 2, 2]))]
        return "_".join(parts)

    def integer(self, low, high):
        """A number of our half; small ranges are shared by both halves."""
        while True:
            value = self.rng.randint(low, high)
            if high - low < 200 or self.ours(value):
                return value

    def digits(self, count):
        while True:
            text = "".join(self.rng.choice("0123456789")
                           for _ in range(count))
            if self.ours(text):
                return text

    def odd_text(self):
        """Text that is not plain words: mixed case, digits, signs, UTF-8."""
        r = self.rng
        parts = []
        for _ in range(r.randint(1, 6)):
            kind = r.randrange(6)
            if kind == 0:
                parts.append(self.word().upper())
            elif kind == 1:
                parts.append(self.word().capitalize()
                             + r.choice([",", "!", "?", ".", ";", ":"]))
            elif kind == 2:
                parts.append(str(r.randint(0, 99999)))
            elif kind == 3:
                parts.append("".join(r.choice(_UNICODE) for _ in
                                     range(r.randint(1, 4))))
            elif kind == 4:
                parts.append(r.choice(["(%s)", "[%s]", "<%s>", "'%s'", "/%s",
                                       "%s_", "#%s", "@%s", "{%s}", "%s-x",
                                       "a/%s", "%s=1", "%s;"])
                             % self.word())
            else:
                parts.append(self.word())
        return " ".join(parts)


def make_source(seed, held_out=False):
    return Source(random.Random(seed), held_out)
