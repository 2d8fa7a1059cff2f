"""Starts the real siroccod behind a real nginx, in a directory of its own.

The nginx files are those of the tree, with their paths put in; the daemon is
the one in the build directory. Everything listens on the loopback interface
or on UNIX sockets and goes away with the test.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"]).resolve()
BUILD = pathlib.Path(os.environ["SIROCCO_BUILDDIR"]).resolve()
DEMO = TOP / "contrib/demo-model/model"

# Lower-case hex, as the key file asks for.
KEY = "sk-00112233445566778899aabbccddeeff0011223344556677"
OTHER_KEY = "sk-ffeeddccbbaa99887766554433221100ffeeddccbbaa9988"


def free_ports(n):
    """Ports that nobody has, all different: each is held until all are."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def free_port():
    return free_ports(1)[0]


def wait_for(what, condition, timeout=30.0, process=None):
    """Polls condition; fails with what, or when the process ends first."""
    until = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: process ended with "
                               f"{process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.02)


class Daemon:
    """A siroccod with a configuration of its own."""

    def __init__(self, directory, **conf):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.socket = self.dir / "fcgi.sock"
        self.conf_path = self.dir / "sirocco.conf"
        self.conf = {"socket": self.socket, "reserve": "64M", **conf}
        self.log_path = self.dir / "siroccod.log"
        self.process = None

    def write_conf(self):
        self.conf_path.write_text(
            "".join(f"{k} = {v}\n" for k, v in self.conf.items()))

    def start(self, timeout=60.0):
        self.write_conf()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [BUILD / "siroccod", "-c", self.conf_path],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for("siroccod is ready", self.socket.exists, timeout,
                     self.process)
        except (RuntimeError, TimeoutError) as e:
            raise RuntimeError(f"{e}\n{self.log()}") from e
        return self

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self, sig=signal.SIGTERM, timeout=20.0):
        """Ends the daemon and returns its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process = None
        return status

    def rss(self):
        """Resident bytes."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read()
        fields = fields.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


NGINX_MAIN = """\
daemon off;
worker_processes 2;
worker_rlimit_nofile 8192;
error_log {dir}/error.log warn;
pid {dir}/nginx.pid;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    fastcgi_temp_path {dir}/fastcgi;
    proxy_temp_path {dir}/proxy;
    scgi_temp_path {dir}/scgi;
    uwsgi_temp_path {dir}/uwsgi;
    default_type application/octet-stream;
    include {etc}/sirocco/nginx/sirocco-http.conf;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl http2;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        {extra}
        include {etc}/sirocco/nginx/sirocco-errors.conf;
        include {etc}/sirocco/nginx/sirocco-locations.conf;
    }}
}}
"""


class Nginx:
    """A private nginx in front of a daemon, with the tree's own files."""

    def __init__(self, directory, daemon, replace=(), extra=""):
        self.dir = pathlib.Path(directory)
        self.daemon = daemon
        self.replace = list(replace)    # (old, new) in the tree's files
        self.extra = extra              # directives of the server block
        self.port, self.tls_port = free_ports(2)
        self.process = None

    def _files(self):
        etc = self.dir / "etc"
        target = etc / "sirocco/nginx"
        target.mkdir(parents=True, exist_ok=True)
        for source in (TOP / "nginx").iterdir():
            if source.suffix not in (".conf", ".in"):
                continue
            text = source.read_text().replace("@sysconfdir@", str(etc))
            text = text.replace("unix:@runstatedir@/sirocco/fcgi.sock",
                                f"unix:{self.daemon.socket}")
            for old, new in self.replace:
                text = text.replace(old, new)
            (target / source.name.removesuffix(".in")).write_text(text)
        (etc / "sirocco/api-keys.map").write_text(
            f'"Bearer {KEY}" "alice";\n"Bearer {OTHER_KEY}" "bob";\n')
        return etc

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        etc = self._files()
        if not (self.dir / "cert.pem").exists():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                 "-subj", "/CN=localhost", "-addext",
                 "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
                 self.dir / "key.pem", "-out", self.dir / "cert.pem"],
                check=True, capture_output=True)
        main = NGINX_MAIN.format(
            dir=self.dir, etc=etc, port=self.port, tls_port=self.tls_port,
            extra=self.extra,
            user="user root;" if os.geteuid() == 0 else "")
        conf = self.dir / "nginx.conf"
        conf.write_text(main)
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen(
            [nginx, "-p", self.dir, "-c", conf, "-e",
             self.dir / "error.log"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def listening():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        try:
            wait_for("nginx listens", listening, 10, self.process)
        except RuntimeError as e:
            raise RuntimeError(self.process.stderr.read().decode()) from e
        return self

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait(10)
        self.process = None


class Server:
    """Daemon and nginx together, and small ways to ask them things."""

    def __init__(self, directory, replace=(), extra="", **conf):
        directory = pathlib.Path(directory)
        self.daemon = Daemon(directory / "daemon", **conf)
        self.nginx = Nginx(directory / "nginx", self.daemon, replace, extra)

    def start(self):
        self.daemon.start()
        self.nginx.start()
        return self

    def stop(self):
        self.nginx.stop()
        return self.daemon.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.nginx.port}"

    def request(self, method, path, body=None, headers=None, key=KEY,
                timeout=60):
        """(status, headers, body) of one request; body may be bytes or JSON
        data, and comes back as bytes."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        all_headers = {"Content-Type": "application/json"}
        if key:
            all_headers["Authorization"] = f"Bearer {key}"
        all_headers.update(headers or {})
        req = urllib.request.Request(self.url + path, data=body,
                                     method=method, headers=all_headers)
        try:
            with urllib.request.urlopen(req, timeout=timeout) as r:
                return r.status, r.headers, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read()

    def json(self, method, path, body=None, **options):
        """(status, parsed body)"""
        status, _, data = self.request(method, path, body, **options)
        return status, json.loads(data)

    def metrics(self):
        """Sample values by name with labels, without the model's name."""
        status, _, data = self.request("GET", "/metrics")
        assert status == 200
        out = {}
        for line in data.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                if "{" not in name:
                    out[name] = float(value)
                    continue
                labels = name[name.find("{") + 1:-1].split(",")
                kept = [x for x in labels if not x.startswith("model_name=")]
                name = name[:name.find("{")]
                out[name + ("{" + ",".join(kept) + "}" if kept else "")] = \
                    float(value)
        return out

    def openai(self, key=KEY, **options):
        from openai import OpenAI
        return OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0,
                      **options)


def sse(data):
    """Events of a stream's bytes: parsed JSON, or "[DONE]"."""
    events = []
    for block in data.decode().split("\n\n"):
        for line in block.split("\n"):
            if line.startswith("data: "):
                text = line[6:]
                events.append(text if text == "[DONE]" else json.loads(text))
    return events
