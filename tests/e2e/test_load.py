"""Many streams through nginx, measured by siroccoctl bench. The full load and
its table are in the README; this one is small enough for every run."""

import json
import subprocess

import pytest
import serving

MEASURE = serving.TOP / "contrib/measure"


def measure(*arguments):
    done = subprocess.run(
        [MEASURE, "--build", serving.BUILD, "--json", *arguments],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_paced_streams_keep_their_pace():
    """AC-48"""
    got, = measure("--streams", "200", "--rate", "20", "--tokens", "60",
                  "--slack", "10000")
    assert (got["requests"], got["failed"], got["behind"]) == (200, 0, 0)
    assert got["tokens"] == 200 * 60
    assert got["prompt_tokens"] > 2 * 30
    # All streams at the pace of the device, never above it.
    assert 0 < got["full_tokens_s"] < 1.1 * 200 * 20
    # Nothing is bundled or lost while the client reads.
    assert got["events"] == got["tokens"]
    # The README has the figure; this only catches a cost of another order.
    assert got["daemon_cpu_us_token"] < 60
    assert got["daemon_peak"] < 64e6


def test_whole_replies_at_full_speed():
    got, = measure("--streams", "8", "--requests", "200", "--rate", "0",
                  "--tokens", "40", "--no-stream")
    assert (got["requests"], got["failed"]) == (200, 0)
    assert got["tokens"] == 200 * 40


def test_several_runs_are_summed_up():
    *runs, total = measure("--streams", "4", "--rate", "0", "--tokens", "30",
                           "--runs", "3")
    assert len(runs) == 3
    assert (total["runs"], total["streams"]) == (3, 4)
    assert (total["requests"], total["failed"]) == (12, 0)
    for name in "tokens_s", "full_tokens_s":
        rates = sorted(run[name] for run in runs)
        got = total[name]
        assert [got["lowest"], got["median"], got["highest"]] \
            == pytest.approx(rates, abs=0.1)
        assert got["spread"] == pytest.approx(
            (rates[2] - rates[0]) / rates[1], abs=1e-3)
    assert total["ttft_ms"]["lowest"] > 0 and "gap_ms" in total


def test_prompts_of_ids():
    got, = measure("--streams", "4", "--rate", "0", "--tokens", "9",
                   "--prompt-ids", "123", "--set", "max_context=200")
    assert (got["requests"], got["failed"]) == (4, 0)
    assert got["prompt_tokens"] == 123
    assert got["tokens"] == 4 * 9


def test_a_model_and_its_pauses():
    """The demo model by one and four streams; the cpu back end has a clock."""
    rows = measure("--streams", "1,4", "--rate", "0", "--tokens", "12",
                   "--prompt-words", "10", "--set", "backend=cpu", "--set",
                   f"model={serving.DEMO}")
    for got, pause in zip(rows[::2], rows[1::2], strict=True):
        assert got["failed"] == 0
        assert got["tokens"] == 12 * got["requests"]
        assert pause["pauses"] >= 11
        assert 0 < pause["pause_us_p50_under"] < 1e5


def test_the_cost_of_a_request():
    """Counted by the kernel, outside the engine; the README has the figure
    for 10,000 tokens and 30 tools."""
    done = subprocess.run(
        [serving.TOP / "contrib/measure-request", "--build", serving.BUILD,
         "--json", "--requests", "3", "--prompt-tokens", "2000", "--tools",
         "5"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["prompt_tokens"] >= 2000 and got["tools"] == 5
    # A cost of another order, which no busy machine can make.
    assert 0.01 < got["median_ms"] < 50 and got["first_ms"] < 100
    assert got["engine_median_ms"] > 0
