"""The caches: what a key covers, hits, damage, limits, and processes that share a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from plait.backends import compilation, compile_graph, resolve_target
from plait.backends.cache import Cache, cache_root, caches
from plait.backends.compilation import compile_key
from plait.backends.cuda import assemble as assembling
from plait.backends.cuda.assemble import assemble
from plait.ir import CompileError, Graph, Loc, parse
from plait.ir.ops import core
from plait.ir.types import TensorType, f32

from .test_executable import arguments, network

KERNEL = 'extern "C" __global__ void {name}(float* a) {{ a[threadIdx.x] += {add}; }}\n'


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix != ".tmp")


@pytest.mark.parametrize("isolate", [False, True])
def test_a_second_compilation_is_a_hit(tmp_path: Path, isolate: bool) -> None:
    first = compile_graph(network(), "cpu", isolate=isolate, cache=tmp_path)
    assert set(first.seconds) == {"emit", "schedule", "lower"}
    (entry,) = entries(tmp_path)
    second = compile_graph(network(), "cpu", cache=tmp_path)
    assert set(second.seconds) == {"cache"}
    assert second.graph == first.graph
    assert second.kernels == first.kernels
    for got, want in zip(second(*arguments()), first(*arguments()), strict=True):
        np.testing.assert_array_equal(got, want)
    second.save(tmp_path / "copy.plait")
    assert entries(tmp_path) == sorted([entry, tmp_path / "copy.plait"])


def test_a_hit_imports_no_compiler(tmp_path: Path) -> None:
    compile_graph(network(), "cpu", cache=tmp_path)
    network().save(tmp_path / "graph")
    script = textwrap.dedent(
        f"""
        import sys
        from plait.backends import compile_graph
        from plait.ir.archive import load
        exe = compile_graph(load({str(tmp_path / "graph")!r}), "cpu", cache={str(tmp_path)!r})
        print(list(exe.seconds), "tvm" in sys.modules, "torch" in sys.modules)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cache'] False False"


def located(line: int) -> Graph:
    g = Graph("scaled")
    x = g.add_input("x", TensorType(f32, (8,)))
    c = g.add_constant("c", np.full(8, 2, np.float32))
    g.set_outputs([g.emit(core.Mul(x, c), loc=Loc.at("scale", "net.py", line))])
    return g


def test_a_key_covers_what_the_result_shows() -> None:
    cpu, gpu = resolve_target("cpu"), resolve_target("a100")
    base = compile_key(located(1), cpu, {}, "default")
    assert base == compile_key(located(1), cpu, {}, "default")
    constant = located(1)
    constant.constants["c"].attach(np.full(8, 3, np.float32))
    other = Graph("other")
    x = other.add_input("x", TensorType(f32, (8,)))
    other.set_outputs([other.emit(core.Add(x, x))])
    keys = [
        base,
        compile_key(other, cpu, {}, "default"),
        compile_key(located(2), cpu, {}, "default"),  # kernel tables name source lines
        compile_key(located(1), gpu, {}, "default"),
        compile_key(located(1), resolve_target("cpu", threads=1), {}, "default"),
        compile_key(located(1), cpu, {"B": 1}, "default"),
        compile_key(located(1), cpu, {}, "passes fold-constants"),
    ]
    assert len(set(keys)) == len(keys) or resolve_target("cpu").threads == 1  # type: ignore[attr-defined]


def test_a_key_covers_constants() -> None:
    one = parse(
        'plait.ir 1.0\nconst @c : f32[1] = blob("0000000000000001")\nfunc @f() -> f32[1] {\n  return @c\n}\n'
    )
    two = parse(str(one).replace("0001", "0002"))
    cpu = resolve_target("cpu")
    assert compile_key(one, cpu, {}, "") != compile_key(two, cpu, {}, "")


def test_a_key_covers_sources_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = resolve_target("cpu")
    base = compile_key(located(1), cpu, {}, "")
    monkeypatch.setattr(compilation, "_sources_digest", lambda: "changed")
    changed = compile_key(located(1), cpu, {}, "")
    monkeypatch.setattr(compilation.artifact, "package_versions", lambda: {"apache-tvm": "0.28"})
    assert len({base, changed, compile_key(located(1), cpu, {}, "")}) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str) -> None:
    compile_graph(located(1), "cpu", cache=tmp_path)
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    if damage == "cut":
        del content[-100:]
    elif damage == "empty":
        content.clear()
    else:
        content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    again = compile_graph(located(1), "cpu", cache=tmp_path)
    assert "cache" not in again.seconds
    np.testing.assert_array_equal(again(np.ones(8, np.float32)), np.full(8, 2, np.float32))
    assert "cache" in compile_graph(located(1), "cpu", cache=tmp_path).seconds


