"""Tool calls: a fixed catalogue asked for in plain words, and made-up tools.

Each request knows the tool, the arguments, what the tool replies and what the
model says about the reply.  The made-up tools have random names, parameters
and types, so that the model reads the definitions instead of knowing them.
"""

import json
from dataclasses import dataclass, field


@dataclass
class Request:
    """A wish that one tool call fulfils."""
    tool: dict
    user: str
    args: dict
    result: str
    answer: str
    think: str


@dataclass
class Exchange:
    """One user message, the calls it leads to and the final answer."""
    task: str
    user: str
    think: str
    calls: list = field(default_factory=list)     # (name, args)
    results: list = field(default_factory=list)   # text, one per call
    answer: str = ""


def definition(name, description, properties, required=None):
    parameters = {"type": "object", "properties": properties}
    if required is None:
        required = list(properties)
    if required:
        parameters["required"] = required
    return {"type": "function",
            "function": {"name": name, "description": description,
                         "parameters": parameters}}


def _t(kind, description=None, **more):
    out = {"type": kind}
    if description:
        out["description"] = description
    out.update(more)
    return out


def _weather(s, key="city"):
    city = s.city()
    unit = s.rng.choice([None, None, "celsius", "fahrenheit"])
    temp = s.rng.randint(-9, 39)
    sky = s.rng.choice(["sunny", "cloudy", "rainy", "windy", "foggy"])
    user = s.rng.choice(["What is the weather in %s?", "How is the weather "
                         "in %s?", "Tell me the weather in %s.",
                         "What's the weather like in %s?",
                         "Weather in %s?"]) % city
    args = {key: city}
    if unit:
        user += " Use %s." % unit
        args["unit"] = unit
    return (user, args, {"temperature": temp, "sky": sky},
            "It is %d degrees and %s in %s." % (temp, sky, city))


def _time(s):
    city = s.city()
    clock = "%02d:%02d" % (s.rng.randint(0, 23), s.rng.randint(0, 59))
    return (s.rng.choice(["What time is it in %s?", "Tell me the time in %s.",
                          "What is the time in %s?"]) % city,
            {"city": city}, {"time": clock}, "It is %s in %s." % (clock, city))


def _calculator(s):
    a, b = s.integer(0, 9999), s.integer(0, 9999)
    name, total = s.rng.choice([("add", a + b), ("subtract", a - b),
                                ("multiply", a * b)])
    user = {"add": "Use the calculator to add %d and %d.",
            "subtract": "Use the calculator to subtract %d and %d.",
            "multiply": "Use the calculator to multiply %d and %d."}[name]
    return (user % (a, b), {"operation": name, "a": a, "b": b},
            {"result": total}, "The result is %d." % total)


def _message(s):
    who, text = s.name(), " ".join(s.words(1, 6))
    return (s.rng.choice(["Send a message to %s: %s", "Message %s: %s",
                          "Send %s this message: %s"]) % (who, text),
            {"to": who, "text": text}, {"sent": True},
            "The message to %s was sent." % who)


def _timer(s):
    n = s.rng.randint(1, 90)
    return (s.rng.choice(["Set a timer for %d minutes.",
                          "Start a timer of %d minutes."]) % n,
            {"minutes": n}, {"ok": True}, "The timer runs for %d minutes." % n)


def _currency(s):
    codes = ["EUR", "USD", "GBP", "JPY", "CHF", "SEK", "NOK", "CAD"]
    a, b = s.rng.sample(codes, 2)
    amount = s.rng.choice([s.rng.randint(1, 999),
                           s.rng.randint(1, 999) + 0.5,
                           s.rng.randint(100, 9999) / 100])
    got = s.rng.randint(100, 99999) / 100
    return (s.rng.choice(["Convert %s %s to %s.", "How much is %s %s in %s?"])
            % (json.dumps(amount), a, b),
            {"amount": amount, "from": a, "to": b}, {"amount": got},
            "That is %s %s." % (json.dumps(got), b))


def _table(s):
    who, n = s.name(), s.rng.randint(1, 12)
    day = s.rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday",
                        "Friday", "Saturday", "Sunday"])
    hour = s.rng.randint(11, 22)
    ref = s.letters(4, 4).upper()
    return ("Book a table for %d people on %s at %d for %s."
            % (n, day, hour, who),
            {"name": who, "people": n, "when": {"day": day, "hour": hour}},
            {"reference": ref},
            "The table is booked, the reference is %s." % ref)


