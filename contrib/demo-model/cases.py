"""Held-out cases: what is asked, and when a reply counts as right.

A case is a generator: it yields chats (dicts as in chatfmt.py, up to the
user's or tool's last message), receives the reply to each as a dict with
`reasoning`, `content` and `calls` [(name, arguments text)], and returns True
or False.  So one description serves the server and the PyTorch module.
"""

import json

import generate
import tasks_image
import tasks_long
import tasks_math
import tasks_text
import tasks_tools
from lexicon import make_source

# task: (cases in a full run, cases in a quick one, least share right)
BARS = {"echo": (60, 4, 90), "reverse": (60, 4, 90), "upper": (60, 4, 90),
        "count": (60, 4, 90), "sort": (60, 4, 90), "facts": (60, 4, 90),
        "structured": (40, 2, 95), "arithmetic": (80, 4, 95),
        "no-thinking": (40, 2, 100), "tools": (80, 6, 95),
        "images": (80, 4, 95), "needle": (20, 0, 90)}

# Following simple instructions: these tasks have a bar for all together.
TOGETHER = ["echo", "reverse", "upper", "count", "sort", "facts"]
TOGETHER_BAR = 95

NEEDLE_TOKENS = 16000
NEEDLES = 10              # questions asked of one long text


def _chat(src, effort="none"):
    chat = generate.new_chat(src, effort)
    return chat


def _history(src, chat):
    """Sometimes an earlier question with its answer."""
    if src.rng.random() < 0.3:
        turn = tasks_text.echo(src)
        generate._add(chat, turn, True)


def _ask(chat, text):
    chat["messages"].append({"role": "user", "content": text})
    return chat


def _exact(src, make):
    turn = make(src)
    chat = _chat(src)
    _history(src, chat)
    reply = yield _ask(chat, turn.user)
    return (reply["content"] == turn.answer and not reply["calls"]
            and not reply["reasoning"])


def _facts(src):
    """A question about a fact of the chat, or about one not given."""
    chat = _chat(src)
    turn = tasks_text.facts(src, 1)[0]
    generate.add_facts(src, chat, [turn],
                       src.rng.choice(["system", "user"]))
    _history(src, chat)
    reply = yield _ask(chat, turn.user)
    return reply["content"] == turn.answer


def _structured(src):
    turn = tasks_text.structured(src)
    reply = yield _ask(_chat(src), turn.user)
    try:
        return json.loads(reply["content"]) == json.loads(turn.answer)
    except ValueError:
        return False


def _arithmetic(src):
    turn = tasks_math.arithmetic(src)
    reply = yield _ask(_chat(src, "high"), turn.user)
    return bool(reply["reasoning"]) and reply["content"] == turn.answer


def _no_thinking(src):
    turn = tasks_math.arithmetic(src)
    reply = yield _ask(_chat(src, "none"), turn.user)
    return (not reply["reasoning"]
            and reply["content"].lstrip("-").isdigit())


def _same_calls(reply, calls):
    if [name for name, _ in reply["calls"]] != [name for name, _ in calls]:
        return False
    for (_, text), (_, args) in zip(reply["calls"], calls):
        try:
            got = json.loads(text)
        except ValueError:
            return False
        if json.dumps(got, sort_keys=True) != json.dumps(args,
                                                         sort_keys=True):
            return False
    return True


def _tools(src):
    """A wish that one or two of the tools fulfil, or that none does: in plain
    words or by a tool's name."""
    chat = _chat(src, src.rng.choice(["none", "none", "high"]))
    kind = src.rng.choices(["one", "two", "none"], [6, 3, 2])[0]
    needed, forbidden, step = tasks_tools.exchange(src, kind)
    chat["tools"] = tasks_tools.tool_list(src, needed, forbidden,
                                          src.rng.randint(1, 4))
    reply = yield _ask(chat, step.user)
    if bool(reply["reasoning"]) != (chat["effort"] == "high"):
        return False
    if not step.calls:
        return reply["content"] == step.answer and not reply["calls"]
    if not _same_calls(reply, step.calls):
        return False
    chat["messages"].append(
        {"role": "assistant", "content": "", "calls": step.calls,
         "think": reply["reasoning"]})
    for result in step.results:
        chat["messages"].append({"role": "tool", "content": result})
    reply = yield chat
    return reply["content"] == step.answer and not reply["calls"]


def _images(src):
    chat = _chat(src)
    scenes, turns = tasks_image.look(src, whole=src.rng.random() < 0.5)
    chat["scenes"] = scenes
    content = generate.image_content(src, scenes, turns[0].user)
    reply = yield _ask(chat, content)
    return reply["content"] == turns[0].answer


def _needle(chat, question, answer):
    asked = dict(chat, messages=list(chat["messages"]))
    reply = yield _ask(asked, question)
    return reply["content"] == answer


def needle_cases(src, count, count_tokens):
    """Questions in groups that share one long system text, so that a server
    with a prefix cache reads each text once."""
    pool = tasks_long.FillerPool(src.rng, count_tokens)
    while count > 0:
        hay = tasks_long.haystack(src, pool, NEEDLE_TOKENS, NEEDLES)
        chat = _chat(src)
        chat["system"] = " ".join(hay.sentences)
        for question, answer in hay.asks[:count]:
            yield _needle(chat, question, answer)
        count -= NEEDLES


SIMPLE = {"echo": tasks_text.echo, "reverse": tasks_text.reverse,
          "upper": tasks_text.upper, "count": tasks_text.count,
          "sort": tasks_text.sort}
OTHER = {"facts": _facts,
         "structured": _structured,
         "arithmetic": _arithmetic, "no-thinking": _no_thinking,
         "tools": _tools, "images": _images}


def cases(task, seed, count, count_tokens):
    """`count` fresh cases of a task; the same seed gives the same cases."""
    src = make_source("%s/%s" % (seed, task), held_out=True)
    if task == "needle":
        return list(needle_cases(src, count, count_tokens))
    if task in SIMPLE:
        return [_exact(src, SIMPLE[task]) for _ in range(count)]
    return [OTHER[task](src) for _ in range(count)]


def run_one(case, answer):
    """Runs one case with answer(chat) -> reply."""
    try:
        chat = next(case)
        while True:
            chat = case.send(answer(chat))
    except StopIteration as end:
        return bool(end.value)
