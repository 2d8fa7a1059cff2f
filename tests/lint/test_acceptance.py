"""tests/ACCEPTANCE names tests that exist and carry its numbers, and the
numbers in the tests are in it."""

import ast
import os
import pathlib
import re

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
NUMBER = re.compile(r"\bAC-\d\d[a-d]?\b")
LAST = 53
ADDED = {"AC-17b", "AC-19b", "AC-19c", "AC-30b", "AC-30c", "AC-30d",
         "AC-34b"}


def entries():
    """{number: (what, [(file, test)], {design, open})}"""
    out = {}
    text = (TOP / "tests/ACCEPTANCE").read_text()
    for entry in re.findall(r"^AC-.*(?:\n .*)*", text, re.M):
        number, rest = entry.split(maxsplit=1)
        assert number not in out, number
        tests = re.findall(r"^    (tests/\S+)::(\w+)$", rest, re.M)
        kinds = set(re.findall(r"^    (design|open): \S", rest, re.M))
        assert rest.count("tests/") == len(tests), number
        out[number] = rest.split("\n    ")[0], tests, kinds
    return out


def python_parts(text):
    """{name: source} of what stands at the top of a file."""
    lines = text.splitlines()
    out = {}
    for node in ast.parse(text).body:
        first = min([node.lineno] + [d.lineno for d in
                                     getattr(node, "decorator_list", [])])
        for name in [t.id for t in getattr(node, "targets", [])
                     if isinstance(t, ast.Name)] or \
                [getattr(node, "name", "")]:
            out[name] = "\n".join(lines[first - 1:node.end_lineno])
    return out


def c_parts(text):
    """{name: source} of functions, each with the comment above it."""
    found = re.findall(r"((?:^/\*(?:[^*]|\*[^/])*\*/\n)?^(?:static )?\w+\n"
                       r"(\w+)\([^{;]*\)\n\{\n(?:.*\n)*?^\}$)", text, re.M)
    return {name: source for source, name in found}


def parts(file):
    text = (TOP / file).read_text()
    return python_parts(text) if file.endswith(".py") else c_parts(text)


def test_every_number_is_there():
    wanted = {f"AC-{n:02}" for n in range(1, LAST + 1)} | ADDED
    assert set(entries()) == wanted


def test_every_number_has_a_test_or_a_reason():
    for number, (what, tests, kinds) in entries().items():
        assert what and (tests or kinds), number


def test_the_tests_exist_and_carry_their_numbers():
    for number, (_, tests, _) in entries().items():
        for file, test in tests:
            source = parts(file).get(test)
            assert source, f"{number}: no {test} in {file}"
            assert number in NUMBER.findall(source), f"{number}: {test}"


def test_the_numbers_in_the_tests_are_listed():
    known = entries()
    for path in (TOP / "tests").rglob("*.[pc]*"):
        if path.suffix not in (".py", ".c") or path.name == \
                pathlib.Path(__file__).name:
            continue
        file = str(path.relative_to(TOP))
        for name, source in parts(file).items():
            for number in NUMBER.findall(source):
                assert (file, name) in known[number][1], (number, file, name)