def _contact(s):
    who, phone, city = s.name(), s.digits(6), s.city()
    return ("Add the contact %s with the phone number %s in %s."
            % (who, phone, city),
            {"person": {"name": who, "phone": phone,
                        "address": {"city": city}}},
            {"saved": True}, "%s was added." % who)


def _event(s):
    title = " ".join(s.words(1, 2))
    guests = s.distinct(s.rng.randint(1, 4), s.name)
    return ("Create the event %s with %s." % (title, ", ".join(guests)),
            {"title": title, "guests": guests}, {"id": s.rng.randint(1, 999)},
            "The event %s was created." % title)


def _light(s):
    room = s.word()
    on, level = s.rng.random() < 0.5, s.rng.randint(0, 100)
    return ("Switch %s the light in the %s with brightness %d."
            % ("on" if on else "off", room, level),
            {"room": room, "on": on, "brightness": level}, {"ok": True},
            "The light in the %s is %s." % (room, "on" if on else "off"))


def _search(s):
    query, n = " ".join(s.words(1, 3)), s.rng.randint(1, 20)
    found = s.word() + s.rng.choice([".txt", ".c", ".md", ".pdf"])
    return (s.rng.choice(["Search the files for %s and show %d results.",
                          "Find files about %s, at most %d."]) % (query, n),
            {"query": query, "limit": n}, {"files": [found]},
            "I found %s." % found)


def _user(s):
    n, who, mail = s.integer(1, 9999), s.name(), s.word()
    return (s.rng.choice(["Who is the user with the id %d?",
                          "Get the user %d.", "Look up user %d."]) % n,
            {"id": n}, {"name": who, "mail": mail + "@example.org"},
            "User %d is %s." % (n, who))


def _files(s):
    path = "/" + "/".join(s.words(1, 3))
    text = " ".join(s.words(1, 6))
    return (s.rng.choice(["Read the file %s.", "Show me the file %s.",
                          "What is in the file %s?"]) % path,
            {"path": path}, text, "The file says: %s" % text)


def _location_weather(s):
    return _weather(s, "location")


CATALOGUE = [
    (definition("get_weather", "Get the weather in a city", {
        "city": _t("string", "Name of the city"),
        "unit": _t("string", enum=["celsius", "fahrenheit"])},
        ["city"]), _weather),
    (definition("get_weather", "Get the current weather", {
        "location": _t("string"),
        "unit": _t("string", enum=["celsius", "fahrenheit"])},
        ["location"]), _location_weather),
    (definition("get_current_weather", "Get the weather in a place", {
        "location": _t("string", "The city"),
        "unit": _t("string", enum=["celsius", "fahrenheit"])},
        ["location"]), _location_weather),
    (definition("get_time", "Get the local time in a city", {
        "city": _t("string")}), _time),
    (definition("calculator", "Calculate with two numbers", {
        "operation": _t("string", enum=["add", "subtract", "multiply"]),
        "a": _t("number"), "b": _t("number")}), _calculator),
    (definition("send_message", "Send a message to a person", {
        "to": _t("string", "Who gets it"), "text": _t("string")}), _message),
    (definition("set_timer", "Set a timer", {
        "minutes": _t("integer")}), _timer),
    (definition("convert_currency", "Convert an amount of money", {
        "amount": _t("number"), "from": _t("string"),
        "to": _t("string")}), _currency),
    (definition("book_table", "Book a table in the restaurant", {
        "name": _t("string"), "people": _t("integer"),
        "when": _t("object", properties={
            "day": _t("string"), "hour": _t("integer")})}), _table),
    (definition("add_contact", "Add a contact to the address book", {
        "person": _t("object", properties={
            "name": _t("string"), "phone": _t("string"),
            "address": _t("object", properties={
                "city": _t("string")})})}), _contact),
    (definition("create_event", "Create an event in the calendar", {
        "title": _t("string"),
        "guests": _t("array", items=_t("string"))}), _event),
    (definition("set_light", "Switch a light", {
        "room": _t("string"), "on": _t("boolean"),
        "brightness": _t("integer", "0 to 100")}), _light),
    (definition("search_files", "Search the files", {
        "query": _t("string"), "limit": _t("integer")}), _search),
    (definition("get_user", "Get a user by id", {
        "id": _t("integer")}), _user),
    (definition("read_file", "Read a file", {
        "path": _t("string", "Path of the file")}), _files),
]


