"""The tools that are asked for in plain words, each in many guises.

A kind of tool is one purpose (the weather, a timer, ..).  Whoever writes a
tool gives it another name, other parameters and another description, so a
kind draws its definition anew each time: the name from a list, one of several
sets of parameters, each parameter under one of several names, optional ones
there or not, descriptions there or not.  What is asked follows the definition
that was drawn: a unit is only asked for where there is one.
"""

import json
from dataclasses import dataclass


def definition(name, description, properties, required=None):
    parameters = {"type": "object", "properties": properties}
    if required is None:
        required = list(properties)
    if required:
        parameters["required"] = required
    return {"type": "function",
            "function": {"name": name, "description": description,
                         "parameters": parameters}}


def _t(kind, **more):
    return dict({"type": kind}, **more)


@dataclass
class Param:
    """A parameter: the value it takes (slot), its names and its schema.

    chance: how often a definition has it; one that is not always there is
    not required.  said: descriptions."""
    slot: str
    names: list
    schema: dict
    said: tuple = ()
    chance: float = 1.0


@dataclass
class Kind:
    """A purpose.  forms: lists of Param, one of which is drawn.
    make(source, slots) returns (user, {slot: value}, result, answer).
    pair: how to ask for two at once, and the slot that differs."""
    purpose: str
    names: list
    descriptions: list
    forms: list
    make: object
    pair: tuple = ()


@dataclass
class Tool:
    """A definition drawn from a kind, and how it calls the slots."""
    kind: Kind
    definition: dict
    slots: dict


STRING, INTEGER, NUMBER = _t("string"), _t("integer"), _t("number")
SKIES = ["sunny", "cloudy", "rainy", "windy", "foggy"]


def _weather(s, have):
    city = s.city()
    values = {"city": city}
    temp, sky = s.rng.randint(-9, 39), s.rng.choice(SKIES)
    user = s.rng.choice(["What is the weather in %s?", "How is the weather "
                         "in %s?", "Tell me the weather in %s.",
                         "What's the weather like in %s?",
                         "What is the weather like in %s?",
                         "What is the weather in %s today?",
                         "Weather in %s?"]) % city
    if "unit" in have and s.rng.random() < 0.5:
        values["unit"] = s.rng.choice(["celsius", "fahrenheit"])
        user += " Use %s." % values["unit"]
    if s.rng.random() < 0.3:
        return (user, values, {"temperature": temp},
                "It is %d degrees in %s." % (temp, city))
    return (user, values, {"temperature": temp, "sky": sky},
            "It is %d degrees and %s in %s." % (temp, sky, city))


def _clock(s):
    return "%02d:%02d" % (s.rng.randint(0, 23), s.rng.randint(0, 59))


def _time(s, have):
    clock = _clock(s)
    if not have:
        return (s.rng.choice(["What time is it?", "What is the time?",
                              "Tell me the time.", "What time is it now?"]),
                {}, {"time": clock}, "It is %s." % clock)
    if "zone" in have:
        zone = s.rng.choice(["UTC", "CET", "EST", "PST", "JST", "GMT"])
        return (s.rng.choice(["What time is it in %s?",
                              "What is the time in %s?"]) % zone,
                {"zone": zone}, {"time": clock},
                "It is %s in %s." % (clock, zone))
    city = s.city()
    return (s.rng.choice(["What time is it in %s?", "Tell me the time in %s.",
                          "What is the time in %s?",
                          "What time is it in %s now?"]) % city,
            {"city": city}, {"time": clock}, "It is %s in %s." % (clock, city))


def _calculator(s, have):
    a, b = s.integer(0, 9999), s.integer(0, 9999)
    name, total = s.rng.choice([("add", a + b), ("subtract", a - b),
                                ("multiply", a * b)])
    if "expression" in have:
        text = "%d %s %d" % (a, {"add": "+", "subtract": "-",
                                 "multiply": "*"}[name], b)
        user = s.rng.choice(["Use the calculator for %s.",
                             "Calculate %s with the calculator.",
                             "Use the calculator to compute %s."]) % text
        return (user, {"expression": text}, {"result": total},
                "The result is %d." % total)
    user = {"add": "Use the calculator to add %d and %d.",
            "subtract": "Use the calculator to subtract %d and %d.",
            "multiply": "Use the calculator to multiply %d and %d."}[name]
    return (user % (a, b), {"operation": name, "a": a, "b": b},
            {"result": total}, "The result is %d." % total)


