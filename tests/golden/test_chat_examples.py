"""Worked examples of the prompt formats, over a byte-level vocabulary.

Each row: version, body, and the tokens the prompt must have, with control
tokens spelt out and any other character as its UTF-8 bytes. A backslash in
front of a bracket or angle keeps it text.
"""

import re

import pytest

import ctl
import made_tekken
import pictures

MSN = '[MODEL_SETTINGS]{"reasoning_effort": "none"}[/MODEL_SETTINGS]'
MSH = MSN.replace("none", "high")
CLOCK_TOOL = {"type": "function", "function": {
    "name": "clock", "description": "Tells the time",
    "parameters": {"type": "object", "properties": {"tz": {"type": "string"}},
                   "required": ["tz"]}}}
CLOCK = ('[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "clock",'
         ' "description": "Tells the time", "parameters": {"type": "object",'
         ' "properties": {"tz": {"type": "string"}}, "required": ["tz"]}}}]'
         '[/AVAILABLE_TOOLS]')


def u(content):
    return {"role": "user", "content": content}


def s(content):
    return {"role": "system", "content": content}


def a(content, *calls, **more):
    m = {"role": "assistant", "content": content, **more}
    if calls:
        m["tool_calls"] = [{"id": i, "type": "function",
                            "function": {"name": n, "arguments": g}}
                           for i, n, g in calls]
    return m


def t(id, content):
    return {"role": "tool", "tool_call_id": id, "content": content}


def text(x):
    return {"type": "text", "text": x}


def think(x, **more):
    return {"type": "thinking", "thinking": x, **more}


def body(*messages, tools=None, effort=None, **more):
    b = {"messages": list(messages), **more}
    if tools:
        b["tools"] = tools
    if effort:
        b["reasoning_effort"] = effort
    return b


ID1, ID2 = "aaaaaaaa1", "aaaaaaaa2"
IMG = pictures.part
TIME = body(u("Time?"), a(None, (ID1, "clock", '{"tz":"CET"}')),
            t(ID1, "12:05"), tools=[CLOCK_TOOL])
QF = (u("q"), a(None, (ID1, "f", "{}")), t(ID1, "x"))


def called(arguments):
    return body(u("q"), a(None, (ID1, "f", arguments)), t(ID1, "x"))


def snapped(content):
    return body(u("q"), a(None, (ID1, "snap", "{}")), t(ID1, content))


def history(content):
    return body(s("Be terse."), u("Time?"),
                a(content, (ID1, "clock", '{"tz":"CET"}'),
                  (ID2, "clock", "{}")),
                t(ID2, "two"), t(ID1, '{"t":1}'), a("Done "), u("Thx"),
                tools=[CLOCK_TOOL])


Q = "<s>" + MSN + "[INST]q[/INST]"
R = "</s>[INST]r[/INST]"
CALLS = ('[TOOL_CALLS]clock[ARGS]{"tz": "CET"}[TOOL_CALLS]clock[ARGS]{}</s>'
         '[TOOL_RESULTS]{"t":1}[/TOOL_RESULTS]'
         '[TOOL_RESULTS]two[/TOOL_RESULTS]')
ARRAY = ('[TOOL_CALLS][{"name": "clock", "arguments": {"tz": "CET"}, "id": '
         '"aaaaaaaa1"}, {"name": "clock", "arguments": {}, "id": '
         '"aaaaaaaa2"}]</s>')
SYS = "<s>[SYSTEM_PROMPT]Be terse.[/SYSTEM_PROMPT]"

