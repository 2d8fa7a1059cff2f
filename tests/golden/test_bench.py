"""siroccoctl bench engine: the numbers agree with a pace that is known."""

import json
import subprocess

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
        assert row["spread"] == pytest.approx(
            (row["highest"] - row["lowest"]) / row["tokens_s"], abs=1e-3)
        assert row["runs"] == 3
        assert "gb_s" not in row and "experts_a_layer" not in row


def test_prefill_lines():
    rows = bench("--backend", "null:rate=0", "--batches", "2", "--prefills",
                 "64,1000", "--runs", "2")
    assert [r["what"] for r in rows] == ["decode", "prefill", "prefill"]
    assert [r["tokens"] for r in rows[1:]] == [64, 1000]
    assert all(r["tokens_s"] > 0 for r in rows)


DEMO = ctl.TOP / "contrib/demo-model/model"


def test_experts_and_the_bytes_they_need():
    """The demo model takes 4 of 8 experts a token and layer."""
    one, six, prompt = bench("--model", DEMO, "--batches", "1,6",
                             "--prefills", "200", "--tokens", "24")
    assert one["experts_a_layer"] == 4
    assert 4 < six["experts_a_layer"] <= prompt["experts_a_layer"] <= 8
    for row in one, six, prompt:
        assert row["runs"] == 5
        assert row["gb_s"] > 0 and row["tflop_s"] > 0
        assert "of_roof" not in row
    # A step of one token reads what the files hold, less the other experts
    # and the embedding.
    size = sum(p.stat().st_size for p in DEMO.glob("*.safetensors"))
    assert 0.1 * size < one["gb_s"] * 1e9 / one["tokens_s"] < 0.9 * size


@pytest.mark.parametrize("roof, unit", [("10,1000", "gb_s"),
                                        ("10000,0.001", "tflop_s")])
def test_the_roof_is_the_slower_of_bytes_and_operations(roof, unit):
    for row in bench("--model", DEMO, "--batches", "1", "--prefills", "300",
                     "--tokens", "24", "--roof", roof):
        a_token = row[unit] / row["tokens_s"]
        least = 10 if unit == "gb_s" else 0.001
        assert row["roof_tokens_s"] == pytest.approx(least / a_token,
                                                     rel=0.05)
        assert row["of_roof"] == pytest.approx(
            row["tokens_s"] / row["roof_tokens_s"], rel=0.05)


def test_the_lines_for_people():
    done = ctl.run("bench", "engine", "--model", DEMO, "--batches", "2",
                   "--prefills", "", "--runs", "2", "--tokens", "9",
                   "--roof", "100")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("decode   batch 2 ")
    assert "in 2 runs, spread " in first
    assert "experts a layer and step: " in second
    assert " GB/s, " in second and " % of a roof of " in second


@pytest.mark.parametrize("arguments", [
    [], ["both"], ["engine", "--batches", "0"], ["engine", "--batches", "1,x"],
    ["engine", "--runs", "0"], ["serve", "--url", "ftp://x"],
    ["serve", "--streams", "0"], ["serve", "--runs", "0"],
    ["engine", "--roof", "4800,x"],
])
def test_wrong_command_lines_are_told(arguments):
    done = ctl.run("bench", *arguments)
    assert done.returncode == 2
    assert done.stderr and not done.stdout


@pytest.mark.parametrize("what", ["serve", "engine"])
def test_an_unknown_argument_names_help_that_exists(what):
    done = ctl.run("bench", what, "--nonsense")
    assert done.returncode == 2
    hint = done.stderr.split("see siroccoctl ")[1].split()
    assert "--nonsense" not in hint
    assert ctl.run(*hint).returncode == 0


def test_full_size_says_what_has_to_be_made(tmp_path):
    done = subprocess.run([ctl.TOP / "contrib/full-size", "--build",
                           tmp_path, tmp_path / "files"],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "siroccoctl is not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_back_end_is_told():
    done = ctl.run("bench", "engine", "--backend", "null:fail=5")
    assert done.returncode == 1
    assert "as told" in done.stderr


def test_nobody_listens():
    done = ctl.run("bench", "serve", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot reach" in done.stderr
