"""cuda/check-resources on what ptxas might say, and the launches' own limit."""

import os
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
SOURCE = """
static __global__ void
__launch_bounds__(256)
plain(int n)
{
    __shared__ char sm[20000];
}

static __global__ void
__launch_bounds__(256)
asking(const __grid_constant__ job a)
{
    extern __shared__ char sm[];
    __shared__ float sum[33];
}
"""
LOG = """
ptxas info    : Compiling entry function '{name}' for '{part}'
ptxas info    : Function properties for {name}
    {frame} bytes stack frame, {frame} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, {smem} bytes smem, 400 {tail}
"""


def check(tmp_path, name="_Z5plaini", part="sm_121a", smem=0, frame=0,
          tail="bytes cmem[0]"):
    log, source = tmp_path / "x.o.log", tmp_path / "x.cu"
    log.write_text(LOG.format(name=name, part=part, smem=smem, frame=frame,
                              tail=tail))
    source.write_text(SOURCE)
    return subprocess.run(["sh", TOP / "cuda/check-resources", log, source],
                          capture_output=True, text=True)


@pytest.mark.parametrize("kernel", [
    {"smem": 20000}, {"smem": 101376},
    {"name": "_Z6asking3job", "smem": 132},
    {"name": "_Z6asking3job", "smem": 1024},
    {"name": "_Z6asking3job", "smem": 20000, "part": "sm_90a"},
    {"frame": 64},
])
def test_kernels_that_fit(tmp_path, kernel):
    done = check(tmp_path, **kernel)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kernel, said", [
    ({"smem": 101377}, "101377 bytes of shared memory"),
    ({"name": "_Z6asking3job", "smem": 1025}, "beside dynamic"),
    ({"name": "_ZN3lab6askingILi4EEEv3job", "smem": 4096}, "beside dynamic"),
    ({"smem": 232449, "part": "sm_90a"}, "at most 232448"),
    ({"frame": 68}, "68 bytes of registers spilled"),
    ({"tail": "C7512 potential performance loss"}, "C7512"),
])
def test_kernels_that_do_not(tmp_path, kernel, said):
    done = check(tmp_path, **kernel)
    assert done.returncode == 1
    assert said in done.stdout


def test_the_source_says_which_kernels_ask():
    """The check reads kernels' names the way they are written here."""
    for path in sorted((TOP / "cuda").glob("*.cu")):
        text = path.read_text()
        for at in re.finditer("extern __shared__", text):
            above = text[:at.start()]
            above = above[above.rindex("__global__"):]
            assert re.search(r"^[a-z][a-z_0-9]*\(", above, re.M), path.name


def test_a_launch_leaves_room_for_static_memory():
    text = (TOP / "cuda/part/device.cuh").read_text()
    limit = int(re.search(r"#define PORTABLE_SMEM (\d+)", text).group(1))
    static = int(re.search(r"#define STATIC_SMEM (\d+)", text).group(1))
    assert (limit, static) == (99 * 1024, 1024)
    assert "SMEM + STATIC_SMEM <= PORTABLE_SMEM" in text
