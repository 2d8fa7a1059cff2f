"""Random checkpoints of the release's form, and packed files of them."""

import json
import os
import signal
import subprocess

import pytest

import ctl

MAKE = ctl.BUILD / "tests/golden/make_release"
CUDA = "#define HAVE_CUDA 1" in (ctl.BUILD / "config.h").read_text()
HEADER = 65536

PARAMS = {
    "dim": 128, "n_layers": 2, "n_heads": 2, "vocab_size": 256,
    "q_lora_rank": 64, "kv_lora_rank": 256, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "norm_eps": 1e-6,
    "rope_theta": 10000.0, "max_position_embeddings": 4096,
    "tied_embeddings": False,
    "moe": {"num_experts": 8, "num_experts_per_tok": 2,
            "num_shared_experts": 1, "expert_hidden_dim": 192},
}
FORMS = {
    "nvfp4": {"quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized"}},
    "fp8": {"quantization": {"qformat_weight": "fp8_e4m3",
                             "qscheme_act": "TENSOR"}},
    "bf16": {},
    "images": {"vision_encoder": {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 192, "patch_size": 14, "num_channels": 3,
        "image_size": 56, "max_image_size": 56, "rope_theta": 10000.0,
        "spatial_merge_size": 2, "mm_projector_id": "patch_merge",
        "add_pre_mm_projector_layer_norm": True, "adapter_bias": False,
        "image_token_id": 10, "image_break_token_id": 12,
        "image_end_token_id": 13}},
}


def make(path, form):
    path.mkdir()
    (path / "params.json").write_text(json.dumps(PARAMS | FORMS[form]))
    subprocess.run([MAKE, path], check=True, stdout=subprocess.DEVNULL)
    return path


def test_the_release_has_its_size(tmp_path):
    """Counts of the published index."""
    out = subprocess.run([MAKE, "-n", tmp_path], check=True,
                         capture_output=True, text=True).stdout
    assert out == "56313 tensors, 70801959560 bytes\n"


def test_the_release_in_fp8_has_its_size(tmp_path):
    """120.9 GB, see the model's page."""
    out = subprocess.run([MAKE, "-n", "-8", tmp_path], check=True,
                         capture_output=True, text=True).stdout
    assert out == "42741 tensors, 120922845440 bytes\n"


def test_a_second_folder_stays_empty_while_there_is_room(tmp_path):
    where, more = tmp_path / "m", tmp_path / "more"
    for d in where, more:
        d.mkdir()
    (where / "params.json").write_text(json.dumps(PARAMS | FORMS["fp8"]))
    subprocess.run([MAKE, where, "2", more], check=True,
                   stdout=subprocess.DEVNULL)
    assert len(list(where.glob("*.safetensors"))) == 13
    assert not list(more.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_files_hold_what_a_dummy_load_makes(form, tmp_path):
    where = make(tmp_path / "m", form)
    shards = sorted(p.name for p in where.glob("*.safetensors"))
    assert len(shards) == 13
    ids = [list(range(3, 200, 7))]
    files = ctl.lines("score", "--model", where, values=ids)
    dummy = ctl.lines("score", "--model", where, "--dummy", values=ids)
    assert files == dummy
    last = (where / shards[-1]).read_bytes()
    header = json.loads(last[8:8 + int.from_bytes(last[:8], "little")])
    kinds = {n.rsplit(".", 1)[1] for n in header if n != "__metadata__"}
    assert kinds == {"nvfp4": {"input_global_scale"}, "fp8": {"qscale_act"},
                     "bf16": set(), "images": set()}[form]


@pytest.mark.skipif(not CUDA, reason="built without CUDA")
@pytest.mark.parametrize("form", FORMS)
def test_packing_files_is_packing_their_weights(form, tmp_path):
    """What is read from the files ends where the generated weights do."""
    where = make(tmp_path / "m", form)
    files, dummy = tmp_path / "files", tmp_path / "dummy"
    for out, more in ((files, []), (dummy, ["--dummy"])):
        done = ctl.run("pack", "--model", where, "--out", out, *more)
        assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.part"))
    a, b = files.read_bytes(), dummy.read_bytes()
    assert len(a) > sum(p.stat().st_size
                        for p in where.glob("*.safetensors")) * 0.9
    assert a[HEADER:] == b[HEADER:]
    said = a[:HEADER].rstrip(b"\0").decode().splitlines()
    assert said[0] == "sirocco packed weights"
    named = [x.split()[3] for x in said if x.startswith("file ")]
    index = json.loads(
        (where / "consolidated.safetensors.index.json").read_text())
    assert named == sorted(set(index["weight_map"].values()))
    assert b"random weights" in b[:HEADER]


@pytest.mark.skipif(not CUDA, reason="built without CUDA")
def test_a_full_disk_is_told(tmp_path):
    where = make(tmp_path / "m", "bf16")
    limit = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh"]
    done = subprocess.run(
        [*limit, ctl.PROGRAM, "pack", "--model", where, "--out",
         tmp_path / "p"], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    assert done.returncode == 1
    assert "no room" in done.stderr and str(tmp_path / "p") in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_pack_says_what_it_needs(tmp_path):
    assert ctl.run("pack", "--model", tmp_path).returncode == 2
    done = ctl.run("pack", "--model", tmp_path, "--out", tmp_path / "x")
    assert done.returncode == 1
    assert (str(tmp_path) if CUDA else "without CUDA") in done.stderr


def test_only_cuda_loads_packed_weights(tmp_path):
    packed = tmp_path / "p"
    packed.write_text("x")
    model = ctl.TOP / "contrib/demo-model/model"
    done = ctl.run("score", "--model", model, "--packed", packed)
    assert done.returncode == 1
    assert "does not load packed weights" in done.stderr
    conf = tmp_path / "c"
    conf.write_text(f"model = {model}\nbackend = cpu\npacked = {packed}\n")
    done = ctl.run("check", "--config", conf)
    assert done.returncode == 1
    assert "packed: the back end 'cpu'" in done.stderr
