"""Outputs sampled under grammars, checked by independent validators."""

import json
import os
import pathlib
import random
import re
import subprocess

import pytest

jsonschema = pytest.importorskip("jsonschema")
import schema_corpus

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
PROBE = pathlib.Path(os.environ["SIROCCO_BUILDDIR"]) / \
    "tests/golden/grammar_probe"
DEMO = TOP / "contrib/demo-model/model/tekken.json"
CASES = json.loads((TOP / "tests/data/grammar_cases.json").read_text())


def real_vocabulary():
    common = pytest.importorskip("mistral_common")
    return pathlib.Path(common.__file__).parent / "data/tekken_240911.json"


def probe(jobs, file=DEMO, timeout=600):
    text = "".join(json.dumps(j) + "\n" for j in jobs)
    done = subprocess.run([PROBE, file], input=text, capture_output=True,
                          text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    out = [json.loads(x) for x in done.stdout.split("\n")[:-1]]
    assert len(out) == len(jobs)
    for job, result in zip(jobs, out):
        assert "failed" not in result, (job, result, done.stderr)
    return out


def schema_job(schema, **more):
    return dict(kind="schema", text=json.dumps(schema), **more)


@pytest.mark.parametrize("case", CASES, ids=lambda c: str(c["id"]))
def test_cases(case):
    """Texts a grammar must take and must not take, or its refusal."""
    job = {k: v for k, v in case.items()
           if k not in ("id", "schema", "yes", "no", "refused")}
    if "schema" in case:
        job.update(kind="schema", text=json.dumps(case["schema"]))
    job["accept"] = case.get("yes", []) + case.get("no", [])
    result, = probe([job])
    if "refused" in case:
        assert case["refused"] in result.get("error", ""), result
        return
    assert "error" not in result, result
    want = [1] * len(case.get("yes", [])) + [0] * len(case.get("no", []))
    wrong = [t for t, a, w in zip(job["accept"], result["accepted"], want)
             if a != w]
    assert not wrong


def check_outputs(schema, outputs):
    """Finished outputs that do not validate."""
    kind = jsonschema.validators.validator_for(
        schema, default=jsonschema.Draft202012Validator)
    validator = kind(schema)
    bad = []
    for text in outputs:
        if text is None:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            bad.append(text)
            continue
        if not validator.is_valid(value):
            bad.append(text)
    return bad


def test_sampled_outputs_validate():
    """Hundreds of schemas, the corpus and generated ones; nothing but the
    mask keeps the outputs right."""
    schemas = schema_corpus.load() + schema_corpus.generate(400, seed=5)
    assert len(schemas) >= 500
    jobs = [schema_job(s, samples=4, seed=i, max_tokens=300)
            for i, s in enumerate(schemas)]
    results = probe(jobs)
    refused = [(s, r["error"]) for s, r in zip(schemas, results)
               if "error" in r]
    finished = sum(o is not None for r in results
                   for o in r.get("outputs", []))
    total = sum(len(r.get("outputs", [])) for r in results)
    print(f"{len(schemas)} schemas, {len(refused)} refused, {finished} of "
          f"{total} outputs finished")
    for schema, result in zip(schemas, results):
        bad = check_outputs(schema, result.get("outputs", []))
        assert not bad, (schema, bad[:2])
    assert len(refused) <= 0.1 * len(schemas), refused[:5]
    assert finished >= 0.8 * total


def test_valid_instances_are_accepted():
    """No over-constraint: instances made to be valid (keys in the order of
    the schema) are taken, in three spellings."""
    rng = random.Random(11)
    jobs, schemas = [], []
    for schema in schema_corpus.load() + schema_corpus.generate(300, seed=9):
        instances = schema_corpus.instances(schema, rng)
        if instances:
            texts = [schema_corpus.spell(v, style) for v in instances
                     for style in ("compact", "spaced", "indented")]
            jobs.append(schema_job(schema, accept=texts))
            schemas.append(schema)
    assert len(jobs) >= 300
    for schema, job, result in zip(schemas, jobs, probe(jobs)):
        if "error" in result:
            continue
        wrong = [t for t, a in zip(job["accept"], result["accepted"])
                 if a != 1]
        assert not wrong, (schema, wrong[:2])


def test_masks_say_what_accept_says():
    """The definition: bit t of a mask is whether token t is accepted."""
    schemas = schema_corpus.load()[::4] + schema_corpus.generate(30, seed=3)
    jobs = [schema_job(s, samples=2, seed=i, max_tokens=60, oracle=12)
            for i, s in enumerate(schemas)]
    jobs += [dict(kind="regex", text=t, samples=3, max_tokens=40, oracle=20)
             for t in ("[a-z]{3,40}", ".{2,5}x", "(é|日本|🎉){1,3}", "[^,]+,")]
    jobs += [TOOLS | dict(samples=6, max_tokens=80, oracle=60)]
    probe(jobs)


def test_masks_of_a_real_vocabulary_say_what_accept_says():
    """AC-33"""
    jobs = [schema_job({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 12},
        "n": {"type": "array", "items": {"type": "number"}}}},
        samples=2, max_tokens=60, oracle=14)]
    probe(jobs, real_vocabulary())


TOOLS = {
    "kind": "none", "content": True, "calls": True, "thought": True,
    "tools": {"clock": json.dumps({
        "type": "object", "properties": {"tz": {"enum": ["CET", "UTC"]}},
        "required": ["tz"], "additionalProperties": False}),
        "stop_all": None}}


