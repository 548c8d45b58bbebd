"""Arrays of other libraries in and out, on an emulated device: its addresses are the host's, so all can be looked at."""

import builtins
import ctypes
import gc
import inspect
import struct
import sys
import types
import weakref

import numpy as np
import pytest

import nbrnn
from nbrnn._cuda import dlpack
from nbrnn._cuda.array import DeviceArray, in_order
from nbrnn._cuda.exchange import OURS, adopted, kind_of
from tests.emulated import Emulated
from tests.ptx import compile as nvvm

same = np.testing.assert_array_equal
F4, F8 = np.dtype("f4"), np.dtype("f8")


@pytest.fixture(autouse=True, scope="module")
def _without_what_is_old():
    """Collecting garbage looks at what these tests make alone: others leave millions of objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Interface:
    """Somebody's array with a `__cuda_array_interface__`, of which some entries are changed."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data if array.size else 0, not array.flags.writeable),
            "strides": None if array.flags.c_contiguous else array.strides,
            "stream": None,
        } | changes


class Capsules:
    """Somebody's array that speaks DLPack, to a certain extent."""

    def __init__(self, array, device=(2, 0), knows=("stream", "max_version"), versioned=False, change=None):
        self.array, self.device, self.knows, self.versioned, self.asked = array, device, knows, versioned, []
        self.change = change

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if not options.keys() <= set(self.knows):
            raise TypeError("unexpected keyword")
        self.asked.append(options)
        capsule = self.array.__dlpack__(**({"max_version": (1, 0)} if self.versioned else {}))
        if self.change is not None:
            self.change(*pointed(capsule))
        return capsule


VERSIONED = [False] + [True] * (np.lib.NumpyVersion(np.__version__) >= "2.1.0")

# A reader of capsules of the test's own.

get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
set_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))
#: data, device (2), ndim, type (3), shape, strides, offset
TENSOR = "PiiiBBHPPQ"
OFFSETS = {b"dltensor": 0, b"dltensor_versioned": 32}
#: Capsules point to these.
USED = {name: b"used_" + name for name in OFFSETS}


def pointed(capsule):
    """Name and address."""
    name = get_name(capsule)
    return name, get_pointer(capsule, name)


class Reader:
    """What somebody makes of a capsule: `numbers` is a view of the memory."""

    def __init__(self, capsule):
        self.name, self.at = pointed(capsule)
        tensor = struct.Struct("@" + TENSOR)
        offset = OFFSETS[self.name]
        data, kind, ordinal, ndim, code, bits, lanes, shape, strides, start = tensor.unpack(
            ctypes.string_at(self.at + offset, tensor.size)
        )
        self.device, self.flags, self.version = (kind, ordinal), 0, None
        if offset:
            major, minor, _, self.delete, self.flags = struct.unpack("@IIPPQ", ctypes.string_at(self.at, 32))
            self.version = major, minor
        else:
            _, self.delete = struct.unpack("@PP", ctypes.string_at(self.at + tensor.size, 16))
        assert set_name(capsule, USED[self.name]) == 0
        assert lanes == 1
        self.shape = struct.unpack(f"@{ndim}q", ctypes.string_at(shape, 8 * ndim))
        self.strides = (
            struct.unpack(f"@{ndim}q", ctypes.string_at(strides, 8 * ndim)) if strides else in_order(self.shape)
        )
        self.dtype, self.data = np.dtype(f"{'iufxxcb'[code]}{bits // 8}"), data + start if data else 0

    def numbers(self):
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        size = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        room = (ctypes.c_byte * (size * self.dtype.itemsize)).from_address(self.data)
        return np.lib.stride_tricks.as_strided(
            np.frombuffer(room, self.dtype), self.shape, [s * self.dtype.itemsize for s in self.strides]
        )

    def close(self):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.delete)(self.at)


