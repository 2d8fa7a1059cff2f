"""Mixes the tasks into chats.

    python3 generate.py --seed 1 --count 5            prints chats
    python3 generate.py --seed 1 --count 5 --held-out  from the held-out half

The same seed gives the same chats everywhere.  Chats are dicts as described
in chatfmt.py; `case` functions (for the evaluation) are in cases.py.
"""

import argparse
import json

import tasks_image
import tasks_long
import tasks_math
import tasks_text
import tasks_tools
from lexicon import make_source


def _plain_turns(src, count):
    """`count` plain turns of mixed tasks (facts come with their setting)."""
    tasks = [t for t, _ in tasks_text.TASKS] + [tasks_math.arithmetic]
    weights = [w for _, w in tasks_text.TASKS] + [24]
    return [src.rng.choices(tasks, weights)[0](src) for _ in range(count)]


def _assistant(chat, turn, keep):
    """The model's message for a turn; `keep` says if history shows thoughts
    (clients may drop them; then the message is context only)."""
    message = {"role": "assistant", "content": turn.answer, "think": None}
    if chat["effort"] == "high":
        if keep:
            message["think"] = turn.think
        else:
            message["train"] = False
    return message


def _add(chat, turn, keep, content=None):
    chat["messages"].append({"role": "user", "content": content or turn.user})
    chat["messages"].append(_assistant(chat, turn, keep))


def new_chat(src, effort=None):
    r = src.rng
    return {"system": (tasks_text.system_prompt(src) if r.random() < 0.4
                       else None),
            "tools": [],
            "effort": effort or ("high" if r.random() < 0.4 else "none"),
            "messages": [], "scenes": []}


def add_facts(src, chat, turns, style):
    """Puts the facts that `turns` ask about into the chat."""
    known = " ".join(turns[0].facts)
    if style == "system":
        head = chat["system"] + " " if chat["system"] else ""
        chat["system"] = head + known
    elif style == "user":
        chat["messages"] += [
            {"role": "user", "content": known},
            _assistant(chat, tasks_text.Turn("facts", "", "I will remember "
                                             "that.", "I should note it."),
                       True)]
    else:
        turns[0].user = known + " " + turns[0].user


def no_tools_turn(src):
    """A wish for a tool in a chat without tools."""
    _, _, step = tasks_tools.exchange(src, "none", named=0.3)
    return tasks_text.Turn("tools", step.user, step.answer, "I have no tools.")


def plain_chat(src):
    r = src.rng
    chat = new_chat(src)
    turns = _plain_turns(src, r.choices([1, 2, 3, 4, 6], [4, 3, 3, 3, 2])[0])
    if r.random() < 0.35:
        asked = tasks_text.facts(src, r.randint(1, 3))
        style = r.choice(["system", "system", "user", "inline"])
        if style == "inline":
            asked = asked[:1]
        add_facts(src, chat, asked, style)
        if style == "inline":
            turns = turns[:1] + asked
        else:
            turns += asked
            r.shuffle(turns)
    elif r.random() < 0.15:
        first, second = tasks_text.remember(src)
        turns = [first] + turns[:3] + [second]
    else:
        lone = r.random()
        if lone < 0.05:
            turns.insert(r.randrange(len(turns) + 1), tasks_text.unheard(src))
        elif lone < 0.1:
            turns.insert(r.randrange(len(turns) + 1), no_tools_turn(src))
    if r.random() < 0.1 and all(t.task != "tools" for t in turns):
        chat["tools"] = tasks_tools.tool_list(src, [], [], r.randint(1, 3))
    keep = r.random() < 0.6
    for i, turn in enumerate(turns):
        _add(chat, turn, keep or i == len(turns) - 1)
    return chat


def add_exchange(chat, step, keep):
    high = chat["effort"] == "high"
    put = chat["messages"].append
    put({"role": "user", "content": step.user})
    if not step.calls:
        turn = tasks_text.Turn("tools", step.user, step.answer, step.think)
        put(_assistant(chat, turn, keep))
        return
    put({"role": "assistant", "content": "", "calls": step.calls,
         "think": step.think if high and keep else None,
         "train": keep or not high})
    for result in step.results:
        put({"role": "tool", "content": result})
    put(_assistant(chat, tasks_text.Turn("tools", "", step.answer,
                                         "The tool has replied."), keep))


