"""Schemas to sample from, written and generated, and instances of them."""

import json
import os
import pathlib
import random

import jsonschema

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])


def load():
    """The committed schemas: what people write for tools and answers."""
    return json.loads((TOP / "tests/data/schemas.json").read_text())


# --- generated schemas -------------------------------------------------------

NAMES = ["id", "name", "x", "y", "tags", "a b", "é", "size", "kind", "n/a",
         "q\"t", "long_property_name", "0", "_", "Name"]
PATTERNS = ["^[a-z]+$", "^[A-Z]{2,4}-\\d+$", "[aeiou]", "^x|y$",
            "^(foo|bar)*$", "^.{3}$", "^[!-~]+$", "^[^0-9]*$", "^a.*z$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email",
           "hostname", "uri", "duration", "json-pointer"]


def string(rng, depth):
    s = {"type": "string"}
    kind = rng.randrange(6)
    if kind == 0:
        s["pattern"] = rng.choice(PATTERNS)
    elif kind == 1:
        s["format"] = rng.choice(FORMATS)
    if kind in (2, 3):
        s["minLength"] = rng.randrange(0, 5)
        s["maxLength"] = s["minLength"] + rng.randrange(0, 30)
    return s


def numeric(rng, depth):
    s = {"type": rng.choice(["integer", "number"])}
    low = rng.choice([-1000, -7, -0.5, 0, 0.25, 3, 99])
    if rng.random() < 0.5:
        s[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.5:
        s[rng.choice(["maximum", "exclusiveMaximum"])] = \
            low + rng.choice([10, 100, 12345.5])
    if rng.random() < 0.2:
        s["multipleOf"] = rng.choice([2, 5, 7, 10] if s["type"] == "integer"
                                     else [0.5, 0.25, 2, 4])
    return s


def choice(rng, depth):
    pool = ["a", "ab", "b c", "\u00e9\n", "", 1, 2.5, -3, True, None, [1, "x"],
            {"k": 0}, "red", "green"]
    return {"enum": rng.sample(pool, rng.randrange(1, 6))}


def array(rng, depth):
    s = {"type": "array", "items": schema(rng, depth - 1)}
    if rng.random() < 0.2:
        s["items"] = {"enum": rng.sample(["a", "b", "c", 1, 2, None], 4)}
        s["uniqueItems"] = True
        s["maxItems"] = rng.randrange(1, 4)
    elif rng.random() < 0.2:
        s["prefixItems"] = [schema(rng, depth - 1) for _ in range(2)]
        s["items"] = rng.choice([False, {"type": "integer"}])
    elif rng.random() < 0.6:
        s["minItems"] = rng.randrange(0, 3)
        s["maxItems"] = s["minItems"] + rng.randrange(0, 4)
    return s


def obj(rng, depth):
    names = rng.sample(NAMES, rng.randrange(0, 6))
    s = {"type": "object",
         "properties": {n: schema(rng, depth - 1) for n in names}}
    s["required"] = [n for n in names if rng.random() < 0.5]
    extra = rng.randrange(5)
    if extra < 3:
        s["additionalProperties"] = False
    elif extra == 3:
        s["additionalProperties"] = schema(rng, 0)
    if rng.random() < 0.15:
        s["patternProperties"] = {"^x": schema(rng, 0)}
    if rng.random() < 0.15:
        s["minProperties"] = len(s["required"])
        s["maxProperties"] = len(names) + 1
    if len(names) > 1 and rng.random() < 0.1:
        s["dependentRequired"] = {names[0]: [names[1]]}
    return s


def combined(rng, depth):
    kind = rng.choice(["anyOf", "anyOf", "oneOf", "allOf", "not", "if"])
    if kind == "allOf":
        return {"allOf": [numeric(rng, 0) | {"type": "number"},
                          {"type": "number", "minimum": -50}]}
    if kind == "oneOf":
        return {"oneOf": [{"type": "string", "maxLength": 4},
                          {"type": "integer"}, obj(rng, depth - 1)]}
    if kind == "not":
        return {"type": ["string", "integer", "null"],
                "not": {"enum": ["a", 0, None, "abc"]}}
    if kind == "if":
        return {"type": "object", "properties": {
            "kind": {"enum": ["p", "q"]}, "v": {"type": "integer"}},
            "required": ["kind"], "additionalProperties": False,
            "if": {"properties": {"kind": {"const": "p"}}},
            "then": {"required": ["v"]}}
    return {"anyOf": [schema(rng, depth - 1)
                      for _ in range(rng.randrange(1, 4))]}


def schema(rng, depth):
    simple = [string, string, numeric, choice,
              lambda r, d: {"type": r.choice(["boolean", "null"])},
              lambda r, d: {"type": ["integer", "null"]}]
    deep = [array, obj, obj, combined]
    make = rng.choice(simple if depth <= 0 else simple + deep * 2)
    return make(rng, depth)


def is_satisfiable(s):
    """Whether an instance can be made in a few tries."""
    return bool(instances(s, random.Random(0), tries=30))


def generate(n, seed):
    rng = random.Random(seed)
    out = []
    while len(out) < n:
        s = rng.choice([obj, obj, array, schema])(rng, 3)
        if is_satisfiable(s):
            out.append(s)
    return out


# --- instances ---------------------------------------------------------------

class Skip(Exception):
    """No simple way to an instance of this schema."""


SAMPLES = {
    "date": "2024-02-29", "time": "10:00:00Z",
    "date-time": "2024-05-01T10:00:00+02:00", "ipv4": "10.0.0.255",
    "uuid": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "ipv6": "fe80::1:2",
    "email": "a.b@example.org", "hostname": "a-b.example",
    "uri": "https://example.org/a?b#c", "duration": "P1DT2H",
    "json-pointer": "/a/b~1c"}
STRINGS = ["", "a", "abc", "foobar", "AB-12", "xyz", "\u65e5\u672c\u8a9e",
           "q\"uote\\", "line\nend", "\u0007", "a z", "azz", "y", "12345678",
           "\U0001f389" * 3, "hello world", "aaz"]


def instance(s, root, rng):
    if s is True or s == {}:
        return rng.choice([None, 1, "a", [1], {"z": 2}])
    if s is False:
        raise Skip
    if "$ref" in s:
        target = root
        if not s["$ref"].startswith("#"):
            raise Skip
        for part in s["$ref"][1:].split("/")[1:]:
            target = target[part.replace("~1", "/").replace("~0", "~")]
        return instance(target, root, rng)
    if "const" in s:
        return s["const"]
    if "enum" in s:
        return rng.choice(s["enum"])
    for key in ("anyOf", "oneOf"):
        if key in s and "properties" not in s:
            return instance(rng.choice(s[key]), root, rng)
    kind = s.get("type")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind is None and "properties" in s:
        kind = "object"
    if kind is None and "allOf" in s:
        return instance(rng.choice(s["allOf"]), root, rng)
    return MAKE.get(kind, make_skip)(s, root, rng)


def make_skip(s, root, rng):
    raise Skip


def make_string(s, root, rng):
    if "format" in s:
        if s["format"] not in SAMPLES:
            raise Skip
        return SAMPLES[s["format"]]
    n = rng.randrange(s.get("minLength", 0),
                      min(s.get("maxLength", 12), 40) + 1)
    return rng.choice(STRINGS + ["".join(rng.choices("aéx\"\n🎉", k=n))] * 6)


def make_integer(s, root, rng):
    step = s.get("multipleOf", 1)
    low = s.get("minimum", s.get("exclusiveMinimum", -20))
    return int((low + rng.randrange(0, 30)) // step * step)


def make_number(s, root, rng):
    step = s.get("multipleOf", 0.125)
    low = s.get("minimum", s.get("exclusiveMinimum", -20))
    return (low + rng.randrange(0, 80) / 8) // step * step


def make_array(s, root, rng):
    low = s.get("minItems", 0)
    high = min(s.get("maxItems", low + 3), low + 4)
    prefix = s.get("prefixItems", [])
    rest = s.get("items", {})
    if isinstance(rest, list):
        prefix, rest = rest, s.get("additionalItems", {})
    if rest is False:
        high = min(high, len(prefix))
    return [instance(prefix[i] if i < len(prefix) else rest, root, rng)
            for i in range(rng.randint(low, max(low, high)))]


def make_object(s, root, rng):
    required = s.get("required", [])
    out = {}
    for name, sub in s.get("properties", {}).items():
        if name in required or rng.random() < 0.5:
            out[name] = instance(sub, root, rng)
    for name in required:
        if name not in out:
            out[name] = instance(s.get("additionalProperties", {}), root,
                                 rng)
    if s.get("additionalProperties", True) is not False \
            and rng.random() < 0.3 and "propertyNames" not in s:
        out["zz extra"] = instance(s.get("additionalProperties", {}), root,
                                   rng)
    return out


MAKE = {"string": make_string, "integer": make_integer,
        "number": make_number, "array": make_array, "object": make_object,
        "boolean": lambda s, root, rng: rng.random() < 0.5,
        "null": lambda s, root, rng: None}


def instances(s, rng, tries=20):
    """Some valid instances, as the reference validator sees it."""
    kind = jsonschema.validators.validator_for(
        s, default=jsonschema.Draft202012Validator)
    validator = kind(s)
    out = []
    for _ in range(tries):
        try:
            value = instance(s, s, rng)
        except (Skip, KeyError, ValueError, TypeError, RecursionError):
            continue
        if validator.is_valid(value):
            out.append(value)
        if len(out) == 6:
            break
    return out


def spell(value, style):
    """JSON as we allow it: numbers as the generator writes them."""
    if style == "compact":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if style == "spaced":
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, indent=2)
