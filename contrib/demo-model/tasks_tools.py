"""Tool calls: tools of the catalogue (tool_catalogue.py) wished for in plain
words, and made-up tools called by name.

Each request knows the tool, the arguments, what the tool replies and what the
model says about the reply.  The made-up tools have random names, parameters
and types, so that the model reads the definitions instead of knowing them.
"""

import json
from dataclasses import dataclass, field

from tool_catalogue import ask, definition, draw, purpose


@dataclass
class Request:
    """A wish that one tool call fulfils."""
    tool: dict
    user: str
    args: dict
    result: str
    answer: str
    think: str
    named: bool = False     # does the user call the tool by its name?


@dataclass
class Exchange:
    """One user message, the calls it leads to and the final answer."""
    task: str
    user: str
    think: str
    calls: list = field(default_factory=list)     # (name, args)
    results: list = field(default_factory=list)   # text, one per call
    answer: str = ""


def _as_text(src, result):
    if isinstance(result, str):
        return result
    spaced = src.rng.random() < 0.5
    return json.dumps(result, separators=None if spaced else (",", ":"))


def known_request(src, tool=None):
    """A request to a tool of the catalogue, in plain words or, now and then,
    by its name."""
    r = src.rng
    tool = tool or draw(src)
    user, args, result, answer = ask(src, tool)
    name = tool.definition["function"]["name"]
    named = r.random() < 0.08
    if named:
        user = _by_name(src, name, [(k, _spelled(v)) for k, v in
                                    args.items()])
    style = r.random() * (0.12 if named else 1)
    if style < 0.12 and not isinstance(result, str):    # passed on as it is
        result = _free_result(src)
        answer = "The result is %s." % result
    elif style < 0.16:
        problem = " ".join(src.words(1, 4))
        result, answer = {"error": problem}, "The tool failed: %s" % problem
    return Request(tool.definition, user, args, _as_text(src, result), answer,
                   "I need the tool %s." % name, named)


def _free_result(src):
    r = src.rng
    return r.choice([src.word, lambda: str(r.randint(0, 9999)),
                     lambda: " ".join(src.words(2, 4))])()


def _value(src, kind):
    if kind == "string":
        return (" ".join(src.words(1, 2)) if src.rng.random() < 0.7
                else src.rng.choice([src.name, src.city])())
    if kind == "integer":
        return src.integer(0, 10 ** src.rng.randint(1, 5))
    if kind == "number":
        return src.rng.randint(0, 9999) / src.rng.choice([10, 100, 2])
    if kind == "boolean":
        return src.rng.random() < 0.5
    return src.distinct(src.rng.randint(1, 3))


def _said(value):
    """How a prompt spells a value: as JSON, strings in quotes."""
    return json.dumps(value, ensure_ascii=False)


def _parameters(src, low, high):
    names = src.distinct(src.rng.randint(low, high), src.identifier)
    kinds = ["string", "string", "integer", "number", "boolean", "array"]
    out = []
    for name in names:
        kind = src.rng.choice(kinds)
        schema = {"type": kind}
        if src.rng.random() < 0.2:
            schema["description"] = src.word()
        if kind == "array":
            schema["items"] = {"type": "string"}
        out.append((name, schema, _value(src, kind)))
    return out


def _spelled(value):
    """_said, with the members of an object one by one."""
    if not isinstance(value, dict):
        return _said(value)
    return "with " + _list([(k, _spelled(v)) for k, v in value.items()])


def _list(pairs):
    said = ["%s %s" % pair for pair in pairs]
    if len(said) == 1:
        return said[0]
    return ", ".join(said[:-1]) + " and " + said[-1]


# How a call by name begins.
BY_NAME = ("Call", "Use", "Call the tool", "Use the tool", "Please call")


def _by_name(src, name, pairs):
    return (src.rng.choice(BY_NAME) + " " + name
            + (" with " + _list(pairs) if pairs else "") + ".")


