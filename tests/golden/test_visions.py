"""Image vectors and log-probabilities behind them against transformers'
Mistral3 over Mistral4, for tiny checkpoints in both layouts.

visions.json holds the oracle's numbers (make_visions.py); the checkpoints are
made again here from their seeds.
"""

import json
import pathlib
import subprocess

import numpy as np
import pytest

import ctl
import tiny_visions

HERE = pathlib.Path(__file__).parent
PROBE = ctl.BUILD / "tests/golden/vision_probe"
CASES = {c["model"]: c for c in
         json.loads((HERE / "visions.json").read_text())["cases"]}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    top = tmp_path_factory.mktemp("visions")
    made = {}

    def get(model, layout):
        path = top / f"{model}-{layout}"
        if path not in made:
            made[path] = True
            tiny_visions.write(path, model, layout)
        return path

    return get


def run(path, model, step):
    pixels = tiny_visions.pixels(model)
    file = path / "pixels.f32"
    file.write_bytes(pixels.tobytes())
    done = subprocess.run(
        [PROBE, path, file, *map(str, pixels.shape[1:]), str(step),
         *map(str, tiny_visions.sequence(model))],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("layout", ["native", "hf"])
@pytest.mark.parametrize("model", sorted(CASES))
def test_vectors_and_logprobs(checkpoints, model, layout):
    """AC-49"""
    got = run(checkpoints(model, layout), model, 512)
    for key, limit in (("vectors", 1e-4), ("next_logprob", 5e-4)):
        want = np.array(CASES[model][key])
        assert len(got[key]) == len(want)
        assert np.abs(np.array(got[key]) - want).max() < limit, key


@pytest.mark.parametrize("step", [1, 5, 16])
def test_an_image_may_be_cut_by_steps(checkpoints, step):
    whole = run(checkpoints("small", "native"), "small", 512)
    assert run(checkpoints("small", "native"), "small", step) == whole