def _message(s, have):
    who, text = s.name(), " ".join(s.words(1, 6))
    return (s.rng.choice(["Send a message to %s: %s", "Message %s: %s",
                          "Send %s this message: %s"]) % (who, text),
            {"to": who, "text": text}, {"sent": True},
            "The message to %s was sent." % who)


def _email(s, have):
    who = s.name() if s.rng.random() < 0.5 else s.word() + "@example.org"
    values = {"to": who, "text": " ".join(s.words(1, 6))}
    user = s.rng.choice(["Send an email to %s", "Write an email to %s",
                         "Email %s"]) % who
    if "subject" in have:
        values["subject"] = " ".join(s.words(1, 3))
        user += " with the subject %s" % values["subject"]
    return (user + ": " + values["text"], values, {"sent": True},
            "The email to %s was sent." % who)


def _timer(s, have):
    n = s.rng.randint(1, 90)
    unit = "minutes" if "minutes" in have else "seconds"
    return (s.rng.choice(["Set a timer for %d %s.",
                          "Start a timer of %d %s."]) % (n, unit),
            {unit: n}, {"ok": True}, "The timer runs for %d %s." % (n, unit))


def _alarm(s, have):
    clock = _clock(s)
    return (s.rng.choice(["Set an alarm for %s.", "Wake me up at %s.",
                          "Set the alarm to %s."]) % clock,
            {"time": clock}, {"ok": True}, "The alarm is set for %s." % clock)


def _currency(s, have):
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


def _table(s, have):
    who, n = s.name(), s.rng.randint(1, 12)
    day = s.rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday",
                        "Friday", "Saturday", "Sunday"])
    hour = s.rng.randint(11, 22)
    ref = s.letters(4, 4).upper()
    values = {"name": who, "people": n}
    when = {"day": day, "hour": hour}
    values.update({"when": when} if "when" in have else when)
    return ("Book a table for %d people on %s at %d for %s."
            % (n, day, hour, who), values, {"reference": ref},
            "The table is booked, the reference is %s." % ref)


def _contact(s, have):
    who, phone, city = s.name(), s.digits(6), s.city()
    if "person" not in have:
        return (s.rng.choice(["Add the contact %s with the phone number %s.",
                              "Save the phone number of %s: %s"])
                % (who, phone), {"name": who, "phone": phone},
                {"saved": True}, "%s was added." % who)
    return ("Add the contact %s with the phone number %s in %s."
            % (who, phone, city),
            {"person": {"name": who, "phone": phone,
                        "address": {"city": city}}},
            {"saved": True}, "%s was added." % who)


def _event(s, have):
    title = " ".join(s.words(1, 2))
    guests = s.distinct(s.rng.randint(1, 4), s.name)
    return ("Create the event %s with %s." % (title, ", ".join(guests)),
            {"title": title, "guests": guests}, {"id": s.rng.randint(1, 999)},
            "The event %s was created." % title)


def _light(s, have):
    room, on = s.word(), s.rng.random() < 0.5
    values = {"room": room, "on": on}
    word = "on" if on else "off"
    user = "Switch %s the light in the %s" % (word, room)
    if "brightness" in have and s.rng.random() < 0.7:
        values["brightness"] = s.rng.randint(0, 100)
        user += " with brightness %d" % values["brightness"]
    return (user + ".", values, {"ok": True},
            "The light in the %s is %s." % (room, word))


def _find_files(s, have):
    query = " ".join(s.words(1, 3))
    values = {"query": query}
    found = s.word() + s.rng.choice([".txt", ".c", ".md", ".pdf"])
    if "limit" in have and s.rng.random() < 0.7:
        values["limit"] = s.rng.randint(1, 20)
        user = s.rng.choice(["Search the files for %s and show %d results.",
                             "Find files about %s, at most %d."]) % (
                                 query, values["limit"])
    else:
        user = s.rng.choice(["Search the files for %s.",
                             "Find files about %s."]) % query
    return user, values, {"files": [found]}, "I found %s." % found


def _search(s, have):
    query = " ".join(s.words(1, 3))
    values = {"query": query}
    found = " ".join(s.words(1, 4))
    user = s.rng.choice(["Search the web for %s", "Search for %s",
                         "Look up %s on the web"]) % query
    if "limit" in have and s.rng.random() < 0.5:
        values["limit"] = s.rng.randint(1, 20)
        user += " and show %d results" % values["limit"]
    return (user + ".", values, {"results": [found]}, "I found %s." % found)