ROWS = [
    (1, "v15", body(u("Bonjour")), f"<s>{MSN}[INST]Bonjour[/INST]"),
    (2, "v15", body(u("Bonjour"), effort="high"),
     f"<s>{MSH}[INST]Bonjour[/INST]"),
    (3, "v15", body(s("Be terse."), u("Bonjour")),
     f"{SYS}{MSN}[INST]Bonjour[/INST]"),
    (4, "v15", body(s("Be terse."), u("Time?"), tools=[CLOCK_TOOL]),
     f"{SYS}{CLOCK}{MSN}[INST]Time?[/INST]"),
    (5, "v15", body(u("Time?"), a("Sure"), u("So?"), tools=[CLOCK_TOOL],
                    effort="high"),
     f"<s>{CLOCK}{MSH}[INST]Time?[/INST]Sure</s>[INST]So?[/INST]"),
    (6, "v15", TIME, f"<s>{CLOCK}{MSN}[INST]Time?[/INST][TOOL_CALLS]clock"
     '[ARGS]{"tz": "CET"}</s>[TOOL_RESULTS]12:05[/TOOL_RESULTS]'),
    (7, "v15", body(u("Both"), a("ok", (ID1, "clock", '{"tz":"CET"}'),
                                 (ID2, "clock", '{"tz":"\\u00e9"}')),
                    t(ID2, "two"), t(ID1, "one")),
     f'<s>{MSN}[INST]Both[/INST]ok[TOOL_CALLS]clock[ARGS]{{"tz": "CET"}}'
     '[TOOL_CALLS]clock[ARGS]{"tz": "é"}</s>[TOOL_RESULTS]one[/TOOL_RESULTS]'
     '[TOOL_RESULTS]two[/TOOL_RESULTS]'),
    # AC-18
    (8, "v15", body(u("A"), u("B")), f"<s>{MSN}[INST]A\n\nB[/INST]"),
    (9, "v15", body(u([text("A"), text("B")]), u("C")),
     f"<s>{MSN}[INST]AB\n\nC[/INST]"),
    (10, "v15", body(u(""), u("b")), f"<s>{MSN}[INST]b[/INST]"),
    (11, "v15", body(u([text("What?"), IMG(56, 28)])),
     f"<s>{MSN}[INST][IMG][IMG][IMG_END]What?[/INST]"),
    (12, "v15", body(u([text("x"), IMG(28, 28), text("y")])),
     f"<s>{MSN}[INST]x[IMG][IMG_END]y[/INST]"),
    (13, "v15", body(u([text("x"), IMG(28, 28), IMG(28, 28)])),
     f"<s>{MSN}[INST]x[IMG][IMG_END][IMG][IMG_END][/INST]"),
    (14, "v15", body(u([text("x"), text("z"), IMG(28, 28)])),
     f"<s>{MSN}[INST][IMG][IMG_END]xz[/INST]"),
    (15, "v15", body(u("pre"), u([IMG(28, 28)])),
     f"<s>{MSN}[INST][IMG][IMG_END]pre[/INST]"),
    (16, "v15", body(u("pre"), u([IMG(28, 28), text("y")]), u("post")),
     f"<s>{MSN}[INST]pre[IMG][IMG_END]y\n\npost[/INST]"),
    (17, "v15", body(u([IMG(56, 56)])), f"<s>{MSN}[INST]"
     "[IMG][IMG][IMG_BREAK][IMG][IMG][IMG_END][/INST]"),
    (18, "v15", body(u("q"), a([think("hmm"), text("a")]), u("r")),
     f"{Q}[THINK]hmm[/THINK]a{R}"),
    (19, "v15", body(u("q"), a("a", reasoning_content="hmm"), u("r")),
     f"{Q}[THINK]hmm[/THINK]a{R}"),
    (20, "v15", body(u("q"), a(None, reasoning="hmm"), u("r")),
     f"{Q}[THINK]hmm[/THINK]{R}"),
    (21, "v15", body(u("q"), a("a", reasoning=""), u("r")),
     f"{Q}[THINK][/THINK]a{R}"),
    (22, "v15", body(u("q"), a(None, (ID1, "f", "{}"), reasoning="hmm"),
                     t(ID1, "x")),
     f"{Q}[THINK]hmm[/THINK][TOOL_CALLS]f[ARGS]{{}}</s>"
     "[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    (23, "v15", body(u("q"), a([text("a"), think("t"), text("b"),
                                text("c")]), u("x")),
     f"{Q}a[THINK]t[/THINK]bc</s>[INST]x[/INST]"),
    (24, "v15", body(u("q"), a([think("t ")]), a("b  "), u("x")),
     f"{Q}[THINK]t [/THINK]b  </s>[INST]x[/INST]"),
    (25, "v15", body(u("q"), a("a1"), a("a2"), u("r")), f"{Q}a1\n\na2{R}"),
    (26, "v15", body(u("  q  "), a(" a  "), u("r")),
     f"<s>{MSN}[INST]  q  [/INST] a{R}"),
    (27, "v15", body(u("q"), a("Once "), continue_final_message=True),
     f"{Q}Once"),
    (28, "v15", body(u("q"), a([think("part", closed=False)]),
                     continue_final_message=True), f"{Q}[THINK]part"),
    (29, "v15", called(""), f"{Q}[TOOL_CALLS]f[ARGS]{{}}</s>"
     "[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    (30, "v15", called("{bad"), f'{Q}[TOOL_CALLS]f[ARGS]"{{bad"</s>'
     "[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    (31, "v15", called('{"a":1e5,"b":1.10,"a":-0,"c":"\\/"}'),
     f'{Q}[TOOL_CALLS]f[ARGS]{{"a": 0, "b": 1.1, "c": "/"}}</s>'
     "[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    # AC-19, AC-19b
    (32, "v15", body(*snapped('{"a":1}')["messages"], u("and?")),
     f'{Q}[TOOL_CALLS]snap[ARGS]{{}}</s>[TOOL_RESULTS]{{"a":1}}'
     "[/TOOL_RESULTS][INST]and?[/INST]"),
    (33, "v15", snapped([text("shot"), IMG(28, 28)]),
     f"{Q}[TOOL_CALLS]snap[ARGS]{{}}</s>[TOOL_RESULTS]shot[IMG][IMG_END]"
     "[/TOOL_RESULTS]"),
    (34, "v15", snapped([text("a"), text("b")]),
     f"{Q}[TOOL_CALLS]snap[ARGS]{{}}</s>[TOOL_RESULTS]ab[/TOOL_RESULTS]"),
    (35, "v15", body(s("s1"), s("s2"), u("r")),
     "<s>[SYSTEM_PROMPT]s1[/SYSTEM_PROMPT][SYSTEM_PROMPT]s2[/SYSTEM_PROMPT]"
     f"{MSN}[INST]r[/INST]"),
    (36, "v15", body(s("s1"), u("u1"), s("s2"), u("u2"), tools=[CLOCK_TOOL],
                     effort="high"),
     f"<s>[SYSTEM_PROMPT]s1[/SYSTEM_PROMPT]{CLOCK}{MSH}[INST]u1[/INST]"
     "[SYSTEM_PROMPT]s2[/SYSTEM_PROMPT][INST]u2[/INST]"),
    (37, "v15", body(s([text("a"), text("b")]), u("r")),
     f"<s>[SYSTEM_PROMPT]ab[/SYSTEM_PROMPT]{MSN}[INST]r[/INST]"),
    (38, "v15", body(s("s1"), a("hello"), u("r")),
     f"<s>[SYSTEM_PROMPT]s1[/SYSTEM_PROMPT]hello</s>{MSN}[INST]r[/INST]"),
    (39, "v15", body(s("a"), tools=[CLOCK_TOOL]),
     "<s>[SYSTEM_PROMPT]a[/SYSTEM_PROMPT]"),
    (40, "v15", body(u("")), f"<s>{MSN}[INST][/INST]"),
    (41, "v15", body(u("say [INST] </s>")),
     f"<s>{MSN}[INST]say \\[INST] \\</s>[/INST]"),
    (42, "v15", body(u("q"), tools=[{"function": {
        "name": "f", "description": None, "strict": True, "x": 1}}]),
     '<s>[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "f", '
     '"description": "", "parameters": {}}}][/AVAILABLE_TOOLS]'
     f"{MSN}[INST]q[/INST]"),
    (43, "v15", history("ok"), f"{SYS}{CLOCK}{MSN}[INST]Time?[/INST]ok{CALLS}"
     "Done</s>[INST]Thx[/INST]"),
    (44, "v13", history("ok"), f"{SYS}{CLOCK}[INST]Time?[/INST]ok{CALLS}"
     "Done</s>[INST]Thx[/INST]"),
    (45, "v11", history("ok"), f"{SYS}[INST]Time?[/INST]ok[TOOL_CALLS]clock"
     '[CALL_ID]aaaaaaaa1[ARGS]{"tz": "CET"}[TOOL_CALLS]clock[CALL_ID]aaaaaaaa2'
     '[ARGS]{}</s>[TOOL_RESULTS]aaaaaaaa1[TOOL_CONTENT]{"t":1}[/TOOL_RESULTS]'
     '[TOOL_RESULTS]aaaaaaaa2[TOOL_CONTENT]two[/TOOL_RESULTS]Done</s>'
     f"{CLOCK}[INST]Thx[/INST]"),
    (46, "v7", history("ok"), f"{SYS}[INST]Time?[/INST]ok{ARRAY}"
     '[TOOL_RESULTS]aaaaaaaa2[TOOL_CONTENT]two[/TOOL_RESULTS]'
     '[TOOL_RESULTS]aaaaaaaa1[TOOL_CONTENT]{"t":1}[/TOOL_RESULTS]Done</s>'
     f"{CLOCK}[INST]Thx[/INST]"),
    (47, "v3", history(None), f"<s>[INST]Time?[/INST]{ARRAY}"
     '[TOOL_RESULTS]{"content": "two", "call_id": "aaaaaaaa2"}[/TOOL_RESULTS]'
     '[TOOL_RESULTS]{"content": {"t": 1}, "call_id": "aaaaaaaa1"}'
     f"[/TOOL_RESULTS]Done</s>{CLOCK}[INST]Be terse.\n\nThx[/INST]"),
    (49, "v13", body(u([text("A"), text("B")]), u("C")),
     "<s>[INST]A\n\nB\n\nC[/INST]"),
    (50, "v13", body(s([text("a"), think("t"), text("b")]), u("q")),
     "<s>[SYSTEM_PROMPT]a[THINK]t[/THINK]b[/SYSTEM_PROMPT][INST]q[/INST]"),
    (51, "v3", body(s("x")), "<s>[INST]x\n\n[/INST]"),
    (52, "v3", body(s("x"), u([IMG(28, 28), text("y")])),
     "<s>[INST]x\n\n[IMG][IMG_END]y[/INST]"),
]

REFUSED = [
    ("empty assistant", "v15", body(u("q"), a(""), u("r"))),
    ("assistant last", "v15", body(u("q"), a("x"))),
    ("system after assistant", "v15", body(s("s"), u("q"), a("x"), s("s"))),
    ("user then tool", "v15", body(u("q"), t(ID1, "x"))),
    ("tool then system", "v15", body(*QF, s("s"))),
    ("call id on v11", "v11", body(u("q"), a(None, ("call_1", "f", "{}")),
                                   t("call_1", "x"))),
    ("null id", "v15", body(u("q"), a(None, ("null", "f", "{}")),
                            t("null", "x"))),
    ("duplicate ids", "v15", body(u("q"), a(None, (ID1, "f", "{}"),
                                            (ID1, "f", "{}")), t(ID1, "x"))),
    ("unknown id", "v15", body(*QF[:2], t(ID2, "x"))),
    ("repeated id", "v15", body(*QF, t(ID1, "y"))),
    ("unanswered call", "v15", body(*QF[:2], a("x"), u("r"))),
    ("effort", "v15", body(u("q"), effort="medium")),
    ("effort on v13", "v13", body(u("q"), effort="high")),
    ("name", "v15", body(u("q"), a(None, (ID1, "a.b", "{}")), t(ID1, "x"))),
    ("schema", "v15", body(u("q"), tools=[{"function": {
        "name": "f", "parameters": {"type": "banana"}}}])),
    ("thought in user", "v15", body(u([think("x")]))),
    ("thought in system", "v15", body(s([think("x")]), u("q"))),
    ("thought in tool", "v15", snapped([think("x")])),
    ("no tool_call_id", "v15", body(*QF[:2], {"role": "tool",
                                              "content": "x"})),
    ("null content", "v15", body(u(None))),
    ("no messages", "v15", body()),
    ("single assistant", "v15", body(a("x"))),
    ("continue a user", "v15", body(u("q"), continue_final_message=True)),
    ("thought on v11", "v11", body(u("q"), a([think("x")]), u("r"))),
]


def expected_ids(marked):
    controls = made_tekken.control_ids()
    out = []
    names = "|".join(re.escape(n) for n in sorted(controls, key=len,
                                                  reverse=True))
    for escaped, name, other in re.findall(rf"\\(.)|({names})|(.)", marked,
                                           re.S):
        if name:
            out.append(controls[name])
        else:
            out += [1000 + b for b in (escaped or other).encode()]
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    top = tmp_path_factory.mktemp("tekken")
    return {v: made_tekken.write(top / f"tekken_{v}.json", v,
                                 made_tekken.byte_vocabulary())
            for v in made_tekken.VERSIONS}


def encode(file, bodies, *options):
    return ctl.lines("tokenize", "--tokenizer", file, "--chat", *options,
                     values=bodies)


@pytest.mark.parametrize("mode", [["--strict"], []])
@pytest.mark.parametrize("version", made_tekken.VERSIONS)
def test_examples(files, version, mode):
    rows = [r for r in ROWS if r[1] == version]
    got = encode(files[version], [r[2] for r in rows], *mode)
    for row, ids in zip(rows, got):
        assert ids == expected_ids(row[3]), row[0]


@pytest.mark.parametrize("version", ["v11", "v13", "v15"])
def test_refusals(files, version):
    rows = [r for r in REFUSED if r[1] == version]
    got = encode(files[version], [r[2] for r in rows], "--strict")
    for row, answer in zip(rows, got):
        assert isinstance(answer, dict), row[0]
        assert answer["error"]["code"] == 400, row[0]
        assert answer["error"]["message"], row[0]


# What the server makes of conversations that the reference refuses.
MENDED = [
    ("developer", "v15", body({"role": "developer", "content": "s"}, u("q")),
     f"<s>[SYSTEM_PROMPT]s[/SYSTEM_PROMPT]{MSN}[INST]q[/INST]"),
    ("AC-20 empty turn", "v15", body(u("q"), a(""), u("r")),
     f"<s>{MSN}[INST]q\n\nr[/INST]"),
    ("empty last turn", "v15", body(u("q"), a(None)), Q),
    ("AC-19c assistant last", "v15", body(u("q"), a("Once")), f"{Q}Once"),
    ("assistant last, new turn", "v15",
     body(u("q"), a("Once"), add_generation_prompt=True), f"{Q}Once</s>"),
    ("prefix", "v15", body(u("q"), a("Once", prefix=True)), f"{Q}Once"),
    ("only an assistant", "v15", body(a("Once")), "<s>Once"),
    ("AC-04 foreign ids", "v15",
     body(u("q"), a(None, ("call_1", "f", ""), ("call_2", "g", "")),
          t("call_2", "2"), t("call_1", "1")),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}[TOOL_CALLS]g[ARGS]{{}}</s>"
     "[TOOL_RESULTS]1[/TOOL_RESULTS][TOOL_RESULTS]2[/TOOL_RESULTS]"),
    ("same ids", "v15",
     body(u("q"), a(None, ("x", "f", ""), ("x", "g", "")),
          t("x", "1"), t("x", "2")),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}[TOOL_CALLS]g[ARGS]{{}}</s>"
     "[TOOL_RESULTS]1[/TOOL_RESULTS][TOOL_RESULTS]2[/TOOL_RESULTS]"),
    ("missing result", "v15",
     body(u("q"), a(None, (ID1, "f", ""), (ID2, "g", "")), t(ID2, "2"),
          a("ok"), u("r")),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}[TOOL_CALLS]g[ARGS]{{}}</s>"
     "[TOOL_RESULTS][/TOOL_RESULTS][TOOL_RESULTS]2[/TOOL_RESULTS]"
     f"ok{R}"),
    ("calls last", "v15", body(*QF[:2]),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}</s>[TOOL_RESULTS][/TOOL_RESULTS]"),
    ("orphan result", "v15", body(u("q"), t("zzz", "x"), u("r")),
     f"{Q}[TOOL_RESULTS]x[/TOOL_RESULTS][INST]r[/INST]"),
    ("late result", "v15", body(*QF[:2], u("wait"), t(ID1, "x")),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}</s>[INST]wait[/INST]"
     "[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    ("AC-17 system after tool", "v15", body(*QF, s("s")),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}</s>[TOOL_RESULTS]x[/TOOL_RESULTS]"
     "[SYSTEM_PROMPT]s[/SYSTEM_PROMPT]"),
    ("functions of old", "v15",
     body(u("q"), {"role": "assistant", "content": None,
                   "function_call": {"name": "f", "arguments": "{}"}},
          {"role": "function", "name": "f", "content": "x"}),
     f"{Q}[TOOL_CALLS]f[ARGS]{{}}</s>[TOOL_RESULTS]x[/TOOL_RESULTS]"),
    ("null result", "v15", snapped(None),
     f"{Q}[TOOL_CALLS]snap[ARGS]{{}}</s>[TOOL_RESULTS][/TOOL_RESULTS]"),
    ("other part names", "v15",
     body(u([{"type": "input_text", "text": "a"}, "b"]),
          a([{"type": "output_text", "text": "c"}]), u("r")),
     f"<s>{MSN}[INST]ab[/INST]c{R}"),
    ("other image names", "v15",
     body(u([{"type": "input_image",
              "image_url": pictures.data_url(pictures.gif(28, 28))},
             {"type": "image", "source": {
                 "type": "base64", "media_type": "image/png",
                 "data": pictures.data_url(pictures.gif(56, 28))
                 .split(",")[1]}}, text("x")])),
     f"<s>{MSN}[INST][IMG][IMG_END][IMG][IMG][IMG_END]x[/INST]"),
    ("AC-21 thought as parts", "v15",
     body(u("q"), a([{"type": "thinking", "thinking": [text("h"),
                                                       text("m")]},
                     text("a")]), u("r")), f"{Q}[THINK]hm[/THINK]a{R}"),
    ("AC-21 thought twice", "v15",
     body(u("q"), a([think("hmm"), text("a")], reasoning="hmm"), u("r")),
     f"{Q}[THINK]hmm[/THINK]a{R}"),
    ("thoughts that differ", "v15",
     body(u("q"), a("a", reasoning="hmm", reasoning_content="mmh"), u("r")),
     f"{Q}[THINK]hmm[/THINK]a{R}"),
    ("thought without the tokens", "v11",
     body(u("q"), a([think("hmm"), text("a")]), u("r")),
     "<s>[INST]q[/INST]a</s>[INST]r[/INST]"),
    ("content and calls", "v3",
     body(u("q"), a("ok", (ID1, "f", "{}")), t(ID1, "x")),
     '<s>[INST]q[/INST]ok[TOOL_CALLS][{"name": "f", "arguments": {}, "id": '
     '"aaaaaaaa1"}]</s>[TOOL_RESULTS]{"content": "x", "call_id": '
     '"aaaaaaaa1"}[/TOOL_RESULTS]'),
    ("no tools", "v15", body(u("q"), tools=None, tool_choice="auto"), Q),
    ("empty tools", "v15", {**body(u("q")), "tools": []}, Q),
]