HOSTS = {
    "plain": lambda: np.arange(24.0).reshape(2, 3, 4),
    "turned": lambda: np.arange(24.0).reshape(2, 3, 4).swapaxes(0, 2),
    "cut": lambda: np.arange(24.0).reshape(2, 3, 4)[:, 1:, ::2],
    "repeated": lambda: np.broadcast_to(np.arange(3.0), (4, 3)),
    "floats": lambda: np.arange(6, dtype="f").reshape(2, 1, 3)[:, :, 1:],
    "none": lambda: np.zeros((2, 0, 3)),
    "one": lambda: np.array(2.5),
    "integers": lambda: np.arange(5),
    "booleans": lambda: np.arange(5) > 2,
}
both = pytest.mark.parametrize("way", [Interface, Capsules])


@both
@pytest.mark.parametrize("which", HOSTS)
def test_in_without_a_copy(machine, way, which):
    host = HOSTS[which]()
    if way is Capsules and not host.flags.writeable:
        host = np.lib.stride_tricks.as_strided(np.arange(3.0), (4, 3), (0, 8))
    value = way(host)
    found = adopted(machine, value, "x", None)
    assert found.shape == host.shape
    assert found.dtype == host.dtype
    assert found.contiguous == host.flags.c_contiguous
    same(found.numpy(), host)
    if host.size and host.flags.writeable:
        assert not found.readonly
        assert machine.address(found.flat) == host.ctypes.data
        host[...] = 1
        assert (found.numpy() == 1).all()
    assert kind_of(value) is OURS
    assert OURS.wrap(found) is found


@both
def test_read_only_is_remembered(machine, way):
    host = np.arange(3.0)
    host.flags.writeable = False
    if way is Capsules:
        if len(VERSIONED) == 1:
            pytest.skip("NumPy has no versions")
        value = Capsules(host, versioned=True)
    else:
        value = Interface(host)
    found = adopted(machine, value, "x", F8)
    assert found.readonly
    assert found[1:].readonly


@both
def test_dtypes_are_as_asked(machine, way):
    value = way(np.zeros(3))
    assert adopted(machine, value, "x", F8).dtype == F8
    with pytest.raises(TypeError, match=r"^x must be of dtype float32, got float64$"):
        adopted(machine, value, "x", F4)
    if way is Interface:
        swapped = Interface(np.zeros(3, ">f4"))
        with pytest.raises(TypeError, match=r"^x must be of dtype float32, got >f4$"):
            adopted(machine, swapped, "x", F4)
        with pytest.raises(TypeError, match=r"^x must be of a dtype of NumPy's in native byte order, got >f4"):
            adopted(machine, swapped, "x", None)


BAD = [
    ({"version": 1}, TypeError, "version 2 or 3, got 1"),
    ({"version": 4}, TypeError, "version 2 or 3, got 4"),
    ({"mask": Interface(np.zeros(3))}, TypeError, "must not be a masked array"),
    ({"stream": 0}, ValueError, "must not have 0 for the stream"),
    ({"typestr": "nonsense"}, TypeError, "valid __cuda_array_interface__"),
    ({"shape": 3}, TypeError, "valid __cuda_array_interface__"),
    ({"data": 3}, TypeError, "valid __cuda_array_interface__"),
    ({"strides": (8, 8)}, TypeError, "valid __cuda_array_interface__"),
    ({"strides": (-8,)}, ValueError, r"no negative strides, got \(-8,\)"),
    ({"strides": (12,)}, ValueError, "multiples of 8 bytes"),
    ({"data": (0, False)}, ValueError, "begin at a multiple of 8 bytes, got address 0x0"),
    ({"data": (4, False)}, ValueError, "begin at a multiple of 8 bytes, got address 0x4"),
]


@pytest.mark.parametrize("changes, error, match", BAD, ids=[" ".join(b[0]) + str(n) for n, b in enumerate(BAD)])
def test_interfaces_that_are_refused(machine, changes, error, match):
    value = Interface(np.zeros(3), **changes)
    with pytest.raises(error, match=match) as raised:
        adopted(machine, value, "dstate[0]", F8)
    assert str(raised.value).startswith("dstate[0] must ")