def known_request(src, tool_index=None):
    """A request to a tool of the catalogue, in plain words."""
    if tool_index is None:
        tool_index = src.rng.randrange(len(CATALOGUE))
    tool, make = CATALOGUE[tool_index]
    user, args, result, answer = make(src)
    if not isinstance(result, str):
        spaced = src.rng.random() < 0.5
        result = json.dumps(result, separators=None if spaced else (",", ":"))
    return Request(tool, user, args, result, answer,
                   "I need the tool %s." % tool["function"]["name"])


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
        schema = _t(kind, src.word() if src.rng.random() < 0.2 else None)
        if kind == "array":
            schema["items"] = _t("string")
        out.append((name, schema, _value(src, kind)))
    return out


def _list(pairs):
    said = ["%s %s" % pair for pair in pairs]
    if len(said) == 1:
        return said[0]
    return ", ".join(said[:-1]) + " and " + said[-1]


BY_NAME = ("Call", "Use", "Call the tool", "Use the tool", "Please call")


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
        properties[box] = _t("object", properties={
            k: schema for k, schema, _ in inner})
        args[box] = {k: v for k, _, v in inner}
        pairs.append((box, "with " + _list([(k, _said(v))
                                            for k, _, v in inner])))
    user = r.choice(BY_NAME) + " " + name
    user += (" with " + _list(pairs) if pairs else "") + "."
    description = r.choice(["", "Tool %s" % name, src.word().capitalize()
                            + " the " + src.word(), "Does %s" % src.word()])
    required = [k for k in properties if k not in optional]
    tool = definition(name, description, properties, required)
    if r.random() < 0.3:
        tool["function"]["parameters"]["additionalProperties"] = False
    result = r.choice([src.word, lambda: str(r.randint(0, 9999)),
                       lambda: " ".join(src.words(2, 4))])()
    return Request(tool, user, args, result, "The result is %s." % result,
                   "I need the tool %s." % name)


NO_TOOL = "I have no tool for that."


def purpose(tool):
    """Tools of one purpose never stand in one list: a wish would fit both."""
    name = tool["function"]["name"]
    return "weather" if name.endswith("weather") else name


def tool_list(src, needed, forbidden, size):
    """`needed` among other tools, `size` in all, in random order; none of
    `forbidden` (at least one tool in all)."""
    tools = list(needed)
    size = max(size, len(tools), 1)
    taken = {purpose(t) for t in tools + forbidden}
    while len(tools) < size:
        other = (src.rng.choice(CATALOGUE)[0] if src.rng.random() < 0.7
                 else made_up_request(src).tool)
        if purpose(other) not in taken:
            taken.add(purpose(other))
            tools.append(other)
    src.rng.shuffle(tools)
    return tools


def _single(src):
    return (known_request(src) if src.rng.random() < 0.55
            else made_up_request(src))


def exchange(src, kind=None):
    """(tools needed, tools forbidden, Exchange).

    kind: "one" (one call), "two" (two calls in one message), "none" (no tool
    fits); drawn when not given.
    """
    kind = kind or src.rng.choices(["one", "two", "none"], [6, 3, 3])[0]
    if kind == "none":
        wish = _single(src)
        return [], [wish.tool], Exchange("tools", wish.user,
                                         "No tool fits.", answer=NO_TOOL)
    if kind == "one":
        wishes = [_single(src)]
    else:
        first = _single(src)
        second = _single(src)
        if src.rng.random() < 0.4 and first.tool in [c[0] for c in CATALOGUE]:
            index = [c[0] for c in CATALOGUE].index(first.tool)
            second = known_request(src, index)
        elif purpose(second.tool) == purpose(first.tool):
            return exchange(src, kind)
        wishes = [first, second]
    needed = []
    for wish in wishes:
        if wish.tool not in needed:
            needed.append(wish.tool)
    users = [w.user for w in wishes]
    ends = users[0][-1] in ".?!"
    out = Exchange("tools", (" " if ends else "\n").join(users),
                   " ".join(w.think for w in wishes),
                   [(w.tool["function"]["name"], w.args) for w in wishes],
                   [w.result for w in wishes],
                   " ".join(w.answer for w in wishes))
    return needed, [], out
