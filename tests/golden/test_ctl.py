"""siroccoctl as a program: usage, bad input, exit codes."""

import json
import re

import numpy
import pytest

import ctl

DEMO = ctl.TOP / "contrib/demo-model/model"
TEKKEN = DEMO / "tekken.json"


def test_without_a_command_it_shows_its_usage():
    done = ctl.run()
    assert done.returncode == 2
    assert "usage: siroccoctl" in done.stderr


def test_help_lists_every_option_of_a_command():
    done = ctl.run("help", "score")
    assert done.returncode == 0
    for option in ("--model", "--backend", "--step", "--max-context"):
        assert option in done.stdout


@pytest.mark.parametrize("arguments", [
    ["nonsense"], ["tokenize"], ["tokenize", "--tokenizer"],
    ["tokenize", "--tokeniser", "x"], ["score", "--model", "x", "--step", "0"],
    ["generate"],
])
def test_wrong_command_lines_are_told(arguments):
    done = ctl.run(*arguments)
    assert done.returncode == 2
    assert done.stderr and not done.stdout


@pytest.mark.parametrize("command", ["score", "generate"])
def test_a_directory_without_a_model_is_told(command, tmp_path):
    done = ctl.run(command, "--model", tmp_path)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr


def test_a_missing_tokenizer_is_told(tmp_path):
    done = ctl.run("tokenize", "--tokenizer", tmp_path / "none.json")
    assert done.returncode == 1
    assert "none.json" in done.stderr


def test_a_bad_line_does_not_stop_the_others():
    done = ctl.run("tokenize", "--tokenizer", TEKKEN,
                   text='"a"\n{bad\n["no text"]\n"b"\n')
    out = [json.loads(x) for x in done.stdout.splitlines()]
    assert done.returncode == 1
    assert isinstance(out[0], list) and isinstance(out[3], list)
    assert "error" in out[1] and "error" in out[2]


def test_text_goes_there_and_back():
    texts = ["", "Hello", "naïve 日本語 🎉", "a\x00b\n\t", "[INST] </s>"]
    ids = ctl.lines("tokenize", "--tokenizer", TEKKEN, values=texts)
    assert ctl.lines("detokenize", "--tokenizer", TEKKEN,
                     values=ids) == texts


@pytest.mark.parametrize("line, said", [
    ("[]", "no ids"), ("[1, -1]", "element 1"), ("[1, 1.5]", "element 1"),
    ("[99999999]", "outside the vocabulary"), ('"x"', "array of token ids"),
])
def test_score_refuses_what_is_no_prompt(line, said):
    done = ctl.run("score", "--model", DEMO, text=line + "\n[1]\n")
    out = [json.loads(x) for x in done.stdout.splitlines()]
    assert said in out[0]["error"]
    assert len(out[1]["argmax"]) == 1 and out[1]["next_logprob"] == []


def test_score_does_not_depend_on_the_steps():
    ids = ctl.lines("tokenize", "--tokenizer", TEKKEN,
                    values=["The steps of a prompt do not change it. " * 8])
    whole, = ctl.lines("score", "--model", DEMO, values=ids)
    for step in (1, 7, 64):
        parts, = ctl.lines("score", "--model", DEMO, "--step", step,
                           values=ids)
        assert parts == whole
    assert len(whole["next_logprob"]) == len(ids[0]) - 1


def test_generate_agrees_with_score():
    """Greedy tokens are the most likely ones, one by one."""
    ids = ctl.lines("tokenize", "--tokenizer", TEKKEN, values=["Hello, you"])
    out, = ctl.lines("generate", "--model", DEMO,
                     values=[{"ids": ids[0], "max_tokens": 12,
                              "ignore_eos": True}])
    assert len(out["ids"]) == 12 and out["finish_reason"] == "length"
    scored, = ctl.lines("score", "--model", DEMO,
                        values=[ids[0] + out["ids"]])
    assert scored["argmax"][len(ids[0]) - 1:-1] == out["ids"]


def test_a_seed_repeats_a_sample():
    job = {"ids": [1, 5, 9], "max_tokens": 20, "temperature": 1.5, "seed": 7,
           "ignore_eos": True}
    a, b, c = ctl.lines("generate", "--model", DEMO,
                        values=[job, job, dict(job, seed=8)])
    assert a == b and a != c


@pytest.mark.parametrize("job, said", [
    ({"ids": []}, "ids"), ({"max_tokens": 3}, "token ids"),
    ({"ids": [1], "max_tokens": 0}, "max_tokens"),
    ({"ids": [1], "temperature": 9}, "temperature"),
    ({"ids": [1], "temperature": "hot"}, "temperature"),
    ({"ids": [1], "logit_bias": {"x": 1}}, "logit_bias"),
    ({"ids": [1], "stop": "x"}, "stop: no such field"),
    ({"ids": [1], "max_token": 3}, "max_token: no such field"),
    ({"ids": [1], "ignore_eos": 1}, "ignore_eos"),
])
def test_generate_refuses_bad_fields(job, said):
    bad, good = ctl.lines("generate", "--model", DEMO,
                          values=[job, {"ids": [1], "max_tokens": 1}])
    assert said in bad["error"]
    assert len(good["ids"]) == 1


