"""Files: what was written comes back to the bit, and anything else is refused."""

import json
import math
import os
import pathlib
import pickle
import random
import re
import signal
import stat
import subprocess
import sys
import time

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from nbrnn.io import container
from tests.cases import examples
from tests.processes import ROOT, environment

DTYPES = [np.dtype(name) for name in container.TYPES.values()]


def same(a, b):
    """Equal to the bit, with dtypes and shapes."""
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.tobytes() == b.tobytes()


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)
twists = st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[::-1] if a.ndim else a, lambda a: a.astype(a.dtype.newbyteorder())])  # fmt: skip
numbers = st.integers() | st.integers(2**60, 2**200) | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
printable = st.text(min_size=1).filter(lambda s: s.isprintable())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("io")


@given(
    st.dictionaries(printable, st.tuples(arrays, twists), max_size=4), st.dictionaries(st.text(), values, max_size=3)
)
def test_what_was_written_comes_back(folder, tensors, metadata):
    given = {name: twist(a) for name, (a, twist) in tensors.items()}
    container.write(folder / "a", given, metadata)
    back, note = container.read(folder / "a")
    assert list(back) == sorted(given)
    for name, a in back.items():
        same(a, np.array(given[name].astype(a.dtype), order="C"))
        assert a.flags.c_contiguous
        assert a.flags.writeable
        assert a.dtype.isnative
    assert repr(note) == repr(metadata)
    plain = safetensors.numpy.load_file(folder / "a")
    for name, a in back.items():
        same(a, plain[name])


def test_numbers_that_json_is_bad_at(folder):
    given = {"a": [math.inf, -math.inf, -0.0, 5e-324, 0.1, 2**128 + 1], "nan": math.nan}
    container.write(folder / "a", {}, given)
    back = container.read(folder / "a")[1]
    assert repr(back) == repr(given)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_states_of_generators_come_back(folder, kind):
    rng = np.random.Generator(getattr(np.random, kind)(5))
    rng.integers(10, size=3, dtype=np.int32)
    container.write(folder / "a", {}, {"rng": rng.bit_generator.state})
    other = np.random.Generator(getattr(np.random, kind)(6))
    other.bit_generator.state = container.read(folder / "a")[1]["rng"]
    same(rng.random(1000), other.random(1000))


def test_what_becomes_something_else(folder):
    container.write(
        folder / "a", {"s": np.float32(2)}, {"t": (1, 2), "i": np.int8(3), "f": np.float32(0.1), "a": np.eye(2)}
    )
    back, note = container.read(folder / "a")
    same(back["s"], np.array(2, np.float32))
    assert note == {"t": [1, 2], "i": 3, "f": float(np.float32(0.1)), "a": [[1.0, 0.0], [0.0, 1.0]]}


@pytest.mark.parametrize(
    "error, text, tensors, metadata",
    [
        (TypeError, "tensors must be a mapping", [1], {}),
        (TypeError, "keys of tensors must be str, got 1", {1: np.ones(1)}, {}),
        (TypeError, r"tensors\['a'\] must be a NumPy array, got list", {"a": [1.0]}, {}),
        (TypeError, r"tensors\['a'\] must be a NumPy array, got MaskedArray", {"a": np.ma.ones(1)}, {}),
        (TypeError, "got float16", {"a": np.ones(1, np.float16)}, {}),
        (TypeError, "got object", {"a": np.array([None])}, {}),
        (ValueError, "must be printable", {"a\n": np.ones(1)}, {}),
        (ValueError, "must be printable", {"__metadata__": np.ones(1)}, {}),
        (TypeError, "metadata must be a mapping", {}, None),
        (TypeError, r"keys of metadata\['a'\] must be str, got 1", {}, {"a": {1: 2}}),
        (TypeError, r"metadata\['a'\]\[1\] must be something that JSON can hold, got object", {}, {"a": [0, object()]}),
        (TypeError, "got complex", {}, {"a": 1j}),
    ],
)  # fmt: skip
def test_what_cannot_be_written(tmp_path, error, text, tensors, metadata):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error, match=text):
        container.write(tmp_path / "a", tensors, metadata)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


SMALL = ({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.array([True, False])}, {"é": [1, 2.5, "ü"]})


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small"
    container.write(path, *SMALL)
    return path


