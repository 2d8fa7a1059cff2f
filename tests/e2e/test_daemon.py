"""siroccod as a program: options, exit codes, an inherited socket."""

import concurrent.futures
import re
import signal
import socket
import subprocess
import sys
import threading

import serving

TEKKEN = serving.DEMO / "tekken.json"
SIROCCOD = serving.BUILD / "siroccod"


def siroccod(*arguments):
    return subprocess.run([SIROCCOD, *arguments], capture_output=True,
                          text=True, timeout=60)


def null_options(tmp_path, **more):
    options = {"backend": "null:rate=0", "tokenizer": TEKKEN,
               "socket": tmp_path / "s", **more}
    return [a for k, v in options.items() for a in ("-o", f"{k}={v}")]


def test_version_and_help():
    done = siroccod("-v")
    assert done.returncode == 0
    assert done.stdout.startswith("sirocco ")
    assert "cpu" in done.stdout and "null" in done.stdout
    done = siroccod("-h")
    assert done.returncode == 0 and "usage: siroccod" in done.stdout


def test_wrong_command_lines():
    for arguments in (["-x"], ["extra"], ["-c"], ["-o", "nonsense"],
                      ["-o", "no_such_key=1"], ["-c", "/nonexistent"]):
        done = siroccod(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr


def test_every_mistake_of_a_file_is_named(tmp_path):
    conf = tmp_path / "c"
    conf.write_text("sokcet = /tmp/x\nmax_running = many\nlog_level = loud\n")
    done = siroccod("-t", "-c", conf)
    assert done.returncode == 2
    assert f"{conf}:1" in done.stderr and "socket" in done.stderr
    assert f"{conf}:2" in done.stderr
    assert f"{conf}:3" in done.stderr


def test_a_back_end_that_is_not_there_is_a_mistake(tmp_path):
    for name, said in (("zzz", "no back end 'zzz'"), ("", "not set")):
        done = siroccod("-t", *null_options(tmp_path, backend=name))
        assert done.returncode == 2
        assert said in done.stderr


def test_the_check_looks_behind_the_keys(tmp_path):
    for options, text in (
            ({"backend": "null:speed=1"}, "backend: null: no key 'speed'"),
            ({"backend": "null:script=/none"}, "/none"),
            ({"backend": "cpu:cores=2", "model": serving.DEMO},
             "backend: cpu: unknown option"),
            ({"socket": "/nonexistent/s"},
             "socket: no such directory: /nonexistent/s"),
            ({"admin_socket": "/nonexistent/a"}, "admin_socket: no such")):
        done = siroccod("-t", *null_options(tmp_path, **options))
        assert done.returncode == 2, options
        assert text in done.stderr, (options, done.stderr)
    # The unit file makes the directory of the default.
    done = siroccod("-t", "-o", "backend=null", "-o", f"tokenizer={TEKKEN}")
    assert done.returncode == 0, done.stderr


def test_a_good_file_is_printed_back(tmp_path):
    conf = tmp_path / "c"
    conf.write_text(f"backend = null\ntokenizer = {TEKKEN}\n"
                    f"max_running = 7\nsocket = {tmp_path}/s\n")
    assert siroccod("-t", "-c", conf).returncode == 0
    done = siroccod("-T", "-c", conf, "-o", "max_queue=9")
    assert done.returncode == 0
    assert "max_running = 7" in done.stdout
    assert "max_queue = 9" in done.stdout
    again = tmp_path / "again"
    again.write_text(done.stdout)
    assert siroccod("-T", "-c", again).stdout == done.stdout


def test_starts_that_cannot_succeed_say_why(tmp_path):
    conf = tmp_path / "c"
    conf.write_text("")
    for options, text in (
            ({"tokenizer": tmp_path / "none"}, "none"),
            ({"backend": "nul", "model": serving.DEMO}, "no back end"),
            ({"backend": "cpu"}, "model"),
            ({"backend": "null:speed=1"}, "speed"),
            ({"socket": "/nonexistent/s"}, "/nonexistent/s")):
        done = siroccod("-c", conf, *null_options(tmp_path, **options))
        assert done.returncode in (2, 3), options
        assert text in done.stderr, (options, done.stderr)
        assert not (tmp_path / "s").exists()


def test_a_plan_that_does_not_fit_is_refused_with_its_table(tmp_path):
    """AC-41"""
    conf = tmp_path / "c"
    conf.write_text(f"model = {serving.DEMO}\nbackend = cpu\ndummy = on\n"
                    f"kv_cache = 50T\nsocket = {tmp_path}/s\n")
    done = siroccod("-c", conf)
    assert done.returncode == 3
    assert "GiB" in done.stderr and "free" in done.stderr
    assert "the plan needs" in done.stderr


def test_the_plan_says_how_many_tokens_fit(make_server):
    """Before the load; who gives less memory gets fewer."""
    def tokens(**conf):
        server = make_server(model=serving.DEMO, backend="cpu", **conf)
        line, = re.findall(r"the KV cache holds (\d+) tokens; one request may "
                           r"use (\d+)", server.daemon.log())
        return [int(x) for x in line]

    small, large = tokens(kv_cache="32M"), tokens(kv_cache="512M")
    assert 15 < large[0] / small[0] < 17
    assert small[1] == small[0] and large[1] == 32768


def test_a_small_cache_is_the_context_that_clients_see(make_server):
    server = make_server(model=serving.DEMO, backend="cpu", kv_cache="2M")
    most = server.json("GET", "/v1/models")[1]["data"][0]["max_model_len"]
    assert most < 1000
    assert "kv_cache is too small" in server.daemon.log()
    chat = {"messages": [{"role": "user", "content": "Hi"}],
            "ignore_eos": True}
    status, body = server.json("POST", "/v1/chat/completions",
                               {**chat, "max_tokens": most})
    assert status == 400
    assert f"maximum context length is {most}" in body["error"]["message"]
    status, body = server.json("POST", "/v1/chat/completions", chat)
    assert body["usage"]["total_tokens"] == most
    # Two that need all of it take turns.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        bodies = list(pool.map(lambda _: server.json(
            "POST", "/v1/chat/completions", chat)[1], range(2)))
    assert [b["usage"]["total_tokens"] for b in bodies] == [most, most]


