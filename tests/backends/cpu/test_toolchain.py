"""Finding a compiler and building with it: what it is called with, what happens when it fails, hangs or is not there."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from graphopt.backends.cpu import isa as isa_module
from graphopt.backends.cpu import toolchain
from graphopt.backends.cpu.emit import Sources
from graphopt.backends.cpu.isa import ISAS, available_cores, cpu_name, machine_flags, resolve, supported
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.toolchain import build, build_library, find_compiler
from graphopt.errors import BackendError, GraphoptWarning
from tests.backends.cpu.stencil import STEPS, expected, run, stencil_sources, weights

HERE = supported()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A cache of the test's own, and no memory of compilers."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    toolchain._find.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield tmp_path / "cache"
    toolchain._find.cache_clear()  # pyright: ignore[reportPrivateUsage]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def slow_compiler(tmp_path: Path) -> Path:
    """Says what it is, and then never comes back."""
    return script(tmp_path / "slow", f'case "$*" in *-dM*) exec g++ "$@";; esac\necho $$ >> {tmp_path}/pids\nsleep 1000 & wait')


def running(tmp_path: Path) -> list[int]:
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    end = time.monotonic() + 5
    while (alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.02)
    return alive


def failed_folder(error: BackendError) -> Path:
    assert error.where is not None
    return Path(error.where)


# Finding


def test_a_compiler_is_found() -> None:
    found = find_compiler()
    assert found.kind in ("gcc", "clang", "zig")
    assert re.match(r"\d+\.\d+", found.identity)
    assert found.identity in found.text


def test_cxx_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = script(tmp_path / "my c++", 'exec g++ "$@"')
    monkeypatch.setenv("CXX", f"'{chosen}' -fno-ident")
    assert find_compiler().command == (str(chosen), "-fno-ident")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("/no/such/compiler", "No such file"),
        ("true", "is no C[+][+] compiler: it prints no macros"),
        ("sh -c 'echo broken >&2; exit 1'", "is no C[+][+] compiler: broken"),
        ("'", "No closing quotation"),
    ],
)
def test_a_cxx_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str, reason: str) -> None:
    monkeypatch.setenv("CXX", value)
    with pytest.raises(BackendError, match=rf"(?s)CXX is .*{reason}.*fix: set CXX to a C\+\+ compiler, or unset it"):
        find_compiler()


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(
        BackendError, match=r"needs a C\+\+ compiler, and g\+\+, .* are not to be had\n  fix: install g\+\+ 11 .*graphopt\[cpu\]"
    ):
        find_compiler()


def test_an_old_compiler_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "g++", "echo '#define __GNUC__ 7\n#define __VERSION__ \"7.5.0\"'")
    script(tmp_path / "clang++", "echo '#define __clang__ 1\n#define __clang_major__ 17\n#define __VERSION__ \"Clang 17.0.1\"'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert (find_compiler().kind, find_compiler().major) == ("clang", 17)
    (tmp_path / "clang++").unlink()
    toolchain._find.cache_clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: name if name == "g++" else None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(BackendError, match=r"g\+\+: gcc 7\.5\.0 is too old, 11 is needed"):
        find_compiler()


def test_zig_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ziglang").mkdir()
    text = "import sys\nassert sys.argv[1] == 'c++'\n"
    text += "print('#define __clang__ 1\\n#define __clang_major__ 20\\n#define __VERSION__ \"Clang 20\"')"
    (tmp_path / "ziglang" / "__main__.py").write_text(text)
    (tmp_path / "ziglang" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_compiler()
    assert (found.kind, found.command) == ("zig", (sys.executable, "-m", "ziglang", "c++"))
    assert "-march=x86_64_v3" in toolchain.compile_flags(found, "avx2")


# Instruction sets


def test_native_is_the_best_of_this_machine() -> None:
    assert resolve("native") == HERE[0]
    assert HERE[-1] == "generic"
    assert [isa for isa in ISAS if isa in HERE] == list(HERE)
    assert cpu_name()
    assert available_cores() >= 1


def test_no_flag_means_this_very_processor() -> None:
    for isa in ISAS:
        assert "-march=native" not in machine_flags(isa)


def test_an_instruction_set_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa_module, "_features", lambda: frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}))
    assert supported() == ("avx2", "generic")
    with pytest.raises(BackendError, match=r"isa is 'avx512', and this machine \(.*\) runs avx2, generic\n  fix: isa='native'"):
        resolve("avx512")
    with pytest.raises(BackendError, match=r"isa is 'sse9', needs one of native, avx512, avx2, generic"):
        resolve("sse9")


@pytest.mark.parametrize("isa", HERE)
def test_the_runtime_compiles_without_warnings_and_gives_the_same_bits(isa: str) -> None:
    blob = allocate(weights().nbytes)
    blob[:] = weights().view("u1")
    made = Library(build(stencil_sources(), isa, warnings=True), blob, 2)
    assert made.isa == isa
    x = weights()[::-1].copy()
    assert run(made, x).tobytes() == expected(x).tobytes()
    assert made.steps == STEPS


# Building


def test_what_was_built_is_found_again_and_nothing_else_is() -> None:
    first = build_library(stencil_sources())
    assert not first.found
    assert build_library(stencil_sources()).found
    others = [
        build_library(stencil_sources(size=999)),
        build_library(stencil_sources(), "generic") if HERE[0] != "generic" else build_library(stencil_sources(steps=3)),
        build_library(stencil_sources(), warnings=True),
    ]
    assert not any(other.found for other in others)
    assert len({first.path, *(other.path for other in others)}) == 4


def test_a_compiler_of_another_version_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    for version in ("12.0.1", "12.0.2"):
        answer = f'#define __GNUC__ 12\n#define __VERSION__ "{version}"'
        script(compiler, f'case "$*" in *-dM*) echo \'{answer}\'; exit;; esac\nexec g++ "$@"')
        monkeypatch.setenv("CXX", str(compiler))
        toolchain._find.cache_clear()  # pyright: ignore[reportPrivateUsage]
        assert not build_library(stencil_sources()).found
        assert build_library(stencil_sources()).found


def test_a_library_that_is_not_kept_is_not_in_the_cache(cache: Path) -> None:
    path = build(stencil_sources(), keep=False)
    assert path.is_file()
    assert cache not in path.parents


def test_only_the_interface_is_visible_and_only_c_is_needed() -> None:
    path = build(stencil_sources())
    shown = subprocess.run(["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    assert names == {f"graphopt_{name}" for name in INTERFACE}
    needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"NEEDED.*\[(.*)\]", needed)) <= {
        "libc.so.6",
        "libpthread.so.0",
        "libm.so.6",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }


INTERFACE = (
    "api_version", "create", "create_from_memory", "destroy", "error", "error_step", "input", "input_count", "isa",
    "output", "output_count", "run", "run_timed", "step_count", "threads", "weights_bytes",
)  # fmt: skip


def test_an_error_in_the_code_is_one_message(cache: Path) -> None:
    bad = Sources({**stencil_sources().files, "network.cpp": "int f() { return nonsense; }\nint g( {\n"}, units=2)
    with pytest.raises(
        BackendError, match=r"(?s)the compiler refuses the network:\n    network\.cpp:1:.*'nonsense' was not declared"
    ) as caught:
        build(bad)
    folder = failed_folder(caught.value)
    assert cache in folder.parents
    assert (folder / "network.cpp").read_text().startswith("int f()")
    assert "command: " in caught.value.what
    assert len(caught.value.what) < 4000


def test_the_command_of_an_error_can_be_run_again() -> None:
    bad = Sources({**stencil_sources().files, "network.cpp": "#error no"}, units=1)
    with pytest.raises(BackendError) as caught:
        build(bad)
    command = caught.value.what.split("command: ")[1]
    done = subprocess.run(command, shell=True, cwd=failed_folder(caught.value), capture_output=True, text=True, check=False)  # noqa: S602
    assert "#error no" in done.stderr


def test_a_missing_symbol_is_found_when_linking() -> None:
    bad = stencil_sources(body="void nowhere(); nowhere();")
    with pytest.raises(BackendError, match=r"refuses the objects:\n.*undefined reference to"):
        build(bad)


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(slow_compiler(tmp_path)))
    monkeypatch.setattr(toolchain, "_SECONDS", 0.5)
    with pytest.raises(BackendError, match=r"the compiler took more than 0 seconds for the network: .*slow"):
        build(stencil_sources())
    assert running(tmp_path) == []


def test_an_interrupt_ends_the_compilers(tmp_path: Path) -> None:
    code = "from tests.backends.cpu.stencil import *\nfrom graphopt.backends.cpu.toolchain import build\nbuild(stencil_sources())"
    environment = {**os.environ, "CXX": str(slow_compiler(tmp_path)), "PYTHONPATH": str(Path.cwd())}
    heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job passes on that it is ignored
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heeded)
    end = time.monotonic() + 60
    while not (tmp_path / "pids").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert running(tmp_path) == []
    assert not list((tmp_path / "cache" / "cpu-1").glob(".*.partial"))


def test_a_compiler_that_crashes_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = script(tmp_path / "crash", 'case "$*" in *-dM*) exec g++ "$@";; esac\nkill -SEGV $$')
    monkeypatch.setenv("CXX", str(crash))
    with pytest.raises(BackendError, match="the compiler was ended by signal 11"):
        build(stencil_sources())


def test_a_full_disk_moves_the_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    full = (
        f'case "$*" in *-dM*) exec g++ "$@";; esac\ncase "$PWD" in {cache}*) echo "fatal error: No space left on device" >&2; exit 1;; esac'
    )
    monkeypatch.setenv("CXX", str(script(tmp_path / "full", f'{full}\nexec g++ "$@"')))
    with pytest.warns(GraphoptWarning, match="can't be written: no space left on device"):
        path = build(stencil_sources())
    assert path.is_file()
    assert cache not in path.parents


def test_no_shell_sees_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a b; touch owned $(touch owned) '\""
    odd.mkdir(mode=0o700)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(odd / "cache"))
    assert build(stencil_sources()).is_file()
    assert not list(tmp_path.rglob("owned"))


def test_an_unknown_sanitizer_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"sanitize is 'memory', needs some of address, leak, thread, undefined"):
        build(stencil_sources(), sanitize="memory")


def test_a_sanitized_library_finds_an_overflow() -> None:
    """Loaded into a process that has the runtime of the sanitizer."""
    find = subprocess.run([*find_compiler().command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    runtime = find.stdout.strip()
    if not os.path.isabs(runtime) or not shutil.which("g++"):
        pytest.skip("there is no shared runtime of AddressSanitizer")
    code = """
from tests.backends.cpu.stencil import *
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.toolchain import build
import sys
body = "if (number == 0) buffers[0][2 * size + 100] = 1.0f;" if sys.argv[1] == "bad" else ""
library = Library(build(stencil_sources(body=body), sanitize="address,undefined"), allocate(4 * SIZE), 2)
from tests.backends.cpu.stencil import run
run(library, weights())
print("done")
"""
    for which in ("good", "bad"):
        environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [sys.executable, "-c", code, which], env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        if which == "good":
            assert done.stdout == "done\n", done.stderr[-3000:]
        else:
            assert "heap-buffer-overflow" in done.stderr
