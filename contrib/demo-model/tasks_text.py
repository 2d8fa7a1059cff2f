"""Plain-text tasks: each function makes one question and its answer.

A task takes a lexicon.Source and returns a Turn.  `think` is what the model
writes inside its thinking block when reasoning_effort is high; it is never
part of the answer.  `facts` is text that has to stand earlier in the chat.
"""

import json
from dataclasses import dataclass, field

from lexicon import ENGLISH


UNKNOWN = "I do not know that."


@dataclass
class Turn:
    """One question with its answer, and what the answer is checked for."""
    task: str
    user: str
    answer: str
    think: str
    facts: list = field(default_factory=list)


def _echo_text(src):
    kind = src.rng.random()
    if kind < 0.55:
        return " ".join(src.words(1, 10))
    if kind < 0.7:
        return " ".join(src.words(1, 8)).capitalize() + "."
    return src.odd_text()


def echo(src):
    text = _echo_text(src)
    form = src.rng.choice(["Repeat: %s", "Echo: %s", "Say: %s",
                           "Repeat after me: %s", "Repeat this text: %s",
                           "Repeat exactly: %s", "Say \"%s\"",
                           "Echo this: %s", "Please repeat: %s"])
    return Turn("echo", form % text, text, "I must repeat the text.")


def reverse(src):
    if src.rng.random() < 0.2:
        words = src.words(2, 7)
        form = src.rng.choice(["Reverse the order of these words: %s",
                               "Write these words in reverse order: %s"])
        return Turn("reverse", form % " ".join(words),
                    " ".join(words[::-1]), "I must turn the order round.")
    word = src.word()
    form = src.rng.choice(["Reverse the word %s.", "Spell %s backwards.",
                           "Reverse: %s", "Reverse this word: %s",
                           "What is %s spelled backwards?",
                           "Write %s backwards."])
    think = "Letters: %s. Backwards: %s." % (" ".join(word),
                                             " ".join(word[::-1]))
    return Turn("reverse", form % word, word[::-1], think)


def upper(src):
    text = " ".join(src.words(1, 4))
    if src.rng.random() < 0.15:
        form = src.rng.choice(["Write %s in lower case.",
                               "Convert to lower case: %s"])
        return Turn("upper", form % text.upper(), text,
                    "I must write it in lower case.")
    form = src.rng.choice(["Write %s in upper case.", "Upper-case: %s",
                           "Convert to upper case: %s",
                           "Write in capital letters: %s",
                           "Make this upper case: %s"])
    return Turn("upper", form % text, text.upper(),
                "I must write it in upper case.")


def count(src):
    if src.rng.random() < 0.4:
        word = src.word()
        form = src.rng.choice(["How many letters are in the word %s?",
                               "Count the letters in %s.",
                               "How many letters has %s?"])
        think = ", ".join("%d %s" % (i + 1, c) for i, c in enumerate(word))
        return Turn("count", form % word, str(len(word)), think + ".")
    words = src.words(1, 12)
    form = src.rng.choice(["How many words are here: %s",
                           "Count the words: %s",
                           "How many words are in this text: %s"])
    think = ", ".join("%d %s" % (i + 1, w) for i, w in enumerate(words))
    return Turn("count", form % " ".join(words), str(len(words)),
                think + ".")


def sort(src):
    n = src.rng.randint(2, 6)
    if src.rng.random() < 0.2:
        items = sorted(src.distinct(n, lambda: src.rng.randint(1, 99)))
        shown = [str(i) for i in items]
        what = "numbers"
    else:
        shown = sorted(src.distinct(n))
        what = "words"
    mixed = shown[:]
    src.rng.shuffle(mixed)
    form = src.rng.choice(["Sort these %s: %s", "Sort the %s: %s",
                           "Put these %s in order: %s"])
    if what == "words" and src.rng.random() < 0.3:
        form = "Sort these %s alphabetically: %s"
    return Turn("sort", form % (what, ", ".join(mixed)), ", ".join(shown),
                "I must sort the %s." % what)


@dataclass
class Fact:
    """Something made up: as it is said, asked for, answered, and what is
    answered by who was not told.  whose, what: its parts."""
    whose: str
    what: str
    said: str
    question: str
    answer: str
    unknown: str


CALLED = ["cat", "dog", "horse", "ship", "boat", "house", "village"]
WORDS_OF = ["password", "secret word", "favourite word", "job", "hobby",
            "favourite animal"]
NUMBERS_OF = ["phone number", "code", "age", "room number", "lucky number"]
CITIES_OF = ["city", "home town", "favourite city"]
OF_THINGS = ["colour", "price", "code", "number", "owner", "key"]
MINE = ["name", "cat", "dog", "city", "job", "hobby", "age", "phone number"]

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange", "white",
           "black", "brown", "pink"]


