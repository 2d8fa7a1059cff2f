"""The documentation says what the code does."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
BUILD = pathlib.Path(os.environ.get("SIROCCO_BUILDDIR", TOP / "build"))


def table():
    """Keys of the configuration with their defaults, as siroccod has them."""
    out = subprocess.run([BUILD / "siroccod", "-T", "-o", "model=/"],
                         capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^#?(\w+) = ?(.*)$", out, re.M))


def test_sample_file_has_every_key():
    sample = (TOP / "etc/sirocco.conf.in").read_text()
    assert set(re.findall(r"^#(\w+) =", sample, re.M)) == set(table())


def test_sample_file_shows_the_defaults(tmp_path):
    """With every '#' in front of a key removed, nothing changes."""
    sample = (TOP / "etc/sirocco.conf.in").read_text()
    sample = sample.replace("@runstatedir@", "/run")
    active = re.sub(r"^#(\w+ =)", r"\1", sample, flags=re.M)
    path = tmp_path / "c"
    path.write_text(active)
    run = [BUILD / "siroccod", "-T", "-o", "model=/", "-o", "socket=/s"]
    plain = subprocess.run(run, capture_output=True, text=True, check=True)
    full = subprocess.run(run + ["-c", path], capture_output=True, text=True,
                          check=True)
    assert full.stdout == plain.stdout


def test_manual_has_every_key():
    page = (TOP / "src/daemon/sirocco.conf.5").read_text()
    assert set(re.findall(r"^\.It Ic (\w+)", page, re.M)) == set(table())


def test_reloadable_keys_are_marked():
    code = (TOP / "src/conf/conf_tab.c").read_text()
    rows = re.findall(r'(?:STRING|FLAG|VALUE)\("(\w+)",((?:[^"]|"[^"]*")*?)'
                      r'\b(true|false),\s*"', code)
    marked = {key for key, _, flag in rows if flag == "true"}
    page = (TOP / "src/daemon/sirocco.conf.5").read_text()
    items = re.split(r"^\.It Ic ", page, flags=re.M)[1:]
    said = {i.split()[0] for i in items
            if re.search(r"[Rr]eload\.$", i.split(".El")[0].rstrip())}
    assert said == marked


def test_manual_has_every_command_and_option():
    page = (TOP / "src/ctl/siroccoctl.1").read_text()
    code = (TOP / "src/ctl/main.c").read_text()
    rows = re.findall(r'\{"(\w+)",\s*((?:"[^"]*"\s*)+),', code)
    assert rows
    for name, usage in rows:
        assert f"Cm {name}" in page, name
        for option in re.findall(r"--([a-z-]+)", usage):
            assert f"Fl -{option}" in page, f"{name} --{option}"


@pytest.mark.skipif(not shutil.which("mandoc"), reason="no mandoc")
def test_manuals_have_no_mistakes():
    for page in TOP.glob("src/**/*.[1578]"):
        out = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page],
                             capture_output=True, text=True).stdout
        assert not out, out


def test_readme_names_every_room():
    readme = (TOP / "README").read_text()
    for room in sorted((TOP / "src").iterdir()):
        assert f"src/{room.name}" in readme, room.name


def test_the_example_for_sudo_names_whole_commands():
    lines = [x for x in (TOP / "contrib/sudoers").read_text().splitlines()
             if x and not x.startswith("#")]
    assert lines
    for line in lines:
        command = line.split("NOPASSWD: ")[1]
        assert re.fullmatch(r"/usr/bin/systemctl (restart|reload|status "
                            r"--no-pager) siroccod\.service", command), line


def test_no_key_is_shipped():
    """A fresh install lets nobody in."""
    for line in (TOP / "nginx/api-keys.map").read_text().splitlines():
        assert not line or line.startswith("#"), line


def test_the_compiler_gets_the_flags_that_configure_speaks_of():
    made = dict(re.findall(r"^(CFLAGS|OPT_CFLAGS) = ?(.*)$",
                           (BUILD / "Makefile").read_text(), re.M))
    given = subprocess.run([BUILD / "config.status", "--config"], text=True,
                           capture_output=True, check=True).stdout
    if "CFLAGS" in given or os.environ.get("CFLAGS"):
        pytest.skip("configured with flags of the user's own")
    level = "-O1" if "--enable-debug" in given else "-O2"
    assert made["CFLAGS"] == "" and level in made["OPT_CFLAGS"]