def test_without_the_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_graph(located(1), "cpu", cache=False)
    assert list(tmp_path.iterdir()) == []
    compile_graph(located(1), "cpu", cache=True)
    assert len(entries(tmp_path / "plait" / "compile")) == 1


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for isolate in (False, True):
        exe = compile_graph(located(1), "cpu", cache=tmp_path / "file" / "cache", isolate=isolate)
        np.testing.assert_array_equal(exe(np.ones(8, np.float32)), np.full(8, 2, np.float32))


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cache = Cache("compile", tmp_path, limit_bytes=250)
    for number in range(2):
        with cache.writing(f"entry{number}") as stream:
            stream.write(bytes(100))
        os.utime(cache.path(f"entry{number}"), (1000 + number, 1000 + number))
    assert cache.find("entry0") is not None  # is the youngest now
    with cache.writing("entry2") as stream:
        stream.write(bytes(100))
    assert [path.name for path in entries(tmp_path)] == ["entry0", "entry2"]
    with cache.writing("entry3") as stream:  # larger than all that is allowed, and still kept
        stream.write(bytes(300))
    assert [path.name for path in entries(tmp_path)] == ["entry3"]
    assert cache.info().bytes == 300
    assert cache.clear().entries == 1
    assert entries(tmp_path) == []
    assert cache.find("entry3") is None


def test_files_of_writers_that_died_are_removed(tmp_path: Path) -> None:
    cache = Cache("compile", tmp_path)
    for name, age in (("old.tmp", 7200), ("new.tmp", 10)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    cache.trim()
    assert [path.name for path in tmp_path.iterdir()] == ["new.tmp"]
    with pytest.raises(TypeError), cache.writing("entry") as stream:
        stream.write("no bytes")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["new.tmp"]


def test_writers_and_readers_share_a_folder(tmp_path: Path) -> None:
    """Every read gives a whole entry, while others write, read and evict."""
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        cache = Cache("compile", tmp_path, limit_bytes=20_000)
        for _ in range(200):
            number = int(rng.integers(0, 8))
            content = f"entry {number} ".encode() * 500
            path = cache.find(str(number))
            if path is not None:
                try:
                    found = path.read_bytes()
                except FileNotFoundError:
                    continue  # evicted meanwhile
                if found != content:
                    wrong.append(f"{number}: {len(found)} bytes")
            with cache.writing(str(number)) as stream:
                stream.write(content)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert Cache("compile", tmp_path).info().bytes <= 20_000 + 4 * 4000


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "plait"
    assert [cache.folder for cache in caches()] == [
        tmp_path / "plait" / name for name in ("compile", "kernels", "emulator")
    ]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "plait"


# -- kernels ----------------------------------------------------------------------------
@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "plait" / "kernels"


def test_each_kernel_is_kept_on_its_own(kernels: Path) -> None:
    texts = {name: KERNEL.format(name=name, add=add) for name, add in (("one", 1), ("two", 2))}
    begun: list[tuple[int, str]] = []
    first = assemble(texts, "sm_80", lambda done, name: begun.append((done, name)))
    assert len(entries(kernels)) == 2
    assert sorted(name for _, name in begun) == ["one", "two"]
    begun.clear()
    moved = {**texts, "one": "\n\n\n" + texts["one"], "two": KERNEL.format(name="two", add=3)}
    second = assemble(moved, "sm_80", lambda done, name: begun.append((done, name)))
    assert begun == [(1, "two")]
    assert second["one"] == first["one"]
    assert second["two"].ptx != first["two"].ptx
    assert first["one"].cubin.startswith(b"\x7fELF")
    for path in entries(kernels):
        path.write_bytes(path.read_bytes()[:-30])
    assert assemble(texts, "sm_80") == first


def test_kernels_are_shared_among_processes(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"k{n}": KERNEL.format(name=f"k{n}", add=n) for n in range(6)}
    alone = assemble(texts, "sm_80")
    Cache("kernels").clear()
    monkeypatch.setattr(assembling, "_WORTH_SHARING", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    shared = assemble(texts, "sm_80")
    assert {name: kernel.cubin for name, kernel in shared.items()} == {
        name: kernel.cubin for name, kernel in alone.items()
    }
    texts["wrong"] = 'extern "C" __global__ void wrong(float* a) { a[0] = b; }'
    with pytest.raises(CompileError, match='identifier "b" is undefined'):
        assemble(texts, "sm_80")