def made_up_request(src):
    """A call of a tool with random name and parameters, spelled out."""
    r = src.rng
    name = src.identifier()
    params = _parameters(src, 0, 4)
    properties, args, pairs = {}, {}, []
    optional = set()
    for key, schema, value in params:
        properties[key] = schema
        if r.random() < 0.15:
            optional.add(key)
            continue
        args[key] = value
        pairs.append((key, _said(value)))
    if r.random() < 0.25:
        box = src.identifier()
        while box in properties:
            box = src.identifier()
        inner = _parameters(src, 1, 3)
        properties[box] = {"type": "object", "properties": {
            k: schema for k, schema, _ in inner}}
        args[box] = {k: v for k, _, v in inner}
        pairs.append((box, _spelled(args[box])))
    description = r.choice(["", "Tool %s" % name, src.word().capitalize()
                            + " the " + src.word(), "Does %s" % src.word()])
    required = [k for k in properties if k not in optional]
    tool = definition(name, description, properties, required)
    if r.random() < 0.3:
        tool["function"]["parameters"]["additionalProperties"] = False
    result = _free_result(src)
    return Request(tool, _by_name(src, name, pairs), args, result,
                   "The result is %s." % result, "I need the tool %s." % name,
                   named=True)


NO_TOOL = "I have no tool for that."


def tool_list(src, needed, forbidden, size):
    """`needed` among other tools, `size` in all, in random order; none of
    `forbidden` (at least one tool in all)."""
    tools = list(needed)
    size = max(size, len(tools), 1)
    taken = {purpose(t) for t in tools + forbidden}
    while len(tools) < size:
        other = (draw(src).definition if src.rng.random() < 0.7
                 else made_up_request(src).tool)
        if purpose(other) not in taken:
            taken.add(purpose(other))
            tools.append(other)
    src.rng.shuffle(tools)
    return tools


def _single(src):
    return (known_request(src) if src.rng.random() < 0.6
            else made_up_request(src))


def _twice(src):
    """One tool of the catalogue wanted twice, sometimes in one sentence."""
    tool = draw(src)
    wishes = [known_request(src, tool), known_request(src, tool)]
    if (tool.kind.pair and src.rng.random() < 0.5
            and tool.kind.pair[1] in tool.slots):
        form, slot = tool.kind.pair
        name = tool.slots[slot]
        for wish in wishes:
            wish.args = {name: wish.args[name]}
        return wishes, form % tuple(w.args[name] for w in wishes)
    return wishes, None


def exchange(src, kind=None, named=None):
    """(tools needed, tools forbidden, Exchange).

    kind: "one" (one call), "two" (two calls in one message), "none" (no tool
    fits); drawn when not given.  named: chance that a wish without a fitting
    tool names the missing one.
    """
    kind = kind or src.rng.choices(["one", "two", "none"], [6, 3, 3])[0]
    if kind == "none":
        wish = (_single(src) if named is None else made_up_request(src)
                if src.rng.random() < named else known_request(src))
        think = "No tool fits."
        if wish.named:
            think = wish.think + " It is not in the list."
        return [], [wish.tool], Exchange("tools", wish.user, think,
                                         answer=NO_TOOL)
    user = None
    if kind == "one":
        wishes = [_single(src)]
    elif src.rng.random() < 0.3:
        wishes, user = _twice(src)
    else:
        wishes = [_single(src), _single(src)]
        if purpose(wishes[0].tool) == purpose(wishes[1].tool):
            return exchange(src, kind)
    needed = []
    for wish in wishes:
        if wish.tool not in needed:
            needed.append(wish.tool)
    users = [w.user for w in wishes]
    ends = users[0][-1] in ".?!"
    out = Exchange("tools", user or (" " if ends else "\n").join(users),
                   " ".join(w.think for w in wishes),
                   [(w.tool["function"]["name"], w.args) for w in wishes],
                   [w.result for w in wishes],
                   " ".join(w.answer for w in wishes))
    return needed, [], out