def test_a_taken_socket_is_noticed_before_the_load(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    conf = tmp_path / "c"
    conf.write_text(f"model = {serving.DEMO}\nbackend = cpu\nkv_cache = 50T\n"
                    f"socket = {tmp_path}/s\n")
    done = siroccod("-c", conf)
    assert done.returncode == 3
    # The plan does not fit either, and that is only said by the load.
    assert "another server listens" in done.stderr
    # So is the admin socket, and a place that cannot be written.
    for name in ("s", "none/a"):
        done = siroccod("-c", conf, "-o", f"socket={tmp_path}/other", "-o",
                        f"admin_socket={tmp_path}/{name}")
        assert done.returncode == 3
        assert f"{tmp_path}/{name}" in done.stderr
        assert "the plan needs" not in done.stderr
    listener.close()


# Becomes siroccod with a descriptor of its own as descriptor 3, as systemd
# would start it.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Inherited:
    """A siroccod that was handed a listening socket."""

    def __init__(self, directory, listener):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, str(listener.fileno()),
             SIROCCOD, "-c", "/dev/null", *null_options(directory)],
            pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True)
        while "ready" not in self.process.stderr.readline():
            assert self.process.poll() is None
        threading.Thread(target=self.process.stderr.read,
                         daemon=True).start()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0


def test_requests_wait_in_an_inherited_socket_during_a_restart(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "fcgi.sock"))
    listener.listen(64)
    daemon = serving.Daemon(tmp_path)      # only for its socket's name
    assert daemon.socket == tmp_path / "fcgi.sock"
    nginx = serving.Nginx(tmp_path / "nginx", daemon)
    server = serving.Server.__new__(serving.Server)
    server.daemon, server.nginx = daemon, nginx
    nginx.start()
    first = Inherited(tmp_path, listener)
    try:
        assert server.request("GET", "/v1/models")[0] == 200
        first.stop()
        replies = []
        waiting = threading.Thread(target=lambda: replies.append(
            server.request("GET", "/v1/models")[0]))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        first = Inherited(tmp_path, listener)
        waiting.join(10)
        assert replies == [200]
    finally:
        first.stop()
        nginx.stop()
        listener.close()
