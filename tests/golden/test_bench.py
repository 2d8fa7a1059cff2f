"""siroccoctl bench engine: the numbers agree with a pace that is known."""

import json

import pytest

import ctl


def bench(*arguments):
    done = ctl.run("bench", "engine", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_decode_has_the_pace_of_the_back_end():
    one, ten = bench("--backend", "null:rate=100", "--batches", "1,10",
                     "--prefills", "", "--tokens", "20", "--runs", "3")
    assert (one["batch"], ten["batch"]) == (1, 10)
    # Both 100 tokens a second and sequence; a busy machine may be slower.
    assert 70 < one["tokens_s"] < 125
    assert 700 < ten["tokens_s"] < 1250
    for row in one, ten:
        assert row["lowest"] <= row["tokens_s"] <= row["highest"]
        assert row["runs"] == 3


def test_prefill_lines():
    rows = bench("--backend", "null:rate=0", "--batches", "2", "--prefills",
                 "64,1000", "--runs", "2")
    assert [r["what"] for r in rows] == ["decode", "prefill", "prefill"]
    assert [r["tokens"] for r in rows[1:]] == [64, 1000]
    assert all(r["tokens_s"] > 0 for r in rows)


@pytest.mark.parametrize("arguments", [
    [], ["both"], ["engine", "--batches", "0"], ["engine", "--batches", "1,x"],
    ["engine", "--runs", "0"], ["serve", "--url", "ftp://x"],
    ["serve", "--streams", "0"],
])
def test_wrong_command_lines_are_told(arguments):
    done = ctl.run("bench", *arguments)
    assert done.returncode == 2
    assert done.stderr and not done.stdout


def test_a_failing_back_end_is_told():
    done = ctl.run("bench", "engine", "--backend", "null:fail=5")
    assert done.returncode == 1
    assert "as told" in done.stderr


def test_nobody_listens():
    done = ctl.run("bench", "serve", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot reach" in done.stderr
