"""Fixtures: servers that live for a test module, and one made to order."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import serving  # noqa: E402


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo model on the CPU back end, behind nginx."""
    if not (serving.DEMO / "params.json").exists():
        pytest.skip("the demo model is not in this tree")
    server = serving.Server(tmp_path_factory.mktemp("demo"),
                            model=serving.DEMO, served_name="demo,default")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def make_server(tmp_path):
    """make_server(key=value, ...) starts a server of its own for a test."""
    made = []

    def make(replace=(), extra="", **conf):
        server = serving.Server(tmp_path / f"server{len(made)}", replace,
                                extra, **conf)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.stop()