def refused(path, data):
    """The error's text."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        container.read(path)
    return str(caught.value)


def test_the_same_arguments_make_the_same_file(small):
    data = small.read_bytes()
    for _ in range(5):
        container.write(small, *SMALL)
        assert small.read_bytes() == data


def test_a_file_cut_at_any_byte_or_longer_is_refused(small):
    data = small.read_bytes()
    for n in range(len(data)):
        refused(small, data[:n])
        refused(small, data[:n] + bytes(len(data) - n)) if any(data[n:]) else None
    refused(small, data + b"\0")
    refused(small, data + data)


def test_any_flipped_bit_is_seen(small):
    data = small.read_bytes()
    for n in range(len(data)):
        for bit in range(8):
            refused(small, data[:n] + bytes([data[n] ^ 1 << bit]) + data[n + 1 :])


@pytest.fixture(scope="module")
def good(folder):
    container.write(folder / "good", *SMALL)
    return (folder / "good").read_bytes()


@examples(5)
@given(st.data())
def test_random_damage_is_seen(folder, good, data):
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    if bad != good:
        refused(folder / "bad", bytes(bad))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(folder, data):
    refused(folder / "noise", data)
    refused(folder / "noise", len(data).to_bytes(8, "little") + data)
    refused(folder / "noise", (len(data) + 1).to_bytes(8, "little") + b"{" + data)


def header(text, data=b""):
    """A file of safetensors by hand."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "a"
    assert "is empty" in refused(path, b"")
    assert "another kind" in refused(path, pickle.dumps({"a": np.ones(3)}))
    np.savez(tmp_path / "b.npz", a=np.ones(3))
    assert "another kind" in refused(path, (tmp_path / "b.npz").read_bytes())
    assert "not written by nbrnn" in refused(path, safetensors.numpy.save({"a": np.ones(3)}))
    assert "not written by nbrnn" in refused(path, safetensors.numpy.save({"a": np.ones(3)}, {"nbrnn": "[1]"}))
    assert "not written by nbrnn" in refused(path, header(b'{"a":' + b"[" * 100_000))
    assert "not written by nbrnn" in refused(path, header({"__metadata__": {"nbrnn": "[" * 100_000}}))
    note = '{"version":2,"sha256":"","metadata":{}}'
    assert "version 2 of the format" in refused(path, header({"__metadata__": {"nbrnn": note}}))
    with pytest.raises(FileNotFoundError, match="missing"):
        container.read(tmp_path / "missing")
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        container.read(tmp_path)


@pytest.mark.parametrize(
    "dtype, shape, size",
    [("F32", [2**61], 8), ("F32", [2**62, 0], 0), ("F32", [2**32, 2**32], 0), ("F16", [2], 4), ("BOOL", [2], 2), ("F4", [2], 1)],
)  # fmt: skip
def test_headers_that_ask_for_too_much_are_refused(tmp_path, dtype, shape, size):
    note = '{"version":1,"sha256":"","metadata":{}}'
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    refused(tmp_path / "a", header({"__metadata__": {"nbrnn": note}, "a": tensor}, b"\2" * size))


def test_a_failure_leaves_the_old_file_and_nothing_else(small, monkeypatch):
    data = small.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space"):
                container.write(small, {}, {})
    assert small.read_bytes() == data
    assert [p.name for p in small.parent.iterdir()] == ["small"]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        container.write(small.parent / "none" / "a", {}, {})
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        container.write(small.parent, {}, {})
    assert not list(small.parent.parent.glob(container.TEMPORARY))


@pytest.mark.skipif(os.name != "posix", reason="links and permissions as of POSIX")
def test_links_and_permissions_are_as_of_plain_writing(small):
    link = small.parent / "link"
    link.symlink_to(small.name)
    container.write(link, {"a": np.ones(2)}, {})
    assert link.is_symlink()
    assert list(container.read(small)[0]) == ["a"]
    (small.parent / "plain").write_bytes(b"")
    assert stat.S_IMODE(small.stat().st_mode) == stat.S_IMODE((small.parent / "plain").stat().st_mode)


WRITER = """
import sys, itertools, numpy as np
from nbrnn.io import container
print("go", flush=True)
for n in itertools.count(1):
    container.write(sys.argv[1], {"w": np.full(200_000, n)}, {"n": n})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")
def test_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path, chance, seen = tmp_path / "a", random.Random(0), set()
    container.write(path, {"w": np.full(200_000, 0)}, {"n": 0})
    # Only the container is imported: a start takes a fraction of a second.
    writer = WRITER.replace("from nbrnn.io import container", LONELY)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, env=environment(ROOT), cwd=ROOT
        )
        assert process.stdout.readline() == b"go\n"
        time.sleep(chance.uniform(0.02, 0.1))
        process.kill()
        process.wait()
        process.stdout.close()
        tensors, metadata = container.read(path)
        assert (tensors["w"] == metadata["n"]).all()
        seen.add(metadata["n"])
    assert len(seen) > 1  # it was writing
    left = {p.name for p in tmp_path.iterdir()} - {"a"}
    assert left <= {p.name for p in tmp_path.glob(container.TEMPORARY)}


#: The container without the rest of the package, which takes a second to import.
LONELY = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("container", {str(pathlib.Path(container.__file__))!r})
container = importlib.util.module_from_spec(spec)
spec.loader.exec_module(container)
"""


def test_without_safetensors_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda: container.write(tmp_path / "a", {}, {}), lambda: container.read(tmp_path / "a")):
        with pytest.raises(ImportError, match=r"pip install 'nbrnn\[io\]'"):
            call()