def test_calls_keep_to_their_tools():
    jobs = [TOOLS | dict(samples=200, max_tokens=120, seed=s, **more)
            for s, more in ((1, {}), (2, {"must_call": True}),
                            (3, {"one_call": True, "must_call": True,
                                 "content": False}),
                            (4, {"any_name": True}))]
    for job, result in zip(jobs, probe(jobs)):
        texts = [t for t in result["outputs"] if t is not None]
        assert texts
        seen = 0
        for text in texts:
            thought = re.match(r"\[THINK\](.+?)\[/THINK\]", text, re.S)
            rest = text[thought.end():] if thought else text
            content, *calls = rest.split("[TOOL_CALLS]")
            seen += len(calls)
            assert content or calls
            if job.get("must_call"):
                assert calls
            if job.get("one_call"):
                assert len(calls) == 1 and not content
            for call in calls:
                name, args = call.split("[ARGS]")
                value = json.loads(args)
                assert isinstance(value, dict)
                if not job.get("any_name"):
                    assert name.strip(" \t\r\n") in ("clock", "stop_all")
                    if name.strip() == "clock":
                        assert value in ({"tz": "CET"}, {"tz": "UTC"})
        assert seen


def test_regexes_match_what_they_say():
    """Sampled outputs against Python's re, where the two agree."""
    patterns = [r"[a-z]+\d{2,3}", r"(foo|bar)(baz)?", r"a?b*c+", r"\d+\.\d\d",
                r"[^x]y[^\d]", r"(?:ab|a)(?:c|bcd)", r"(a|b|ab)*c",
                r"\w+@\w+\.(com|org)", r"[\w.-]{1,8}", r"^x$|^yy$", r"a|^b",
                r"(x|^)y", r"\u00e9+[\u0400-\u04ff]", r"(a{2,3}){2}b",
                r"-?(0|[1-9]\d*)", r"[\]\-a]+", r"(\(\))+"]
    jobs = [dict(kind="regex", text=p, samples=20, seed=i, max_tokens=40)
            for i, p in enumerate(patterns)]
    finished = 0
    for p, result in zip(patterns, probe(jobs)):
        assert "error" not in result, (p, result)
        for text in result["outputs"]:
            if text is not None:
                finished += 1
                assert re.fullmatch(p, text, re.A), (p, text)
    assert finished > 200


def test_hostile_input_is_bounded():
    """AC-34b: Each is refused or compiled, soon."""
    deep = {"type": "integer"}
    for _ in range(50):
        deep = {"type": "array", "items": deep}
    jobs = [
        schema_job(deep),
        schema_job({"allOf": [{"anyOf": [{"minLength": i}, {"maxLength": j}]}
                              for i in range(8) for j in range(8)]}),
        schema_job({"enum": [f"value {i}" for i in range(15000)]}),
        schema_job({"enum": ["x" * 30000 + str(i) for i in range(10)]}),
        schema_job({"properties": {f"p{i}": {"type": "string"}
                                   for i in range(3000)}}),
        schema_job({"type": "string", "pattern": "(a{1,100}){1,100}$"}),
        schema_job({"type": "string", "pattern": "(((a{1,9}){1,9}){1,9})b",
                    "minLength": 400, "maxLength": 2 ** 31}),
        schema_job({"type": "string", "pattern": "(x+x+)+y"}),
        schema_job({"type": "number", "multipleOf": 9999, "minimum": 1,
                    "maximum": 9998}),
        schema_job({"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"}
                              for i in range(3000)},
                    "$ref": "#/$defs/d0"}),
        schema_job({"type": "array", "minItems": 10 ** 9, "items": {}}),
        dict(kind="regex", text="(" * 300 + "a" + ")" * 300),
        dict(kind="regex", text="(.{0,500}x){0,500}"),
        dict(kind="regex", text="((a*)*)*b"),
        dict(kind="choice", text=json.dumps(["a" * 1000] * 1000)),
        dict(kind="ebnf", text="root ::= " + "(" * 60000),
        dict(kind="ebnf", text="root ::= a\n" + "".join(
            f"a{i} ::= a{i + 1} a{i + 1}\n" for i in range(40))
            + 'a ::= a0\na40 ::= "x"'),
        dict(kind="ebnf", text='root ::= a a a a a "x"\n'
             'a ::= a a | "" | "y" root'),
        dict(kind="ebnf", text='root ::= ("a" root?){500,1000}'),
    ]
    for job, result in zip(jobs, probe(jobs, timeout=120)):
        assert result["compile_us"] < 2e6, job["text"][:80]


def test_cost_on_a_real_vocabulary():
    """Prints the figures; fails only when far off, for busy machines."""
    schemas = schema_corpus.load() + schema_corpus.generate(60, seed=21)
    jobs = [schema_job(s, samples=3, seed=i, max_tokens=150, costs=True)
            for i, s in enumerate(schemas)]
    results = [r for r in probe(jobs, real_vocabulary()) if "error" not in r]
    compile_us = sorted(r["compile_us"] for r in results)
    masks = sorted(us for r in results for us in r.get("each_us", []))

    def at(v, share):
        return v[int(len(v) * share)]
    print(f"{len(results)} schemas: compile p50 {at(compile_us, .5):.0f} us, "
          f"p99 {at(compile_us, .99):.0f} us; {len(masks)} masks: p50 "
          f"{at(masks, .5):.2f} us, p99 {at(masks, .99):.0f} us, p99.9 "
          f"{at(masks, .999):.0f} us, max {masks[-1]:.0f} us of CPU time")
    assert at(compile_us, .5) < 20000 and at(masks, .5) < 200