def test_strides_of_axes_of_one_number_dont_matter(machine):
    found = adopted(machine, Interface(np.arange(3.0)[None], strides=(-5, 8)), "x", F8)
    assert found.contiguous
    same(found.numpy(), [[0, 1, 2]])
    same(found.reshape(3).numpy(), [0, 1, 2])


def test_an_entry_may_be_missing(machine):
    value = Interface(np.arange(3.0), version=2)
    for key in ("stream", "strides"):
        del value.__cuda_array_interface__[key]
    same(adopted(machine, value, "x", F8).numpy(), [0, 1, 2])
    del value.__cuda_array_interface__["data"]
    with pytest.raises(TypeError, match="^x must have a valid"):
        adopted(machine, value, "x", F8)


@pytest.mark.parametrize(
    "theirs, ours, waits", [(None, 0, []), (1, 0, []), (7, 0, [(0, 7)]), (7, 7, []), (1, 7, [(7, 1)])]
)
def test_our_stream_waits_for_the_producers(machine, theirs, ours, waits):
    with machine.on(ours):
        adopted(machine, Interface(np.arange(3.0), stream=theirs), "x", F8)
    assert machine.waits == waits


@pytest.mark.parametrize("versioned", VERSIONED)
@pytest.mark.parametrize("knows", [("stream", "max_version"), ("stream",), ()])
def test_capsules_in(machine, versioned, knows):
    value = Capsules(np.arange(6.0)[1::2], knows=knows, versioned=versioned)
    with machine.on(5):
        same(adopted(machine, value, "x", F8).numpy(), [1, 3, 5])
    assert value.asked == [{k: v for k, v in {"stream": 5, "max_version": (1, 0)}.items() if k in knows}]
    adopted(machine, value, "x", F8)
    assert value.asked[1].get("stream", 1) == 1
    assert machine.waits == []  # it is the producer that sees to it


def test_memory_that_moves_is_on_the_device(machine):
    assert adopted(machine, Capsules(np.arange(3.0), (13, 0)), "x", F8).shape == (3,)


@pytest.mark.parametrize("device", [(1, 0), (3, 0), (10, 0)])
def test_capsules_of_other_devices(machine, device):
    value = Capsules(np.arange(3.0), device)
    assert adopted(machine, value, "x", F8) is None
    assert kind_of(value) is None
    assert value.asked == []


def test_another_device_of_the_same_kind(machine):
    with pytest.raises(ValueError, match="^x must be on the same device as the parameters, cuda:0, got one on cuda:1$"):
        adopted(machine, Capsules(np.arange(3.0), (2, 1)), "x", F8)
    other = Emulated()
    other.ordinal = 2
    with pytest.raises(ValueError, match="^x must be on the same device as the parameters, cuda:0, got one on cuda:2$"):
        adopted(machine, DeviceArray.zeros(other, (3,), F8), "x", F8)


def test_capsules_that_cant_be_read(machine):
    def to(place, what):
        def change(name, at):
            offset = {"version": 0, "type": OFFSETS[name] + 20}[place]
            ctypes.memmove(at + offset, what, len(what))

        return change

    value = Capsules(np.zeros(3, np.int16), change=to("type", b"\x04"))
    with pytest.raises(TypeError, match="^x must be of dtype float32, got bfloat16$"):
        adopted(machine, value, "x", F4)
    with pytest.raises(TypeError, match="NumPy's in native byte order, got bfloat16"):
        adopted(machine, value, "x", None)
    value = Capsules(np.zeros(3, np.int16), change=to("type", b"\x04\x10\x02"))
    with pytest.raises(TypeError, match="^x must be of dtype float32, got bfloat16x2$"):
        adopted(machine, value, "x", F4)
    if True in VERSIONED:
        host = np.zeros(3)
        before = sys.getrefcount(host)
        value = Capsules(host, versioned=True, change=to("version", struct.pack("@II", 2, 1)))
        with pytest.raises(TypeError, match="^x must be an array that can be read, .* version 1 is needed, got 2.1"):
            adopted(machine, value, "x", F8)
        del value
        gc.collect()
        assert sys.getrefcount(host) == before

    class Refuses(Capsules):
        def __dlpack__(self, **options):
            raise BufferError("no, never")

    with pytest.raises(TypeError, match="^x must be an array that can be read, its library says: no, never"):
        adopted(machine, Refuses(np.zeros(3)), "x", F8)

    class Twice(Capsules):
        def __dlpack__(self, **options):
            capsule = self.array.__dlpack__()
            used.append(dlpack.take(capsule))
            return capsule

    used = []
    with pytest.raises(TypeError, match="^x must be .* that nobody has used"):
        adopted(machine, Twice(np.zeros(3)), "x", F8)