def _user(s, have):
    n, who, mail = s.integer(1, 9999), s.name(), s.word()
    return (s.rng.choice(["Who is the user with the id %d?",
                          "Get the user %d.", "Look up user %d."]) % n,
            {"id": n}, {"name": who, "mail": mail + "@example.org"},
            "User %d is %s." % (n, who))


def _path(s):
    return "/" + "/".join(s.words(1, 3))


def _read(s, have):
    path, text = _path(s), " ".join(s.words(1, 6))
    return (s.rng.choice(["Read the file %s.", "Show me the file %s.",
                          "What is in the file %s?"]) % path,
            {"path": path}, text, "The file says: %s" % text)


def _delete(s, have):
    path = _path(s)
    return (s.rng.choice(["Delete the file %s.", "Remove the file %s."])
            % path, {"path": path}, {"deleted": True},
            "The file %s was deleted." % path)


def _list(s, have):
    found = [w + ".txt" for w in s.words(1, 3)]
    return (s.rng.choice(["List the files.", "Show me all files.",
                          "Which files are there?"]), {},
            {"files": found}, "There are these files: %s." % ", ".join(found))


def _translate(s, have):
    text = " ".join(s.words(1, 5))
    to = s.rng.choice(["French", "German", "Spanish", "Italian", "Greek",
                       "Danish", "Polish"])
    other = " ".join(s.words(1, 4))
    return ("Translate into %s: %s" % (to, text),
            {"text": text, "language": to}, {"translation": other},
            "In %s it is: %s" % (to, other))


def _stock(s, have):
    symbol = s.letters(2, 4).upper()
    price = s.rng.randint(100, 99999) / 100
    return (s.rng.choice(["What is the stock price of %s?",
                          "Get the price of the stock %s.",
                          "How is the stock %s?"]) % symbol,
            {"symbol": symbol}, {"price": price},
            "The price of %s is %s." % (symbol, json.dumps(price)))


def _play(s, have):
    song = " ".join(s.words(1, 4))
    return (s.rng.choice(["Play the song %s.", "Play %s."]) % song,
            {"song": song}, {"playing": True}, "Now playing: %s" % song)


def _todo(s, have):
    task = " ".join(s.words(1, 4))
    return (s.rng.choice(["Add the task %s.", "Put %s on my list.",
                          "Create the task %s."]) % task,
            {"task": task}, {"id": s.rng.randint(1, 999)},
            "The task %s was added." % task)


def _news(s, have):
    topic, head = " ".join(s.words(1, 2)), " ".join(s.words(2, 5))
    return (s.rng.choice(["What is the news about %s?",
                          "Get the news about %s.",
                          "Show me the news on %s."]) % topic,
            {"topic": topic}, {"news": [head]}, "The news is: %s" % head)


def _dice(s, have):
    n = s.rng.randint(2, 100)
    got = s.rng.randint(1, n)
    return ("Roll a die with %d sides." % n, {"sides": n}, {"result": got},
            "The die shows %d." % got)


_CITY = Param("city", ["city", "city", "location", "location", "place",
                       "town", "city_name"], STRING,
              ("Name of the city", "The city", "City name",
               "The city to look up", "City, e.g. Paris"))
_UNIT = Param("unit", ["unit", "unit", "units", "scale"],
              _t("string", enum=["celsius", "fahrenheit"]),
              ("Unit of the temperature",), chance=0.45)
_LIMIT = Param("limit", ["limit", "count", "max_results"], INTEGER,
               ("How many", "At most so many"), chance=0.5)
_FILE = Param("path", ["path", "file", "filename", "file_path"], STRING,
              ("Path of the file", "The file"))
_TO = ["to", "recipient", "person", "receiver"]
_TEXT = ["text", "message", "body", "content"]