def special(name):
    """Id of a control token of the demo model's tokenizer."""
    table = json.loads(TEKKEN.read_text())["special_tokens"]
    return next(t["rank"] for t in table if t["token_str"] == name)


def test_filter_gives_the_same_for_every_cut():
    """AC-11, AC-12"""
    text, = ctl.lines("tokenize", "--tokenizer", TEKKEN,
                      values=["So: 4."])
    name, = ctl.lines("tokenize", "--tokenizer", TEKKEN, values=["clock"])
    args, = ctl.lines("tokenize", "--tokenizer", TEKKEN,
                      values=['{"tz": "CET"}'])
    ids = ([special("[THINK]")] + text + [special("[/THINK]")] + text
           + [special("[TOOL_CALLS]")] + name + [special("[ARGS]")] + args
           + [special("</s>")])
    whole, *cut = ctl.lines(
        "filter", "--tokenizer", TEKKEN,
        values=[{"ids": ids}] + [{"ids": ids, "cuts": [i]}
                                 for i in range(len(ids) + 1)])
    message = whole["message"]
    assert message["reasoning"] == message["reasoning_content"] == "So: 4."
    assert message["content"] == "So: 4."
    call, = message["tool_calls"]
    assert call["function"] == {"name": "clock",
                                "arguments": '{"tz": "CET"}'}
    assert whole["finish_reason"] == "tool_calls"
    for other in cut:
        assert other["message"] == message
        joined = "".join(
            c["function"].get("arguments", "") for d in other["deltas"]
            for c in d.get("tool_calls", []))
        assert joined == call["function"]["arguments"]
        assert "".join(d.get("content") or ""
                       for d in other["deltas"]) == "So: 4."
        assert other["finish_reason"] == "tool_calls"


def test_filter_tells_a_cut_output():
    out, = ctl.lines("filter", "--tokenizer", TEKKEN,
                     values=[{"ids": [special("[THINK]"), 110]}])
    assert out["finish_reason"] == "length"
    assert out["message"]["content"] is None


@pytest.mark.parametrize("line, said", [
    ({"ids": [1], "cuts": [9]}, "cuts"), ({"ids": [10 ** 6]}, "vocabulary"),
    ({"cuts": [1]}, "ids"), ([], "object"),
])
def test_filter_refuses_what_is_no_output(line, said):
    out, = ctl.lines("filter", "--tokenizer", TEKKEN, values=[line])
    assert said in out["error"]


def test_chats_think_as_the_server_has_them_think():
    """Levels under every name become the two that the model knows."""
    def ids(**fields):
        return ctl.lines("tokenize", "--tokenizer", TEKKEN, "--chat", values=[
            {"messages": [{"role": "user", "content": "a"}], **fields}])[0]

    none, high = ids(reasoning_effort="none"), ids(reasoning_effort="high")
    assert none != high
    for level in ("minimal", 0):
        assert ids(reasoning_effort=level) == none
    for level in ("low", "medium", "xhigh", "max", 0.1, 0.99):
        assert ids(reasoning_effort=level) == high
        assert ids(reasoning={"effort": level}) == high
    assert ids(chat_template_kwargs={"enable_thinking": True}) == high
    assert ids(chat_template_kwargs={"thinking": True},
               reasoning_effort="none") == none
    error = ids(reasoning_effort="much")["error"]
    assert error["type"] == "Bad Request"
    assert error["param"] == "body.reasoning_effort"


def test_a_chat_that_is_refused_fails_its_line():
    done = ctl.run("tokenize", "--tokenizer", TEKKEN, "--chat",
                   text='{"messages": []}\n'
                        '{"messages": [{"role": "user", "content": "a"}]}\n')
    out = [json.loads(x) for x in done.stdout.split("\n")[:-1]]
    assert done.returncode == 1
    assert out[0]["error"]["code"] == 400 and isinstance(out[1], list)


def scaled_experts(directory, factor):
    """The demo model with the middle of every expert times factor, a power of
    two, and what follows divided by it: the same function, bit for bit."""
    directory.mkdir()
    data = bytearray((DEMO / "consolidated.safetensors").read_bytes())
    size = int.from_bytes(data[:8], "little")
    for name, t in json.loads(data[8:8 + size]).items():
        part = re.search(r"experts\.(?:\d+\.)?(w[23])\.weight$", name)
        if not part or t["dtype"] != "BF16":
            continue
        begin, end = (8 + size + x for x in t["data_offsets"])
        bits = numpy.frombuffer(data, "<u2", (end - begin) // 2, begin)
        values = (bits.astype("<u4") << 16).view("<f4")
        values = values * (factor if part[1] == "w3" else 1 / factor)
        numpy.copyto(bits, (values.view("<u4") >> 16).astype("<u2"))
    (directory / "consolidated.safetensors").write_bytes(data)
    for name in ("params.json", "tekken.json"):
        (directory / name).symlink_to(DEMO / name)
    return directory


def test_large_values_inside_an_expert(tmp_path):
    """AC-51: far beyond what 16-bit floats hold."""
    ids = ctl.lines("tokenize", "--tokenizer", TEKKEN,
                    values=["What is the weather in Paris? " * 8])
    plain, = ctl.lines("score", "--model", DEMO, values=ids)
    large, = ctl.lines("score", "--model", scaled_experts(
        tmp_path / "scaled", 2.0 ** 40), values=ids)
    assert large == plain