class Counted(np.ndarray):
    """An array that can be watched."""


def watched(array):
    host = np.array(array).view(Counted)
    return host, weakref.ref(host)


@both
def test_owners_live_as_long_as_the_last_array(machine, way):
    host, alive = watched(np.arange(12.0).reshape(3, 4))
    value = way(host)
    found = adopted(machine, value, "x", F8)
    kept = found[1:].swapaxes(0, 1)[2]
    del host, value, found
    gc.collect()
    assert alive() is not None
    same(kept.numpy(), [6, 10])
    del kept
    gc.collect()
    assert alive() is None


def test_sizes_of_nothing_keep_nobody_waiting(machine):
    host, alive = watched(np.zeros((0, 3)))
    found = adopted(machine, Capsules(host), "x", F8)
    assert found.shape == (0, 3)
    del host, found
    gc.collect()
    assert alive() is None


# Out


@pytest.mark.parametrize("versioned", VERSIONED)
@pytest.mark.parametrize("which", HOSTS)
def test_out_without_a_copy(machine, versioned, which):
    host = HOSTS[which]()
    array = adopted(machine, Interface(host, data=(host.ctypes.data, False)), "x", None)
    machine.ordinal = 3
    assert array.__dlpack_device__() == (2, 3)
    capsule = array.__dlpack__(stream=1, max_version=(1, 1) if versioned else None)
    reader = Reader(capsule)
    assert reader.name == (b"dltensor_versioned" if versioned else b"dltensor")
    assert reader.device == (2, 3)
    assert reader.flags == 0
    assert reader.shape == host.shape
    assert reader.dtype == host.dtype
    assert reader.data == (host.ctypes.data if host.size else 0)
    same(reader.numbers(), host)
    if versioned:
        assert reader.version[0] == 1
    reader.close()


@pytest.mark.parametrize("versioned", VERSIONED)
def test_what_is_out_keeps_its_memory(machine, versioned):
    array = DeviceArray.put(machine, np.arange(3.0))
    alive = weakref.ref(array)
    capsule = array.__dlpack__(max_version=(1, 0) if versioned else None)
    reader = Reader(capsule)
    del array, capsule
    gc.collect()
    assert alive() is not None
    same(reader.numbers(), [0, 1, 2])
    reader.close()
    gc.collect()
    assert alive() is None


def test_a_capsule_that_nobody_takes(machine):
    array = DeviceArray.put(machine, np.arange(3.0))
    alive = weakref.ref(array)

    def lose(array):
        capsule = array.__dlpack__()
        assert alive() is not None
        raise KeyError(capsule is not None)  # on its way while the capsule is given up

    with pytest.raises(KeyError):
        lose(array)
    del array
    gc.collect()
    assert alive() is None