KINDS = [
    Kind("weather", ["get_weather", "get_weather", "get_current_weather",
                     "weather", "current_weather", "fetch_weather"],
         ["Get the weather in a city", "Get the current weather",
          "Get the current weather for a city.", "Weather in a place",
          "Returns the weather of a location"], [[_CITY, _UNIT]], _weather,
         ("What is the weather in %s and %s?", "city")),
    Kind("time", ["get_time", "get_time", "get_current_time", "time",
                  "current_time", "get_local_time"],
         ["Get the local time in a city", "Get the current time",
          "Tells the time", "Returns the time"],
         [[_CITY], [_CITY], [], [Param("zone", ["timezone", "tz", "zone"],
                                       STRING, ("Time zone",))]], _time,
         ("What time is it in %s and %s?", "city")),
    Kind("calculator", ["calculator", "calculate", "calc"],
         ["Calculate with two numbers", "A calculator",
          "Get the value of an arithmetic expression."],
         [[Param("operation", ["operation", "op", "operator"],
                 _t("string", enum=["add", "subtract", "multiply"])),
           Param("a", ["a", "x", "left"], NUMBER),
           Param("b", ["b", "y", "right"], NUMBER)],
          [Param("expression", ["expression", "input", "formula"], STRING,
                 ("Math expression.", "What to calculate"))]], _calculator),
    Kind("message", ["send_message", "send_text", "message"],
         ["Send a message to a person", "Send a message", "Sends a text"],
         [[Param("to", _TO, STRING, ("Who gets it",)),
           Param("text", _TEXT, STRING, ("The text", "What to say"))]],
         _message),
    Kind("email", ["send_email", "send_email", "send_mail", "email"],
         ["Send an email", "Sends an email to a person", "Write an email"],
         [[Param("to", _TO + ["address"], STRING, ("Who gets it",)),
           Param("subject", ["subject", "title"], STRING, ("The subject",)),
           Param("text", _TEXT, STRING, ("The text",))],
          [Param("to", _TO + ["address"], STRING, ("Who gets it",)),
           Param("text", _TEXT, STRING, ("The text",))]], _email),
    Kind("timer", ["set_timer", "start_timer", "timer"],
         ["Set a timer", "Starts a timer"],
         [[Param("minutes", ["minutes", "duration", "time"], INTEGER,
                 ("How many minutes", "In minutes"))],
          [Param("seconds", ["seconds", "duration"], INTEGER,
                 ("How many seconds", "In seconds"))]], _timer),
    Kind("alarm", ["set_alarm", "alarm", "create_alarm"],
         ["Set an alarm", "Sets the alarm clock"],
         [[Param("time", ["time", "at", "clock"], STRING,
                 ("When to ring", "The time"))]], _alarm),
    Kind("currency", ["convert_currency", "convert", "exchange_rate"],
         ["Convert an amount of money", "Convert money"],
         [[Param("amount", ["amount", "value"], NUMBER, ("How much",)),
           Param("from", ["from", "from_currency", "source"], STRING),
           Param("to", ["to", "to_currency", "target"], STRING)]],
         _currency),
    Kind("table", ["book_table", "reserve_table", "make_reservation"],
         ["Book a table in the restaurant", "Book a table"],
         [[Param("name", ["name", "guest"], STRING),
           Param("people", ["people", "guests", "party_size"], INTEGER),
           Param("when", ["when", "time"], _t("object", properties={
               "day": STRING, "hour": INTEGER}))],
          [Param("name", ["name", "guest"], STRING),
           Param("people", ["people", "guests", "party_size"], INTEGER),
           Param("day", ["day", "date"], STRING),
           Param("hour", ["hour", "time"], INTEGER)]], _table),
    Kind("contact", ["add_contact", "save_contact", "create_contact"],
         ["Add a contact to the address book", "Save a contact"],
         [[Param("person", ["person", "contact"], _t("object", properties={
             "name": STRING, "phone": STRING,
             "address": _t("object", properties={"city": STRING})}))],
          [Param("name", ["name", "person"], STRING),
           Param("phone", ["phone", "phone_number", "number"], STRING)]],
         _contact),
    Kind("event", ["create_event", "add_event", "new_event"],
         ["Create an event in the calendar", "Adds an event"],
         [[Param("title", ["title", "name", "event"], STRING),
           Param("guests", ["guests", "people", "attendees"],
                 _t("array", items=STRING))]], _event),
    Kind("light", ["set_light", "switch_light", "control_light"],
         ["Switch a light", "Turns a light on or off"],
         [[Param("room", ["room", "place", "location"], STRING,
                 ("Which room",)),
           Param("on", ["on", "state", "enabled"], _t("boolean")),
           Param("brightness", ["brightness", "level"], INTEGER,
                 ("0 to 100",), chance=0.6)]], _light),
    Kind("files", ["search_files", "find_files"],
         ["Search the files", "Find files"],
         [[Param("query", ["query", "text", "pattern"], STRING,
                 ("What to look for",)), _LIMIT]], _find_files),
    Kind("search", ["search", "web_search", "search_web", "google"],
         ["Search the web", "Search", "Searches the internet"],
         [[Param("query", ["query", "query", "q", "text", "keywords"],
                 STRING, ("What to look for", "Search query")), _LIMIT]],
         _search),
    Kind("user", ["get_user", "find_user", "lookup_user"],
         ["Get a user by id", "Look up a user"],
         [[Param("id", ["id", "user_id", "user"], INTEGER, ("The id",))]],
         _user),
    Kind("read", ["read_file", "open_file", "get_file"],
         ["Read a file", "Returns what a file holds"], [[_FILE]], _read),
    Kind("delete", ["delete_file", "remove_file"],
         ["Delete a file", "Removes a file"], [[_FILE]], _delete),
    Kind("list", ["list_files", "ls", "get_files"],
         ["List the files", "Names of all files"], [[]], _list),
    Kind("translate", ["translate", "translate_text"],
         ["Translate a text", "Translates text into another language"],
         [[Param("text", ["text", "input", "sentence"], STRING),
           Param("language", ["language", "to", "target", "lang"], STRING,
                 ("Into which language",))]], _translate),
    Kind("stock", ["get_stock_price", "stock_price", "get_stock"],
         ["Get the price of a stock", "Stock price by symbol"],
         [[Param("symbol", ["symbol", "ticker", "stock"], STRING,
                 ("The symbol",))]], _stock),
    Kind("play", ["play_music", "play_song", "play"],
         ["Play a song", "Plays music"],
         [[Param("song", ["song", "title", "name"], STRING,
                 ("Name of the song",))]], _play),
    Kind("todo", ["add_task", "add_todo", "create_task"],
         ["Add a task to the list", "Create a task"],
         [[Param("task", ["task", "title", "text", "item"], STRING,
                 ("What to do",))]], _todo),
    Kind("news", ["get_news", "news", "search_news"],
         ["Get the news about a topic", "Latest news"],
         [[Param("topic", ["topic", "query", "about"], STRING,
                 ("The topic",))]], _news),
    Kind("dice", ["roll_dice", "roll_die", "roll"],
         ["Roll a die", "Rolls a die"],
         [[Param("sides", ["sides", "n", "faces"], INTEGER,
                 ("Number of sides",))]], _dice),
]