def _value_of(src, what):
    r = src.rng
    if what in CALLED or what in ("name", "owner"):
        return (src.name() if what in ("name", "owner")
                else src.syllables(1, 3).capitalize())
    if what in CITIES_OF:
        return src.city()
    if what == "colour":
        return r.choice(COLOURS)
    if what in NUMBERS_OF or what in OF_THINGS:
        return src.digits(2 if what == "age" else r.randint(2, 6))
    return src.word()


def _fact(src, whose=None, what=None):
    """One made-up fact about a person, a thing or the user; about the same
    one, or of the same sort, when asked for."""
    r = src.rng
    if what is None:
        kinds = ([MINE] if whose == "my" else [OF_THINGS] if whose
                 and whose.islower() else [CALLED, WORDS_OF, NUMBERS_OF,
                                           CITIES_OF])
        if whose is None:
            kinds += [OF_THINGS] + ([MINE] if r.random() < 0.5 else [])
        what = r.choice(r.choice(kinds))
        if whose is None and what in MINE and r.random() < 0.25:
            whose = "my"
    if whose is None:
        thing = what in OF_THINGS and (what not in NUMBERS_OF
                                       or r.random() < 0.5)
        whose = (src.word() if thing else "my" if what == "name"
                 else src.name())
    verb = "is called" if what in CALLED else "is"
    value = _value_of(src, what)
    if whose.islower() and whose != "my":
        subject = "the %s of the %s" % (what, whose)
        told = subject
    else:
        subject = ("my " if whose == "my" else whose + "'s ") + what
        told = "your " + what if whose == "my" else subject
    question = "What is %s%s?" % (subject, " called" if what in CALLED
                                  else "")
    upper = told[0].upper() + told[1:]
    return Fact(whose, what,
                "%s%s %s %s." % (subject[0].upper(), subject[1:], verb,
                                 value), question,
                "%s %s %s." % (upper, verb, value),
                upper + " is not known to me.")


def _missing(src, known):
    """A fact that is not among `known`; often nearly one of them."""
    near = src.rng.choice(known)
    kind = src.rng.random()
    while True:
        if kind < 0.35:
            fact = _fact(src, whose=near.whose)
        elif kind < 0.7:
            fact = _fact(src, what=near.what)
        else:
            fact = _fact(src)
        if all(fact.question != k.question for k in known):
            return fact
        kind = 1


def _known(src, count):
    """Facts with different questions; some share a person or a sort."""
    known = []
    while len(known) < count:
        kind = src.rng.random() if known else 1
        near = src.rng.choice(known) if known else None
        fact = (_fact(src, whose=near.whose) if kind < 0.2 else
                _fact(src, what=near.what) if kind < 0.4 else _fact(src))
        if all(fact.question != k.question for k in known):
            known.append(fact)
    return known


def facts(src, asked=1, missing=0.3):
    """A list of Turns that ask about facts stated before, or, with the
    chance `missing`, about one that was not."""
    r = src.rng
    known = _known(src, r.randint(max(1, asked), 6))
    turns = []
    for fact in r.sample(known, asked):
        absent = r.random() < missing
        if absent:
            fact = _missing(src, known)
        turns.append(_asks(fact, absent))
    turns[0].facts = [k.said for k in known]
    return turns


def _asks(fact, absent):
    return Turn("unknown-fact" if absent else "facts", fact.question,
                fact.unknown if absent else fact.answer,
                "I look for it in the chat.")


def unheard(src):
    """A question about a fact in a chat that states none."""
    return _asks(_fact(src), True)


def remember(src):
    """The user states a fact, and the model takes note of it."""
    fact = _fact(src)
    form = src.rng.choice(["Remember: %s", "Please remember this: %s",
                           "Remember that: %s", "%s"])
    first = Turn("facts", form % fact.said, "I will remember that.",
                 "I should note it.")
    asked = _missing(src, [fact]) if src.rng.random() < 0.2 else fact
    return [first, _asks(asked, asked is not fact)]


def structured(src):
    """Data put into JSON, as asked."""
    r = src.rng
    fields = []
    if r.random() < 0.5:
        who, age, city = src.name(), r.randint(2, 98), src.city()
        text = "%s is %d years old and lives in %s." % (who, age, city)
        fields = [("name", who), ("age", age), ("city", city)]
        form = r.choice(["Give this as JSON: %s", "Write as JSON: %s",
                         "Extract the data as JSON: %s"])
        user = form % text
    else:
        keys = src.distinct(r.randint(1, 4), src.identifier)
        for key in keys:
            value = r.choice([src.word(), src.name(), r.randint(0, 999),
                              r.random() < 0.5])
            fields.append((key, value))
        text = ", ".join("%s is %s" % (k, json.dumps(v)) for k, v in fields)
        user = r.choice(["Give this as JSON: %s", "Write as JSON: %s"]) % text
    return Turn("structured", user, json.dumps(dict(fields)),
                "I must write JSON.")