def test_nothing_is_left(machine):
    def left():
        """How many there are, also of earlier tests; a dead proxy of somebody's has no class to be asked for."""
        gc.collect()
        return sum(type(a) in (dlpack._Taken, dlpack._Foreign) for a in gc.get_objects())

    array = DeviceArray.put(machine, np.arange(3.0))
    before, others = sys.getrefcount(array), left()
    for _ in range(100):
        array.__dlpack__()
        Reader(array.__dlpack__(max_version=(1, 0))).close()
        adopted(machine, Capsules(array.numpy()), "x", F8)
    assert left() <= others
    assert sys.getrefcount(array) == before


@pytest.mark.parametrize(
    "theirs, ours, waits",
    [(None, 0, []), (1, 0, []), (-1, 0, []), (5, 0, [(5, 1)]), (5, 5, []), (None, 5, [(1, 5)]), (-1, 5, [])],
)
def test_the_consumers_stream_waits_for_ours(machine, theirs, ours, waits):
    array = DeviceArray.put(machine, np.arange(3.0))
    with machine.on(ours):
        array.__dlpack__(stream=theirs)
        assert array.__cuda_array_interface__["stream"] == (ours or 1)
    assert machine.waits == waits
    assert machine.stream == 0


def test_what_cant_be_given(machine):
    array = DeviceArray.put(machine, np.arange(4.0))
    with pytest.raises(ValueError, match="stream must not be 0"):
        array.__dlpack__(stream=0)
    with pytest.raises(BufferError, match=r"dl_device must be \(2, 0\)"):
        array.__dlpack__(dl_device=(1, 0))
    array.__dlpack__(dl_device=(2, 0))
    array.readonly = True
    with pytest.raises(BufferError, match=r"give its copy\(\)"):
        array[1:].__dlpack__()
    if True in VERSIONED:
        reader = Reader(array.__dlpack__(max_version=(1, 0)))
        assert reader.flags == 1
        reader.close()
        reader = Reader(array.__dlpack__(max_version=(1, 0), copy=True))
        assert reader.flags == 2
        assert reader.data != machine.address(array.flat)
        same(reader.numbers(), array.numpy())
        reader.close()


def test_a_numpy_without_versions(machine, monkeypatch):
    class Old(np.ndarray):
        def __dlpack__(self):
            return np.ndarray.__dlpack__(self)

    array, asarray = DeviceArray.put(machine, np.arange(4.0)), np.asarray
    monkeypatch.setattr(dlpack.np, "asarray", lambda a: asarray(a).view(Old))
    reader = Reader(array.__dlpack__(max_version=(1, 0)))
    assert reader.name == b"dltensor"
    same(reader.numbers(), [0, 1, 2, 3])
    reader.close()
    array.readonly = True
    with pytest.raises(BufferError, match="needs NumPy 2.1"):
        array.__dlpack__(max_version=(1, 0))