# Purposes whose wishes read alike: never two of one group in one list.
GROUPS = {"files": "search", "news": "search", "email": "message",
          "alarm": "timer"}
_PURPOSE = {name: GROUPS.get(k.purpose, k.purpose)
            for k in KINDS for name in k.names}


def purpose(tool):
    """Tools of one purpose never stand in one list: a wish would fit both."""
    name = tool["function"]["name"]
    return _PURPOSE.get(name, name)


def draw(src, kind=None):
    """A tool of a kind (any if not given) in one of its guises."""
    r = src.rng
    kind = kind or r.choice(KINDS)
    described = r.random() < 0.3
    properties, required, slots = {}, [], {}
    for p in r.choice(kind.forms):
        if r.random() >= p.chance:
            continue
        name = r.choice([n for n in p.names if n not in properties])
        schema = dict(p.schema)
        if described and p.said:
            schema["description"] = r.choice(p.said)
        properties[name] = schema
        slots[p.slot] = name
        if p.chance == 1:
            required.append(name)
    out = definition(r.choice(kind.names), r.choice(kind.descriptions)
                     if r.random() < 0.75 else "", properties, required)
    dress(src, out)
    return Tool(kind, out, slots)


def dress(src, tool):
    """Sometimes writes the schema as other programs write it."""
    r = src.rng
    schema = tool["function"]["parameters"]
    style = r.random()
    if style < 0.12:
        schema["additionalProperties"] = False
    elif style < 0.2:
        schema.pop("required", None)
    elif style < 0.26:          # as pydantic does
        titled = {k: dict({"title": k.replace("_", " ").title()}, **v)
                  for k, v in schema["properties"].items()}
        required = schema.get("required")
        schema.clear()
        schema["properties"] = titled
        if required:
            schema["required"] = required
        schema["title"] = tool["function"]["name"]
        schema["type"] = "object"
    elif style < 0.3 and not schema["properties"]:
        schema.clear()


def ask(src, tool):
    """(user, args, result, answer) of a wish that `tool` fulfils."""
    user, values, result, answer = tool.kind.make(src, tool.slots)
    args = {name: values[slot] for slot, name in tool.slots.items()
            if slot in values}
    return user, args, result, answer
