"""The compile cache: private, whole or not there, rebuilt on any doubt, shared without races, bounded (R16, R19, R20)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from graphopt.backends import cache as module
from graphopt.backends.cache import LIBRARY, Cache, default_cache, private_folder
from graphopt.errors import BackendError, GraphoptWarning

CONTENT = b"\x7fELF and so on, " * 16


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


KEY = key_of("key")


class Maker:
    """Makes the library and counts how often."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.count = 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "network.cpp").write_text("// source\n")
        (folder / LIBRARY).write_bytes(self.content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(autouse=True)
def _fresh_warnings() -> Generator[None]:
    module._warn_once.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield
    module._warn_once.cache_clear()  # pyright: ignore[reportPrivateUsage]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"locks"}


def test_an_entry_is_made_once(folder: Path) -> None:
    make = Maker()
    first = Cache(folder).fetch(KEY, make)
    again = Cache(folder).fetch(KEY, make)
    assert (first.found, again.found, make.count) == (False, True, 1)
    assert first.path == again.path == folder / KEY / LIBRARY
    assert first.path.read_bytes() == CONTENT
    assert {path.name for path in (folder / KEY).iterdir()} == {"network.cpp", LIBRARY, "entry.json"}
    assert visible(folder) == {KEY}
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700


def test_a_loose_umask_does_not_open_the_entry(folder: Path) -> None:
    before = os.umask(0)
    try:
        make = Maker()
        Cache(folder).fetch(KEY, make)
        assert Cache(folder).fetch(KEY, make).found
    finally:
        os.umask(before)
    assert not any(path.stat().st_mode & 0o022 for path in (folder / KEY / LIBRARY, folder / KEY / "entry.json", folder / KEY))


# Damage


def expect_rebuilt(folder: Path) -> None:
    make = Maker()
    with pytest.warns(GraphoptWarning, match="an entry of the compile cache is made again") as caught:
        entry = Cache(folder, lasting=False).fetch(KEY, make)  # a sync takes longer than all the rest
    assert (len(caught), entry.found, make.count) == (1, False, 1)
    assert entry.path.read_bytes() == CONTENT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cache(folder).fetch(KEY, make).found
    assert visible(folder) == {KEY}


@pytest.mark.parametrize("name", [LIBRARY, "entry.json"])
def test_cut_off_at_every_byte(folder: Path, name: str) -> None:
    Cache(folder, lasting=False).fetch(KEY, Maker())
    whole = (folder / KEY / name).read_bytes()
    for length in range(len(whole.rstrip())):
        (folder / KEY / name).write_bytes(whole[:length])
        expect_rebuilt(folder)


def test_flipped_bits(folder: Path) -> None:
    Cache(folder).fetch(KEY, Maker())
    generator = random.Random(5)
    for _ in range(1000):
        path = folder / KEY / LIBRARY
        content = bytearray(path.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        expect_rebuilt(folder)


def test_flipped_bits_of_the_entry_never_give_a_wrong_library(folder: Path) -> None:
    Cache(folder).fetch(KEY, Maker())
    path = folder / KEY / "entry.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 8)
        path.write_bytes(content)
        path.chmod(0o600)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert Cache(folder).fetch(KEY, Maker()).path.read_bytes() == CONTENT


def make_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def replace_by(content: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(content))


def void(_: object) -> None: ...


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "a link": make_link,
    "a hard link": lambda path: os.link(path, path.parent.parent / "elsewhere"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "open to the group": lambda path: path.chmod(0o620),
    "open to all": lambda path: path.chmod(0o602),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": replace_by(b""),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [LIBRARY, "entry.json"])
def test_a_file_that_is_not_as_it_was_left(folder: Path, name: str, fault: str) -> None:
    Cache(folder).fetch(KEY, Maker())
    FAULTS[fault](folder / KEY / name)
    make = Maker()
    with pytest.warns(GraphoptWarning, match="made again"):
        entry = Cache(folder).fetch(KEY, make)
    assert (entry.found, entry.path.read_bytes()) == (False, CONTENT)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"bytes": -1, "sha256": ""}', '{"bytes": true, "sha256": "00"}', '{"bytes": 1, "bytes": 1}', "\xff"]
)
def test_an_entry_that_makes_no_sense(folder: Path, text: str) -> None:
    Cache(folder).fetch(KEY, Maker())
    (folder / KEY / "entry.json").write_text(text, encoding="latin-1")
    expect_rebuilt(folder)


def test_an_entry_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    Cache(elsewhere).fetch(KEY, Maker(b"planted"))
    (folder / KEY).symlink_to(elsewhere / KEY)
    expect_rebuilt(folder)
    assert (elsewhere / KEY / LIBRARY).read_bytes() == b"planted"


def test_a_file_where_the_entry_should_be(folder: Path) -> None:
    (folder / KEY).write_text("not a folder")
    expect_rebuilt(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [LIBRARY, "entry.json", "."])
def test_a_file_of_another_owner_is_not_used(folder: Path, name: str) -> None:
    Cache(folder).fetch(KEY, Maker(b"planted"))
    os.chown(folder / KEY / name, 12345, 12345)
    expect_rebuilt(folder)


# Faults of the disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_costs_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    def refuse(path: object, *rest: object, **options: object) -> None:
        if str(folder) in str(path) or call == "fsync":
            raise OSError(code, os.strerror(code))
        real(path, *rest, **options)

    real: Callable[..., None] = {"fsync": os.fsync, "rename": Path.rename, "mkdir": os.mkdir}[call]  # pyright: ignore[reportAssignmentType]
    monkeypatch.setattr(Path if call == "rename" else os, call, refuse)
    make = Maker()
    with pytest.warns(GraphoptWarning, match="can't be written") as caught:
        entry = Cache(folder).fetch(KEY, make) if call != "rename" else fetch_without_rename(folder, make)
    assert len(caught) == 1
    assert entry.path.read_bytes() == CONTENT
    assert folder not in entry.path.parents


def fetch_without_rename(folder: Path, make: Maker) -> module.Entry:
    elsewhere = module.temporary_cache()
    assert folder not in elsewhere.folder.parents
    return Cache(folder).fetch(KEY, make)


def test_a_failed_compilation_keeps_its_sources(folder: Path) -> None:
    def make(place: Path) -> None:
        (place / "network.cpp").write_text("nonsense")
        raise BackendError("does not compile")

    with pytest.raises(BackendError, match="does not compile") as caught:
        Cache(folder).fetch(KEY, make)
    assert caught.value.where is not None
    assert (Path(caught.value.where) / "network.cpp").read_text() == "nonsense"
    for number in range(20):
        with pytest.raises(BackendError):
            Cache(folder).fetch(key_of(f"bad {number}"), make)
    assert len(list((folder / "failed").iterdir())) == 8
    assert Cache(folder).fetch(KEY, Maker()).path.read_bytes() == CONTENT


def test_an_interrupt_leaves_nothing(folder: Path) -> None:
    def make(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(folder).fetch(KEY, make)
    assert visible(folder) == set()


# The folder


def test_the_folder_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "a" / "b"))
    assert private_folder() == tmp_path / "a" / "b"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert default_cache().folder == tmp_path / "a" / "b" / "cpu-1"


