"""contrib/quickstart as a newcomer runs it."""

import json
import os
import signal
import socket
import subprocess
import urllib.request

import pytest

import serving

QUICKSTART = serving.TOP / "contrib/quickstart"

pytestmark = pytest.mark.skipif(
    serving.BUILD != serving.TOP / "build"
    or not (serving.DEMO / "params.json").exists(),
    reason="quickstart builds in build/ and shows the demo model")


def quickstart(*arguments, timeout=300):
    return subprocess.run([QUICKSTART, *map(str, arguments)],
                          capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def port():
    yield serving.free_port()
    quickstart("--stop")


def pids():
    return {name: (serving.BUILD / f"run/{name}.pid").read_text().strip()
            for name in ("siroccod", "nginx")}


def test_from_nothing_to_a_chat_and_back(port):
    """AC-40"""
    first = quickstart("--port", port)
    assert first.returncode == 0, first.stdout + first.stderr
    for shown in ("thinking:", "answer:", "tool call:", "--stop",
                  f"http://127.0.0.1:{port}/v1"):
        assert shown in first.stdout
    running = pids()

    second = quickstart("--port", port)
    assert second.returncode == 0 and "already running" in second.stdout
    assert pids() == running, "a second run must not start a second server"

    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body.encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        message = json.load(reply)["choices"][0]["message"]
    assert message["content"]

    assert quickstart("--stop").returncode == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models")


def test_a_taken_port_costs_no_server_that_runs(port):
    assert quickstart("--port", port).returncode == 0
    running = pids()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = quickstart("--port", other.getsockname()[1])
    assert done.returncode != 0 and "is taken" in done.stderr
    assert pids() == running
    os.kill(int(running["siroccod"]), signal.SIGKILL)
    again = quickstart("--port", port)
    assert again.returncode == 0, again.stdout + again.stderr
    assert pids()["siroccod"] != running["siroccod"]
    assert "answer:" in again.stdout


@pytest.mark.parametrize("arguments, said", [
    (["--port", "80"], "1024"), (["--port", "x"], "no number"),
    (["--port"], "needs a value"), (["--nonsense"], "unknown argument"),
    (["--model", "/no/such/dir"], "no checkpoint directory"),
])
def test_mistakes_are_told(arguments, said):
    done = quickstart(*arguments)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_model_that_does_not_load_is_told(port, tmp_path):
    (tmp_path / "params.json").write_text("{}")
    done = quickstart("--port", port, "--model", tmp_path)
    assert done.returncode != 0
    assert "siroccod did not start" in done.stderr
    assert str(tmp_path) in done.stderr
