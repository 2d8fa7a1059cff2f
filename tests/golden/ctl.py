"""Runs siroccoctl's line commands: values in, values out."""

import json
import os
import pathlib
import subprocess

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"]).resolve()
BUILD = pathlib.Path(os.environ["SIROCCO_BUILDDIR"]).resolve()
PROGRAM = BUILD / "siroccoctl"


def run(*arguments, text="", timeout=300):
    """The finished process of one call."""
    return subprocess.run([PROGRAM, *map(str, arguments)], input=text,
                          capture_output=True, text=True, timeout=timeout)


def lines(*arguments, values, timeout=300):
    """Answers to values, one JSON value a line each way."""
    text = "".join(json.dumps(v) + "\n" for v in values)
    done = run(*arguments, text=text, timeout=timeout)
    assert done.returncode in (0, 1), done.stderr
    out = [json.loads(x) for x in done.stdout.split("\n")[:-1]]
    assert len(out) == len(values), done.stderr
    return out
