"""Many streams through nginx, measured by siroccoctl bench. The full load and
its table are in the README; this one is small enough for every run."""

import json
import subprocess

import serving

MEASURE = serving.TOP / "contrib/measure"


def measure(*arguments):
    done = subprocess.run(
        [MEASURE, "--build", serving.BUILD, "--json", *arguments],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_paced_streams_keep_their_pace():
    got = measure("--streams", "200", "--rate", "20", "--tokens", "60",
                  "--slack", "10000")
    assert (got["requests"], got["failed"], got["behind"]) == (200, 0, 0)
    assert got["tokens"] == 200 * 60
    # Nothing is bundled or lost while the client reads.
    assert got["events"] == got["tokens"]
    # The README has the figure; this only catches a cost of another order.
    assert got["daemon_cpu_us_token"] < 60
    assert got["daemon_peak"] < 64e6


def test_whole_replies_at_full_speed():
    got = measure("--streams", "8", "--requests", "200", "--rate", "0",
                  "--tokens", "40", "--no-stream")
    assert (got["requests"], got["failed"]) == (200, 0)
    assert got["tokens"] == 200 * 40