def test_the_folder_follows_the_desktop_convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHOPT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert private_folder() == tmp_path / "xdg" / "graphopt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert private_folder() == tmp_path / "home" / ".cache" / "graphopt"


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_above(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


def a_link(folder: Path) -> None:
    (folder.parent / "real").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "real")


def given_away(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


def given_away_above(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder.parent, 12345, 12345)


DISTRUST: list[tuple[Callable[[Path], object], str]] = [
    (open_to_all, r"others may write to it \(mode 777\)"),
    (open_above, "everybody may write to .*, and could replace it"),
    (a_link, "it is a symbolic link"),
    (lambda folder: folder.write_text("x"), "it is no folder"),
    (given_away, "it belongs to user 12345"),
    (given_away_above, "belongs to user 12345, who could replace it"),
]


@pytest.mark.parametrize(("prepare", "reason"), DISTRUST)
def test_a_folder_that_others_control_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], object], reason: str
) -> None:
    if "12345" in reason and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    folder = tmp_path / "shared" / "cache"
    folder.parent.mkdir()
    prepare(folder)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(folder))
    with pytest.warns(GraphoptWarning, match=reason) as caught:
        caches = [default_cache() for _ in range(3)]
    cache = caches[0]
    assert len({cache.folder for cache in caches}) == 1
    assert len(caught) == 1, "one warning for a process"
    assert folder not in cache.folder.parents
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert cache.fetch(KEY, Maker()).path.read_bytes() == CONTENT


