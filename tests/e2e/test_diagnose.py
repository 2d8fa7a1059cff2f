"""siroccoctl diagnose, on installations with one thing wrong each."""

import os
import shutil
import subprocess

import pytest

import serving

TEKKEN = serving.DEMO / "tekken.json"
ROOT = os.geteuid() == 0


def diagnose(conf, *arguments):
    """(exit status, {part: its lines}) with the marks in the lines."""
    if ROOT and "--web-user" not in arguments:
        arguments += ("--web-user", "root")
    if ROOT and "--user" not in arguments:
        arguments += ("--user", "root")
    done = subprocess.run(
        [serving.BUILD / "siroccoctl", "diagnose", "--config", conf,
         *map(str, arguments)], capture_output=True, text=True)
    parts, last = {}, None
    for line in done.stdout.splitlines()[:-1]:
        if line.lstrip().startswith("->"):
            parts[last][-1] += line
            continue
        last = line[7:21].strip()
        parts.setdefault(last, []).append(line[:7] + line[22:])
    return done.returncode, parts


def wrong(parts):
    return {name: " ".join(x for x in lines if x.startswith("WRONG"))
            for name, lines in parts.items()
            if any(x.startswith("WRONG") for x in lines)}


def write(path, **keys):
    path.write_text("".join(f"{k} = {v}\n" for k, v in keys.items()))
    return path


def null_conf(tmp_path, **keys):
    return write(tmp_path / "c", **{
        "backend": "null", "tokenizer": TEKKEN, "socket": tmp_path / "s",
        **keys})


def test_a_server_in_order(tmp_path):
    server = serving.Server(tmp_path, backend="null", tokenizer=TEKKEN)
    try:
        server.start()
        conf = server.daemon.conf_path
        status, parts = diagnose(conf, "--url", server.url)
        assert status == 0 and not wrong(parts), parts
        assert "health answers 200" in parts["web server"][0]
        assert "a server listens" in parts["socket"][0]
        assert parts["memory"][0].startswith("-")

        nobody = f"http://127.0.0.1:{serving.free_port()}"
        status, parts = diagnose(conf, "--url", nobody)
        assert status == 1 and set(wrong(parts)) == {"web server"}

        server.daemon.stop()
        status, parts = diagnose(conf, "--url", server.url)
        assert set(wrong(parts)) == {"socket", "web server"}
        assert "systemctl status siroccod" in wrong(parts)["socket"]
        assert "waits for siroccod" in wrong(parts)["web server"]
        assert parts["memory"][0].startswith("ok")
    finally:
        server.stop()


def test_nginx_with_another_socket(tmp_path):
    server = serving.Server(
        tmp_path, backend="null", tokenizer=TEKKEN,
        replace=[(f"{tmp_path}/daemon/fcgi.sock", f"{tmp_path}/elsewhere")])
    try:
        server.start()
        status, parts = diagnose(server.daemon.conf_path, "--url", server.url)
        assert status == 1 and set(wrong(parts)) == {"web server"}
        assert "does not reach the socket" in wrong(parts)["web server"]
    finally:
        server.stop()


@pytest.mark.skipif(not ROOT, reason="needs root to be others")
def test_rights_are_tried_as_who_needs_them(tmp_path):
    os.chmod(tmp_path, 0o700)
    daemon = serving.Daemon(tmp_path / "d", backend="null", tokenizer=TEKKEN)
    try:
        daemon.start()
        status, parts = diagnose(daemon.conf_path, "--user", "nobody",
                                 "--web-user", "nobody")
        assert status == 1 and set(wrong(parts)) == {"rights", "socket"}
        assert "nobody may not" in wrong(parts)["rights"]
        assert "sirocco.conf: Permission denied" in wrong(parts)["rights"]
        assert "socket_group" in wrong(parts)["socket"]
        status, parts = diagnose(daemon.conf_path, "--user", "no-such-user")
        assert "cannot become user no-such-user" in wrong(parts)["rights"]
    finally:
        daemon.stop()


def test_every_mistake_of_the_configuration(tmp_path):
    conf = write(tmp_path / "c", backend="null:speed=1", sokcet="/x",
                 socket="/nonexistent/s", tokenizer=tmp_path / "none")
    status, parts = diagnose(conf)
    said = wrong(parts)["configuration"]
    assert status == 1
    for text in ("no key 'speed'", "sokcet", "/nonexistent", "none"):
        assert text in said, text
    status, parts = diagnose(tmp_path / "missing")
    assert status == 1 and "missing" in wrong(parts)["configuration"]


def test_a_damaged_model(tmp_path):
    model = tmp_path / "m"
    shutil.copytree(serving.DEMO, model)
    weights = next(model.glob("*.safetensors"))
    with open(weights, "r+b") as f:
        f.truncate(weights.stat().st_size - 5)
    conf = write(tmp_path / "c", model=model, backend="cpu",
                 socket=tmp_path / "s")
    status, parts = diagnose(conf)
    assert status == 1 and weights.name in wrong(parts)["model"]
    assert "truncated" in wrong(parts)["model"]
    assert "cannot be planned" in parts["memory"][0]
    (model / "tekken.json").unlink()
    _, parts = diagnose(conf)
    assert "tekken.json" in wrong(parts)["tokenizer"]


def test_a_plan_that_does_not_fit(tmp_path):
    conf = write(tmp_path / "c", model=serving.DEMO, backend="cpu",
                 kv_cache="50T", socket=tmp_path / "s")
    _, parts = diagnose(conf)
    assert set(wrong(parts)) == {"memory", "socket"}
    assert "are needed" in wrong(parts)["memory"]
    assert "lower kv_cache" in wrong(parts)["memory"]


def test_a_gpu_that_is_not_there(tmp_path):
    listed = subprocess.run([serving.BUILD / "siroccod", "-v"],
                            capture_output=True, text=True).stdout
    if " cuda " not in listed or os.path.exists("/dev/nvidia0"):
        pytest.skip("has a GPU, or was built without CUDA")
    conf = write(tmp_path / "c", model=serving.DEMO, backend="cuda",
                 socket=tmp_path / "s")
    _, parts = diagnose(conf)
    assert "no NVIDIA driver found" in wrong(parts)["back end"]
