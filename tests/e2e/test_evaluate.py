"""A part of the demo model's evaluation against the real daemon, and that it
fails when the prompt format, the reasoning split or the tool parser is
wrong."""

import json
import shutil
import subprocess
import sys

import pytest

import serving

EVALUATE = serving.DEMO.parent / "evaluate.py"


def evaluate(server, *options):
    """(exit status, output) of evaluate.py."""
    done = subprocess.run(
        [sys.executable, EVALUATE, "--url", server.url + "/v1", "--key",
         serving.KEY, "--show", *options],
        capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    assert "HTTP" not in done.stdout, done.stdout   # wrong, but answered
    return done.returncode, done.stdout


def takes_images(server):
    pixel = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fp"
             "tVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
    status, _ = server.json("POST", "/v1/chat/completions", {
        "max_tokens": 1, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": pixel}}]}]})
    return status == 200


def test_the_demo_model_is_right(demo):
    options = [] if takes_images(demo) else ["--no-images"]
    status, out = evaluate(demo, "--quick", *options)
    assert status == 0, out
    assert out.count(" %") >= 20        # ten tasks, a share and a bar each


def test_drafts_are_accepted_and_change_nothing(make_server):
    """AC-52: the draft head guesses three tokens a step on held-out text, and
    each kind of text has its bar."""
    server = make_server(model=serving.DEMO, served_name="default",
                         draft=EVALUATE.parent / "eagle")
    seen = {"sirocco_drafts_total": 0, "sirocco_accepted_tokens_total": 0}

    def tokens_a_step(*options):
        status, out = evaluate(server, "--quick", "--no-images", *options)
        assert status == 0, out
        m = server.metrics()
        steps, accepted = (m[k] - v for k, v in seen.items())
        seen.update({k: m[k] for k in seen})
        assert steps >= 10
        return 1 + accepted / steps

    assert tokens_a_step() >= 2.5
    kinds = {kind: tokens_a_step("--only", kind)
             for kind in ("echo", "structured", "arithmetic", "tools")}
    assert min(kinds.values()) >= 2.2, kinds


def broken(make_server, tmp_path, filters):
    """A server with other patterns in its output filters."""
    path = tmp_path / "filters"
    path.write_text(filters)
    return make_server(model=serving.DEMO, served_name="default",
                       filters=path)


def test_a_wrong_reasoning_split_fails(make_server, tmp_path):
    server = broken(make_server, tmp_path,
                    "think.open = {{[THINK]}}never\n"
                    "think.close = {{[/THINK]}}never\n")
    status, out = evaluate(server, "--quick", "--only", "arithmetic")
    assert status == 1 and "below the bar: arithmetic" in out, out


def test_a_wrong_tool_parser_fails(make_server, tmp_path):
    server = broken(make_server, tmp_path,
                    "tool.call = {{[TOOL_CALLS]}}never\n")
    status, out = evaluate(server, "--quick", "--only", "tools")
    assert status == 1 and "below the bar: tools" in out, out


@pytest.mark.parametrize("one, other", [("[INST]", "[SYSTEM_PROMPT]"),
                                        ("[/INST]", "[MODEL_SETTINGS]")])
def test_a_wrong_prompt_format_fails(make_server, tmp_path, one, other):
    """A tokenizer file whose control tokens changed places makes prompts
    that the model has never seen."""
    model = tmp_path / "model"
    shutil.copytree(serving.DEMO, model)
    path = model / "tekken.json"
    data = json.loads(path.read_text())
    swap = {one: other, other: one}
    for token in data["special_tokens"]:
        token["token_str"] = swap.get(token["token_str"],
                                      token["token_str"])
    path.write_text(json.dumps(data))
    server = make_server(model=model, served_name="default")
    status, out = evaluate(server, "--quick", "--no-images")
    assert status == 1, out
    assert "no-thinking" in out and "below the bar" in out