class OnTheHost:
    """An array of ours that says it is on the host: libraries without a GPU take it."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        capsule = self.array.__dlpack__(stream=stream, max_version=max_version)
        name, at = pointed(capsule)
        ctypes.memmove(at + OFFSETS[name] + 8, struct.pack("@ii", 1, 0), 8)
        return capsule


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_other_libraries_read_our_capsules(machine, library):
    from_dlpack = pytest.importorskip(library).from_dlpack
    array = DeviceArray.put(machine, np.arange(24, dtype="f").reshape(2, 3, 4)).swapaxes(0, 1)[:, :, 1:3]
    alive, wanted = weakref.ref(array), array.numpy()
    theirs = from_dlpack(OnTheHost(array))
    del array
    gc.collect()
    same(np.asarray(theirs), wanted)
    assert alive() is not None
    del theirs
    gc.collect()
    assert alive() is None
    assert from_dlpack(OnTheHost(DeviceArray.zeros(machine, (2, 0), np.float64))).shape == (2, 0)


def test_cuda_core_reads_our_capsules(machine):
    utils = pytest.importorskip("cuda.core.utils")
    array = DeviceArray.put(machine, np.arange(12.0).reshape(3, 4)).swapaxes(0, 1)
    view = utils.StridedMemoryView.from_dlpack(array, stream_ptr=0)
    assert (view.ptr, view.shape, view.strides) == (machine.address(array.flat), (4, 3), (1, 4))
    assert (view.dtype, view.device_id, view.is_device_accessible, view.readonly) == (F8, 0, True, False)


def test_there_and_back(machine):
    class Theirs:
        def __init__(self, array):
            self.array = array
            self.__dlpack_device__, self.__dlpack__ = array.__dlpack_device__, array.__dlpack__

    array = DeviceArray.put(machine, np.arange(12.0).reshape(3, 4)).swapaxes(0, 1)
    found = adopted(machine, Theirs(array), "x", F8)
    assert (found.shape, found.strides, found.machine) == (array.shape, array.strides, machine)
    assert machine.address(found.flat) == machine.address(array.flat)
    found = adopted(machine, Interface(np.zeros(1), **array.__cuda_array_interface__), "x", F8)
    assert (found.shape, found.strides) == (array.shape, array.strides)


# Libraries


class Stream(int):
    pass


def library(monkeypatch, **modules):
    """Put modules where the real ones would be."""
    for name, names in modules.items():
        name = name.replace("_", ".")
        module = types.ModuleType(name)
        for key, value in names.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)


class FakeTensor(Interface):
    is_cuda, requires_grad, ordinal = True, False, 0
    is_sparse = False

    def __init__(self, array, **changes):
        super().__init__(array, version=2, **changes)
        del self.__cuda_array_interface__["stream"]

    def get_device(self):
        return self.ordinal


def test_torch(machine, monkeypatch):
    stream, given = [0], []

    def from_dlpack(array):  # as torch does it
        given.append(Reader(array.__dlpack__(stream=stream[0] or 1, max_version=(1, 0))))
        return FakeTensor(given[-1].numbers())

    cuda = types.SimpleNamespace(current_stream=lambda ordinal: types.SimpleNamespace(cuda_stream=stream[ordinal]))
    library(monkeypatch, torch={"Tensor": FakeTensor, "from_dlpack": from_dlpack, "cuda": cuda})
    x = FakeTensor(np.arange(3.0))
    kind = kind_of(x)
    assert kind.stream() == 0
    found = adopted(machine, x, "x", F8)
    same(found.numpy(), [0, 1, 2])
    same(kind.wrap(found).array, [0, 1, 2])
    assert machine.waits == []
    stream[0] = 9
    with machine.on(kind.stream()):
        found = adopted(machine, x, "x", F8)
        kind.wrap(found)
    assert machine.waits == []
    found = adopted(machine, x, "x", F8)
    kind.wrap(found)
    assert machine.waits == [(0, 9), (9, 1)]
    for reader in given:
        reader.close()
    with pytest.raises(
        TypeError, match=r"^x must be of dtype float32, got float64; convert it: x.to\(torch.float32\)$"
    ):
        adopted(machine, x, "x", F4)
    x.requires_grad = True
    with pytest.raises(TypeError, match=r"^h_0 of state must not require a gradient.* give h_0.detach\(\)$"):
        adopted(machine, x, "h_0 of state", F8)
    x.requires_grad, x.ordinal = False, 1
    stream.append(0)
    with pytest.raises(ValueError, match="^x must be on the same device .* got one on cuda:1$"):
        adopted(machine, x, "x", F8)
    x.is_cuda = False
    assert kind_of(x) is None
    assert adopted(machine, x, "x", F8) is None


def test_tensors_on_the_host():
    torch = pytest.importorskip("torch")
    machine = Emulated()
    for value in (torch.zeros(3), torch.zeros(3, requires_grad=True), torch.zeros(3, device="meta")):
        assert kind_of(value) is None
        assert adopted(machine, value, "x", F4) is None


def test_cupy(machine, monkeypatch):
    class Array(Interface):
        device = types.SimpleNamespace(id=0)

    given = []
    cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=4))
    library(monkeypatch, cupy={"ndarray": Array, "from_dlpack": lambda a: given.append(a) or "theirs", "cuda": cuda})
    x = Array(np.arange(3.0), stream=4)
    kind = kind_of(x)
    assert kind.stream() == 4
    with machine.on(kind.stream()):
        found = adopted(machine, x, "x", F8)
    assert machine.waits == []
    assert kind.wrap(found) == "theirs"
    assert given == [found]
    with pytest.raises(TypeError, match=r'convert it: x.astype\("float32"\)$'):
        adopted(machine, x, "x", F4)
    x.device = types.SimpleNamespace(id=2)
    with pytest.raises(ValueError, match="got one on cuda:2"):
        adopted(machine, x, "x", F8)


def test_numba(machine, monkeypatch):
    class Array(Interface):
        stream = 0

    given = []
    of = {"numba.cuda": {"as_cuda_array": lambda a, sync: given.append((a, sync)) or "theirs"}}
    library(monkeypatch, **of, **{"numba.cuda.cudadrv.devicearray": {"DeviceNDArray": Array}})
    x = Array(np.arange(3.0))
    assert kind_of(x).stream() is None
    x.stream = Stream(6)
    kind = kind_of(x)
    assert kind.stream() == 6
    found = adopted(machine, x, "x", F8)
    assert kind.wrap(found) == "theirs"
    assert given == [(found, False)]
    with pytest.raises(TypeError, match="^x must be of dtype float32, got float64$"):
        adopted(machine, x, "x", F4)


def test_numbas_names_are_where_they_are_looked_for():
    if not nvvm.has_numba_cuda():  # what numba itself has isn't asked for
        pytest.skip("numba-cuda is not installed")
    from numba import cuda

    assert isinstance(sys.modules["numba.cuda.cudadrv.devicearray"].DeviceNDArray, type)
    assert "sync" in inspect.signature(cuda.as_cuda_array).parameters


def test_jax(machine, monkeypatch):
    class Array(Capsules):
        @property
        def __cuda_array_interface__(self):
            raise AssertionError("it doesn't say what to wait for")

    given = []
    library(monkeypatch, jax={"Array": Array}, jax_dlpack={"from_dlpack": lambda a: given.append(a) or "theirs"})
    x = Array(np.arange(3.0))
    kind = kind_of(x)
    assert kind.stream() is None
    found = adopted(machine, x, "x", F8)
    assert found.readonly
    assert x.asked[0]["stream"] == 1
    assert kind.wrap(found) == "theirs"
    assert given == [found]
    x.device = (1, 0)
    assert kind_of(x) is None


def test_what_others_raise_is_said_of_the_argument(machine):
    class Raises:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("not while it is busy")

    assert kind_of(Raises()) is OURS
    with pytest.raises(TypeError, match="^x must be an array that can be read, its library says: not while it is busy"):
        adopted(machine, Raises(), "x", F8)


def test_what_isnt_on_a_device(machine, monkeypatch):
    seen = []
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *a, **k: seen.append(name) or real(name, *a, **k))
    values = (None, 3, 2.5, [1, 2], np.zeros(3), np.float32(1), "text", object(), {"version": 3})
    found = [(kind_of(value), adopted(machine, value, "x", F8)) for value in values]
    monkeypatch.undo()
    assert found == [(None, None)] * len(values)
    assert not {"torch", "cupy", "jax", "numba"} & {name.split(".")[0] for name in seen}


def test_parameters_take_arrays_of_others(machine):
    net = nbrnn.GRU(2, 3, rng=0).to("cuda")
    numbers = np.arange(net.flat.size, dtype="f")
    net.flat = Interface(numbers)
    same(net.flat.numpy(), numbers)
    net.flat = Capsules(numbers[::-1].copy())
    same(net.flat.numpy(), numbers[::-1])
    with pytest.raises(TypeError, match="float32, got float64"):
        net.flat = Interface(numbers.astype("d"))
    with pytest.raises(ValueError, match="^flat must be on the same device"):
        net.flat = Capsules(numbers, (2, 1))
