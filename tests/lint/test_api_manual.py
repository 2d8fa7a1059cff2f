"""sirocco-api(7) and the code name the same endpoints and fields."""

import os
import pathlib
import re

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
API = TOP / "src/api"
PAGE = (API / "sirocco-api.7").read_text().replace("\\\n", " ")


def section(head):
    return re.split(r"^\.S[hs] ", PAGE, flags=re.M)[
        [s.split("\n")[0] for s in
         re.split(r"^\.S[hs] ", PAGE, flags=re.M)].index(head)]


def words(text):
    """Field names behind .Ic and .It Ic."""
    lines = re.findall(r"^\.(?:It )?Ic (.*)$", text, re.M)
    return set(re.findall(r"[a-z_]+", " ".join(lines)))


def test_endpoints():
    code = (API / "route.c").read_text()
    rows = set(re.findall(r'\{"(?:GET|POST|\*)", "([^"]+)"', code))
    said = set(re.findall(r"(/[a-z_0-9/]+)", section("ENDPOINTS")))
    assert {r.rstrip("/") for r in rows} == {s.rstrip("/") for s in said}


def test_fields_of_the_table():
    code = (API / "fields.c").read_text()
    table = code[code.index("rows[] ="):code.index("--- single values")]
    names = set(re.findall(r'"([a-z_]+)"', table))
    known = words(section("Of all requests that generate")) \
        | words(section("Of chat completions")) \
        | words(section("Of completions"))
    assert names <= known, names - known
    read = "".join((API / f).read_text() for f in (
        "fields.c", "fields_list.c", "effort.c", "constraint.c",
        "completions.c", "chat_completions.c", "http_call.c"))
    chat = "".join(p.read_text() for p in (TOP / "src/chat").glob("*.c"))
    for name in known:
        assert f'"{name}"' in read + chat, name


def test_refused_fields():
    code = (API / "fields.c").read_text()
    refused = set(re.findall(
        r'call_fail\(c, 400, "([a-z_]+)",\s+"[^"]*not\s+"?\s*"?supported',
        code))
    refused |= set(re.findall(
        r'\{"([a-z_]+)", 400, ',
        (API / "chat_completions.c").read_text()))
    assert len(refused) > 6
    assert refused <= words(section("Refused"))


def test_ignored_fields_are_not_read():
    code = "".join(p.read_text() for p in API.glob("*.c")
                   if not re.match("messages|responses", p.name))
    ignored = words(section("Ignored")) - {"metadata", "truncation",
                                           "include", "top_logprobs"}
    for name in ignored:
        assert f'"{name}"' not in code, name


def test_metrics():
    """Each name of vLLM's is in the manual, and none that is said not to be
    there is there."""
    tab = (TOP / "src/metrics/metrics_tab.c").read_text()
    tab = tab.replace("\\\n", " ")
    rows = re.findall(r'(?:GAUGE|COUNTER|HISTOGRAM)\("[a-z0-9_]+",\s*'
                      r'"([a-z0-9_]+)"', tab)
    rows += re.findall(r'LABELLED\("[a-z_]+", "[^,]*",\s*"([a-z_]+)"', tab)
    rows += re.findall(r'\{METRIC_[A-Z_]+, "([a-z_]+)"',
                       tab[tab.index("metrics_aliases"):])
    rows += re.findall(r'"(spec_[a-z_]+)"', tab)
    rows += re.findall(r'TYPE vllm:([a-z_]+) gauge',
                       (TOP / "src/metrics/metrics.c").read_text())
    assert len(rows) > 30 and "cache_config_info" in rows
    said = " ".join(re.findall(r"^\.(?:It )?Ic (.*)$", section("METRICS"),
                               re.M))
    assert set(rows) == \
        set(re.findall(r"[a-z0-9_]+", said)) - {"vllm_metrics"}
    for name in words(section("Not exported")):
        assert f'"{name}"' not in tab, name


def test_clients():
    """The manual has each client that the test suite installs and uses."""
    wanted = (TOP / "contrib/requirements-check.txt").read_text() \
        + (TOP / "contrib/check").read_text()
    said = re.findall(r"^\.It Cm (\S+)", section("CLIENTS"), re.M)
    assert len(said) == len(set(said)) > 6
    tests = "".join(p.read_text() for p in (TOP / "tests/e2e").glob("*.py"))
    used = {"openai-agents": "import agents", "mini-swe-agent": '"mini"',
            "llm": '"llm"', "mistralai": "from mistralai.client"}
    for name in said:
        assert f"{name}==" in wanted, name
        assert used.get(name, f"import {name}") in tests, name