def tool_chat(src):
    r = src.rng
    chat = new_chat(src)
    steps, needed, forbidden = [], [], []
    for _ in range(r.choices([1, 2, 3], [4, 3, 1])[0]):
        need, avoid, step = tasks_tools.exchange(src)
        have = {tasks_tools.purpose(t) for t in needed}
        banned = {tasks_tools.purpose(t) for t in forbidden}
        if ({tasks_tools.purpose(t) for t in avoid} & have
                or {tasks_tools.purpose(t) for t in need} & (banned | have)):
            continue
        needed += need
        forbidden += avoid
        steps.append(step)
    chat["tools"] = tasks_tools.tool_list(src, needed, forbidden,
                                          r.randint(1, 5))
    keep = r.random() < 0.6
    if r.random() < 0.3:
        steps.insert(r.randrange(len(steps) + 1), None)
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if step is None:
            _add(chat, _plain_turns(src, 1)[0], keep or last)
        else:
            add_exchange(chat, step, keep or last)
    return chat


def fitting_chat(src):
    """One wish and few tools, of which one fits half of the time: practice
    in telling a tool that is there from one that is not."""
    chat = new_chat(src)
    kind = src.rng.choice(["none", "none", "none", "one", "one", "two"])
    needed, forbidden, step = tasks_tools.exchange(src, kind, named=0.65)
    chat["tools"] = tasks_tools.tool_list(src, needed, forbidden,
                                          src.rng.randint(1, 4))
    add_exchange(chat, step, True)
    return chat


def image_content(src, scenes, question):
    """User content: images and text in one of the usual orders."""
    images = [("image", i) for i in range(len(scenes))]
    if src.rng.random() < 0.5:
        return images + [("text", question)]
    return [("text", question)] + images


def image_chat(src, whole=True):
    r = src.rng
    chat = new_chat(src)
    scenes, turns = tasks_image.look(src, whole)
    chat["scenes"] = scenes
    keep = r.random() < 0.6
    if r.random() < 0.1:
        _add(chat, _plain_turns(src, 1)[0], keep)
    for i, turn in enumerate(turns):
        content = image_content(src, scenes, turn.user) if i == 0 else None
        _add(chat, turn, keep or i == len(turns) - 1, content)
    return chat


def long_chat(src, pool, tokens, asked):
    """One long text with keys, then questions for some of them."""
    r = src.rng
    chat = new_chat(src)
    hay = tasks_long.haystack(src, pool, tokens, r.randint(asked, asked + 4),
                              missing=0.05)
    text = " ".join(hay.sentences)
    asks = hay.asks[:asked]
    style = r.random()
    if style < 0.3:
        chat["system"] = text
        head = ""
    elif style < 0.8:
        head = text + " "
    else:
        head = text + "\n"
    for i, (question, answer) in enumerate(asks):
        turn = tasks_text.Turn("needle", (head if i == 0 else "") + question,
                               answer, "I look for it in the text.")
        _add(chat, turn, True)
    return chat


GROUPS = ["plain", "tools", "images", "long"]


def short_chat(src, fitting=0.1):
    """One chat of the mix used for training.

    fitting: share of chats that only ask whether a tool fits."""
    if src.rng.random() < fitting:
        return fitting_chat(src)
    kind = src.rng.random()
    if kind < 0.6:
        return plain_chat(src)
    if kind < 0.83:
        return tool_chat(src)
    return image_chat(src)


def group(chat):
    """Index into GROUPS of a chat made by short_chat."""
    return 2 if chat["scenes"] else 1 if chat["tools"] else 0


def main():
    parser = argparse.ArgumentParser(description="print synthetic chats")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    src = make_source(options.seed, options.held_out)
    for _ in range(options.count):
        print(json.dumps(short_chat(src), ensure_ascii=False,
                         default=lambda s: s.__dict__))


if __name__ == "__main__":
    main()