@pytest.mark.parametrize("version", ["v3", "v11", "v15"])
def test_mending(files, version):
    rows = [r for r in MENDED if r[1] == version]
    got = encode(files[version], [r[2] for r in rows])
    for row, ids in zip(rows, got):
        assert ids == expected_ids(row[3]), row[0]


def test_foreign_ids_agree_where_they_are_spelt_out(files):
    """v11 wants nine letters and digits: a call and its result match."""
    rows = [body(u("q"), a(None, (i, "f", "{}")), t(i, "x"))
            for i in ("call_1", "toolu_0123456789abcdef", "")]
    controls = {v: k for k, v in made_tekken.control_ids().items()}
    seen = set()
    for ids in encode(files["v11"], rows):
        shown = "".join(controls.get(i) or chr(i - 1000) for i in ids)
        call, result = re.search(r"\[CALL_ID\](\w{9})\[ARGS\].*"
                                 r"\[TOOL_RESULTS\](\w{9})\[TOOL_CONTENT\]",
                                 shown).groups()
        assert call == result
        seen.add(call)
    assert len(seen) == 3


SERVER_REFUSES = [
    ("messages", {}),
    ("messages", body()),
    ("messages.0.role", body({"role": "robot", "content": "x"})),
    ("messages.0.content", body(u(None))),
    ("messages.0.content.0", body(u([{"type": "input_audio",
                                      "input_audio": {}}]))),
    ("messages.0.content.0.image_url",
     body(u([{"type": "image_url", "image_url": {"url": "data:nothing"}}]))),
    ("messages.0.content.0.image_url",
     body(u([{"type": "image_url",
              "image_url": {"url": "https://a.example/x.png"}}]))),
    ("messages.0.content.0.image_url",
     body(u([{"type": "image_url",
              "image_url": {"url": "file:///etc/passwd"}}]))),
    ("messages.0.content.0.image_url",
     body(u([{"type": "image_url",
              "image_url": {"url": "data:image/png;base64,AAA"}}]))),
    ("messages.1.tool_calls.0.function.name",
     body(u("q"), {"role": "assistant", "tool_calls": [{"id": "x"}]})),
    ("tools.0.function.name", body(u("q"), tools=[{"function": {
        "name": "a b"}}])),
    ("tools.0.function.parameters.properties.x.type",
     body(u("q"), tools=[{"function": {"name": "f", "parameters": {
         "properties": {"x": {"type": "banana"}}}}}])),
    ("tool_choice", body(u("q"), tool_choice="required")),
    ("tool_choice", body(u("q"), tools=[CLOCK_TOOL], tool_choice={
        "type": "function", "function": {"name": "other"}})),
    ("tool_choice", body(u("q"), tool_choice="sometimes")),
    ("continue_final_message", body(u("q"), continue_final_message=True)),
    ("continue_final_message", body(u("q"), a("x"), add_generation_prompt=True,
                                    continue_final_message=True)),
]


def test_errors_name_the_field(files):
    got = encode(files["v15"], [r[1] for r in SERVER_REFUSES])
    for (param, request), answer in zip(SERVER_REFUSES, got):
        assert isinstance(answer, dict), request
        where = answer["error"]["param"].removeprefix("body.")
        assert where == param, answer