def test_the_temporary_folder_goes_with_the_process(tmp_path: Path) -> None:
    code = """
import os
from graphopt.backends.cache import temporary_cache
folder = temporary_cache().folder
if os.fork() == 0:
    os._exit(0 if temporary_cache().folder != folder else 1)
assert os.wait()[1] == 0 and folder.is_dir()
print(folder)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(str(tmp_path))
    assert not Path(done.stdout.strip()).exists()


# Size


def old(folder: Path, name: str, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(folder / key_of(name) / "entry.json", (moment, moment))


def test_entries_that_were_not_used_longest_go_first(folder: Path) -> None:
    cache = Cache(folder, most_bytes=3500)
    for name, age in (("a", 9000), ("b", 8000), ("c", 7000)):
        cache.fetch(key_of(name), Maker(b"x" * 1000))
        old(folder, name, age)
    cache.fetch(key_of("a"), Maker())  # used again
    cache.fetch(key_of("d"), Maker(b"x" * 1000))
    assert visible(folder) == {key_of("a"), key_of("c"), key_of("d")}


def test_entries_in_use_stay_whatever_the_size(folder: Path) -> None:
    cache = Cache(folder, most_bytes=10)
    for name in "abc":
        cache.fetch(key_of(name), Maker())
    assert visible(folder) == {key_of(name) for name in "abc"}


def test_a_clock_that_jumps_is_survived(folder: Path) -> None:
    cache = Cache(folder, most_bytes=1500)
    for name, age in (("future", -1e9), ("past", 1.7e9)):
        cache.fetch(key_of(name), Maker(b"x" * 1000))
        old(folder, name, age)
    cache.fetch(key_of("new"), Maker(b"x" * 1000))
    assert visible(folder) == {key_of("future"), key_of("new")}
    assert cache.fetch(key_of("past"), Maker(b"x" * 1000)).path.read_bytes() == b"x" * 1000


def test_leftovers_of_the_dead_are_removed_and_work_in_progress_is_not(folder: Path) -> None:
    cache = Cache(folder)
    (folder / ".0123.partial").mkdir()
    (folder / ".0123.partial" / "alive").touch()
    (folder / ".4567.old").mkdir()
    for name in (".0123.partial", ".4567.old"):
        os.utime(folder / name, (1, 1))
    entered, leave = threading.Event(), threading.Event()

    def make(place: Path) -> None:
        os.utime(place, (1, 1))
        entered.set()
        assert leave.wait(30)
        Maker()(place)

    slow = threading.Thread(target=lambda: cache.fetch(key_of("slow"), make))
    slow.start()
    assert entered.wait(30)
    cache.fetch(KEY, Maker())
    left = visible(folder) - {KEY}
    assert len(left) == 1
    assert left.pop().endswith(".partial")
    leave.set()
    slow.join()
    assert visible(folder) == {KEY, key_of("slow")}


def test_the_size_can_be_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(folder))
    monkeypatch.setenv("GRAPHOPT_CACHE_MEGABYTES", "5")
    assert vars_of(default_cache()) == 5 << 20
    monkeypatch.setenv("GRAPHOPT_CACHE_MEGABYTES", "many")
    with pytest.warns(GraphoptWarning, match="is 'many', needs a number"):
        assert vars_of(default_cache()) == module.MOST_BYTES


def vars_of(cache: Cache) -> int:
    return cache._most_bytes  # pyright: ignore[reportPrivateUsage]


# Many at once


def test_threads_that_want_the_same_make_it_once(folder: Path) -> None:
    make = Maker()

    def slow(place: Path) -> None:
        time.sleep(0.1)
        make(place)

    threads = [threading.Thread(target=lambda: Cache(folder).fetch(KEY, slow)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.count == 1


def test_a_lock_that_is_never_given_up_does_not_stop_anyone(folder: Path) -> None:
    make, leave, entered = Maker(), threading.Event(), threading.Event()

    def stuck(place: Path) -> None:
        entered.set()
        assert leave.wait(30)
        make(place)

    holder = threading.Thread(target=lambda: Cache(folder).fetch(KEY, stuck))
    holder.start()
    assert entered.wait(30)
    assert Cache(folder).fetch(KEY, make, patience=0.1).path.read_bytes() == CONTENT
    leave.set()
    holder.join()
    assert Cache(folder).fetch(KEY, make).path.read_bytes() == CONTENT
    assert visible(folder) == {KEY}


WORKER = """
import hashlib, json, os, random, signal, sys, time, traceback, warnings
from pathlib import Path
from graphopt.backends.cache import LIBRARY, Cache
folder, report, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
warnings.simplefilter("ignore")

