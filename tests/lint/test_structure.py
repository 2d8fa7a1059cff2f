"""The rules of the tree's structure, as contrib/HACKING states them."""

import os
import pathlib
import re

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
ROOMS = sorted(p.name for p in (TOP / "src").iterdir() if p.is_dir())
SOURCES = [
    p
    for d in ("src", "cuda", "tests")
    for p in sorted((TOP / d).rglob("*"))
    if p.suffix in (".c", ".h", ".cu", ".cuh")
]


def allowed(page="contrib/HACKING"):
    """The table of allowed includes in a page, in its order."""
    table = {}
    text = (TOP / page).read_text()
    for rooms, may in re.findall(r"^    ([a-z, ]+?)  +: ([a-z, ()]+)$", text,
                                 re.M):
        for room in rooms.split(", "):
            table[room] = set(may.split(", "))
    return table


def test_every_room_is_in_the_table():
    assert set(ROOMS) <= set(allowed())


def test_rooms_include_only_what_the_table_allows():
    table = allowed()
    bad = []
    for path in SOURCES:
        parts = path.relative_to(TOP).parts
        room = parts[1] if parts[0] == "src" else parts[0]
        if room not in table or "any" in table[room]:
            continue
        for other in re.findall(r'^#include "(\w+)/', path.read_text(), re.M):
            if other in ROOMS + ["cuda"] and other != room \
                    and other not in table[room]:
                bad.append(f"{path.relative_to(TOP)} includes {other}/")
    assert not bad, "\n".join(bad)


# Folders of a room with sources in them (a build in the tree adds others).
SUBROOMS = {}
for parts in (p.relative_to(TOP).parts for p in SOURCES):
    if parts[0] == "src" and len(parts) > 3:
        SUBROOMS.setdefault(parts[1], set()).add(parts[2])


def test_subrooms_stand_in_their_tables_from_the_bottom_up():
    assert "grammar" in SUBROOMS
    for room, names in SUBROOMS.items():
        table = allowed(f"src/{room}/README")
        assert set(table) == names | {room}, room
        above = set()
        for name, may in table.items():
            if name != room:
                assert may - {"(none)"} <= above, f"{room}/{name}"
            above.add(name)


def test_subrooms_include_only_what_their_table_allows():
    """A sub-room sees its line of the table and <room>.h, the room all of
    its sub-rooms, other rooms none of them."""
    bad = []
    for room in SUBROOMS:
        table = allowed(f"src/{room}/README")
        for path in SOURCES:
            parts = path.relative_to(TOP).parts
            if parts[0] == "tests":
                continue
            inside = parts[:2] == ("src", room)
            here = parts[2] if inside and len(parts) > 3 else None
            for what in re.findall(rf'^#include "{room}/([\w/.]+)"',
                                   path.read_text(), re.M):
                other = what.split("/")[0] if "/" in what else None
                if here:
                    fine = other in table[here] | {here} if other \
                        else what == f"{room}.h"
                else:
                    fine = inside or other is None
                if not fine:
                    bad.append(f"{path.relative_to(TOP)} includes "
                               f"{room}/{what}")
    assert not bad, "\n".join(bad)


# A library and the rooms that may speak to it.
LIBRARY_ROOMS = {
    r"pcre2\.h": {"tok", "filter", "grammar"},
    r"fcgiapp\.h": {"fcgi"},
    r"nccl\.h": {"cuda"},
    r"cublas\w*\.h": {"cuda"},
    r"curl/curl\.h": {"image"},
    r"sys/socket\.h": {"base", "fcgi", "image", "ctl", "daemon"},
}


def test_libraries_stay_in_their_rooms():
    bad = []
    for path in SOURCES:
        parts = path.relative_to(TOP).parts
        if parts[0] == "tests":
            continue
        room = parts[1] if parts[0] == "src" else parts[0]
        text = path.read_text()
        for header, rooms in LIBRARY_ROOMS.items():
            if room not in rooms and re.search(rf"#include <{header}>", text):
                bad.append(f"{path.relative_to(TOP)} includes {header}")
    assert not bad, "\n".join(bad)


def test_file_names_are_unique():
    seen = {}
    for path in SOURCES:
        seen.setdefault(path.name, []).append(str(path.relative_to(TOP)))
    twice = {n: p for n, p in seen.items() if len(p) > 1}
    assert not twice, twice


def test_files_keep_to_their_size():
    """Over 1,200 lines a file must be split by noun."""
    long = {str(p.relative_to(TOP)): n for p in SOURCES
            if (n := p.read_text().count("\n")) > 1200}
    assert not long, long


def test_lines_keep_to_100_columns():
    bad = [f"{p.relative_to(TOP)}:{i}" for p in SOURCES
           for i, line in enumerate(p.read_text().splitlines(), 1)
           if len(line) > 100 or "\t" in line and p.suffix != ".am"]
    assert not bad, "\n".join(bad[:40])


def test_no_unbounded_string_functions():
    banned = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok)\(")
    bad = [f"{p.relative_to(TOP)}: {m.group(1)}" for p in SOURCES
           for m in banned.finditer(p.read_text())]
    assert not bad, "\n".join(bad)


def test_nothing_is_compiled_at_run_time():
    """AC-39, AC-44: kernels are built with the program, and are our own."""
    foreign = re.compile(r"nvrtc|cuModuleLoad|cuLibraryLoad|cutlass|flashinfer"
                         r"|triton|\bsystem\(|\bpopen\(", re.I)
    files = [p for p in SOURCES if p.is_relative_to(TOP / "cuda")]
    assert len(files) > 20
    for path in files + [TOP / "configure.ac"]:
        assert not foreign.search(path.read_text()), path


def test_nothing_is_left_over():
    left = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|#if 0")
    bad = [str(p.relative_to(TOP)) for p in SOURCES
           if p.name != "test_structure.py" and left.search(p.read_text())]
    assert not bad, bad


def test_headers_guard_themselves():
    bad = []
    for path in SOURCES:
        parts = path.relative_to(TOP).parts
        if path.suffix != ".h" or parts[0] != "src":
            continue
        guard = f"{parts[1]}_{path.stem}_H".upper()
        if f"#ifndef {guard}\n#define {guard}" not in path.read_text():
            bad.append(f"{path.relative_to(TOP)}: expected {guard}")
    assert not bad, "\n".join(bad)