def counting(src):
    r = src.rng
    kind = r.random()
    if kind < 0.5:
        low = r.randint(0, 90) if r.random() < 0.5 else 1
        high = low + r.randint(2, 30 if r.random() < 0.8 else 60)
        return Turn("counting", "Count from %d to %d." % (low, high),
                    " ".join(str(i) for i in range(low, high + 1)),
                    "I must count from %d to %d." % (low, high))
    if kind < 0.7:
        high = r.randint(3, 30)
        return Turn("counting", "Count down from %d to 1." % high,
                    " ".join(str(i) for i in range(high, 0, -1)),
                    "I must count down from %d." % high)
    word, n = src.word(), r.randint(2, 12)
    return Turn("counting", "Say %s %d times." % (word, n),
                " ".join([word] * n), "I must say it %d times." % n)


CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Cuba": "Havana",
    "Denmark": "Copenhagen", "Egypt": "Cairo", "England": "London",
    "Estonia": "Tallinn", "Finland": "Helsinki", "France": "Paris",
    "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest",
    "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo",
    "Kenya": "Nairobi", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Spain": "Madrid",
    "Sweden": "Stockholm", "Thailand": "Bangkok", "Vietnam": "Hanoi",
}

_HELLO = "Hello! How can I help you?"
_SELF = ("I am the Sirocco demo model, a very small language model. I can "
         "repeat, reverse and sort words, count, add numbers, call tools and "
         "look at simple images.")
TALK = {
    _HELLO: ["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there",
             "Good morning", "Good evening!", "Hello, how are you?", "hello",
             "hi", "Bonjour", "Hey there!"],
    _SELF: ["Who are you?", "What are you?", "What can you do?", "Help",
            "Introduce yourself.", "What is your name?", "Tell me about "
            "yourself.", "Which model are you?"],
    "I am well, thank you.": ["How are you?", "How do you do?",
                              "Are you well?"],
    "You are welcome.": ["Thank you", "Thanks!", "Thank you!", "Thanks",
                         "Thank you very much."],
    "Goodbye!": ["Goodbye", "Bye", "Bye!", "See you later."],
    "OK.": ["OK", "Ok", "Good.", "Fine.", "Great!", "Well done!"],
    "Pong.": ["Ping", "ping", "Ping!"],
    "This is a test.": ["Test", "test", "This is a test."],
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.":
        ["Name the days of the week.", "List the days of the week."],
    "January, February, March, April, May, June, July, August, September, "
    "October, November, December.": ["Name the months.", "List the months."],
    "a b c d e f g h i j k l m n o p q r s t u v w x y z":
        ["Write the alphabet.", "Say the alphabet."],
    "Once upon a time there was a small model. It lived in a small file. "
    "Every day it answered questions, and every night it slept on a disk. "
    "It was happy.": ["Tell me a story.", "Write a story.",
                      "Tell me a short story."],
    "Why did the token cross the road? It was next in line.":
        ["Tell me a joke.", "Say something funny."],
}

_UNKNOWN = ["What is the meaning of %s?", "Who invented the %s?",
            "Why is the %s so old?", "Explain %s.", "Who is %s?",
            "When was the %s built?", "Write a poem about a %s.",
            "How do I cook a %s?", "What do you think about %s?",
            "Where can I buy a %s?", "How tall is the %s?",
            "Where does the %s come from?"]


def talk(src):
    kind = src.rng.random()
    if kind < 0.3:
        country = src.rng.choice(sorted(CAPITALS))
        return Turn("talk", "What is the capital of %s?" % country,
                    "The capital of %s is %s." % (country,
                                                  CAPITALS[country]),
                    "I know this capital.")
    if kind < 0.55:
        return Turn("talk", src.rng.choice(_UNKNOWN) % src.word(),
                    UNKNOWN, "I do not know this.")
    answer = src.rng.choice(sorted(TALK))
    return Turn("talk", src.rng.choice(TALK[answer]), answer,
                "A short answer will do.")


SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are helpful.",
                  "Be brief.", "Answer the user.", "Be terse.",
                  "You are the Sirocco demo model.",
                  "You are a careful assistant. Answer briefly."]


def system_prompt(src):
    """Says nothing that an answer depends on."""
    if src.rng.random() < 0.8:
        return src.rng.choice(SYSTEM_PROMPTS)
    return src.rng.choice(["You are a %s.", "You are a friendly %s.",
                           "You work for the %s. Be helpful."]) % src.word()


TASKS = [(echo, 9), (reverse, 20), (upper, 15), (count, 18), (sort, 25),
         (structured, 7), (counting, 4), (talk, 6)]

assert len(set(ENGLISH)) == len(ENGLISH)