def content(name): return (name * 5000).encode()

def make(name):
    def write(place):
        with open(place / LIBRARY, "wb", buffering=0) as file:
            for start in range(0, 5000, 500):
                file.write((name * 500).encode())
    return write

def work(writes, seed):
    generator = random.Random(seed)
    cache = Cache(folder)
    try:
        while True:
            name = generator.choice("abcd")
            key = hashlib.sha256(name.encode()).hexdigest()
            if writes and generator.random() < 0.5:
                try: cache._remove(folder / key)
                except OSError: pass
            start = time.monotonic()
            try:
                path = cache.fetch(key, make(name)).path
                found = path.read_bytes()
            except FileNotFoundError:
                continue  # removed between the two
            with open(report / str(os.getpid()), "w") as file:
                file.write("ok")
            if found != content(name): raise AssertionError(f"a wrong hit for {name}: {found[:40]}")
            if time.monotonic() - start > 5.0: raise AssertionError("waited more than 5 seconds")
    except BaseException:
        (report / f"failure{os.getpid()}").write_text(traceback.format_exc())
        os._exit(3)

def start(writes, seed):
    child = os.fork()
    if child == 0:
        work(writes, seed)
    return child

generator = random.Random(1)
children = [(start(True, n), True) for n in range(4)] + [(start(False, n), False) for n in range(4, 6)]
for number in range(kills):
    time.sleep(generator.random() * 0.02)
    victim = generator.randrange(4)
    os.kill(children[victim][0], signal.SIGKILL)
    os.waitpid(children[victim][0], 0)
    children[victim] = (start(True, 100 + number), True)
for child, _ in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_killed_writers_never_leave_a_wrong_hit(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(folder), str(report), "200"], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert [path.read_text() for path in report.glob("failure*")] == []
    assert len(list(report.iterdir())) > 20, "hardly any worker got something done"
    for path in folder.glob(".*.partial"):
        os.utime(path, (1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in "abcd":
            assert Cache(folder).fetch(key_of(name), Maker((name * 5000).encode())).path.read_bytes() == (name * 5000).encode()
    Cache(folder).fetch(KEY, Maker())
    assert not list(folder.glob(".*.partial")), "what the dead left is gone"


def test_no_entry_is_written_before_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is synced before the entry appears under its name: power may fail at any time."""
    events: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(handle: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        events.append(f"rename {target.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    Cache(folder).fetch(KEY, Maker())
    assert events[:2] == [f"sync {LIBRARY}", "sync entry.json"]
    assert events[2].endswith(".partial")
    assert events[3:] == [f"rename {KEY}", "sync cache"]


def test_versions_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    older = tmp_path / "cache" / "cpu-0" / KEY
    older.mkdir(parents=True, mode=0o700)
    (tmp_path / "cache").chmod(0o700)
    shutil.copy(sys.executable, older / LIBRARY)
    (older / "entry.json").write_text(json.dumps({"bytes": 1, "sha256": "0" * 64}))
    assert not default_cache().fetch(KEY, Maker()).found
