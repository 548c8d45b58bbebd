"""The one decorator of every compiled loop, and its cache on disk.

Numba keys a cached function on the source of its own file.  Our loops are thin: what they compute is emitted by
primitives in other files, so an edit there would be served stale.  ``@kernel`` therefore puts a digest of *every*
source file that compiled code is made of into the key, and keeps one file per specialisation, named by that key:
nothing shared can be half-written, several processes may start cold at once, and one cell's cache never depends on
another's.  Those files are the *core*: the cells, the backends, and what they rest on.  A kernel elsewhere (a loss, an
optimiser) is made of its own file and the core; ``tests/test_layout.py`` sees to it that no kernel imports more.

A cache is a convenience.  Whatever goes wrong with it (a truncated file, a folder that can't be written, a private
interface of Numba that has moved) means "compile again", and never reaches the user.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pathlib
import pickle
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import llvmlite
import numba
from numba.core import config
from numba.core.caching import FunctionCache
from numba.core.compiler import Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys
from numba.core.serialize import dumps


def digest_of(*paths: pathlib.Path) -> str:
    """Digest of the contents of source files, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        text = path.read_bytes()
        total.update(b"%d:" % len(text) + text)
    return total.hexdigest()[:16]


_PACKAGE = pathlib.Path(__file__).parent

#: Folders and files, from the package, that make up the core of what Numba compiles for the CPU.
CORE = ("_cells", "_cpu", "_check.py", "_kernel.py", "_memory.py", "_nets.py", "jit.py")
#: And of what is compiled for GPUs, by a cache of its own (``_cuda``).
CUDA_CORE = ("_cells", "_cuda")


def core_of(package: pathlib.Path, names: tuple[str, ...] = CORE) -> list[pathlib.Path]:
    """The source files of a core."""
    return sorted(
        path for name in names for path in [package / name, *(package / name).rglob("*")] if path.suffix == ".py"
    )


_SOURCES = core_of(_PACKAGE)

#: Stands in every cache key, and in the names of the network types (see ``_nets``).
SOURCE_DIGEST = digest_of(*_SOURCES)


@functools.cache
def _digest_for(path: pathlib.Path) -> str:
    """Digest of what the kernels of a source file are made of."""
    if path in _SOURCES:
        return SOURCE_DIGEST
    return hashlib.sha256(f"{SOURCE_DIGEST} {digest_of(path)}".encode()).hexdigest()[:16]


class PackageCache(FunctionCache):  # type: ignore[misc]
    """Numba's function cache with the whole core in the key and one file for each specialisation."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._digest = _digest_for(pathlib.Path(function.__code__.co_filename))

    def _path(self, sig: Any, codegen: Any) -> pathlib.Path:
        options = (
            config.OPT,
            config.BOUNDSCHECK,
            config.DEBUGINFO_DEFAULT,
            config.LOOP_VECTORIZE,
            config.SLP_VECTORIZE,
        )
        versions = (numba.__version__, llvmlite.__version__)
        key = (super()._index_key(sig, codegen), self._digest, versions, repr(options))
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return pathlib.Path(self.cache_path, f"{self._impl.filename_base}-{self._digest}-{name}.nbc")

    def _sweep(self, folder: pathlib.Path) -> None:
        """Remove what earlier sources of the package left behind for this function, and what killed processes did."""
        function = self._impl.filename_base.split("-")[0]
        for path in folder.glob(f"{function}-*.nbc"):
            if self._digest not in path.name:
                path.unlink(missing_ok=True)
        for path in folder.glob(f"{function}-*.nbc.*.tmp"):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            # Numba would load everything it can compile first (and SciPy's linear algebra with it: 0.2 s); finished
            # code needs only the run time that it was linked with.
            rtsys.initialize(target_context)
            blob = self._path(sig, target_context.codegen()).read_bytes()
            # Object code is about to be executed: a damaged file must be noticed, not only an unreadable one.
            if hashlib.sha256(blob[32:]).digest() != blob[:32]:
                return None
            return self._impl.rebuild(target_context, pickle.loads(blob[32:]))
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            if data.library.has_dynamic_globals:
                return  # holds addresses of this process (as without optimisation, NUMBA_OPT=0)
            self._impl.locator.ensure_cache_path()
            path = self._path(sig, data.codegen)
            blob = dumps(self._impl.reduce(data))
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            try:
                temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._sweep(path.parent)
        except Exception:
            return


def kernel(function: Callable[..., Any] | None = None, *, inline: bool = False, allocates: bool = False) -> Any:
    """Compile a loop with Numba, lazily, releasing the GIL, cached on disk under a key that sees the whole core.

    ``error_model="numpy"``: an integer division by a size that is checked beforehand needs no branch that raises.
    No ``fastmath``: it would drop NaN, and change bits with the surrounding code.  ``inline``: become part of compiled
    callers, so that what their arguments' references cost goes away with the call.

    References to arrays aren't counted: whoever calls from Python holds them.  Counting is atomic, so threads that
    share a call would hand one cache line back and forth for each row: two took longer than one.  ``allocates``: the
    kernel makes arrays, and counts.  Neither kind may give an array back to the other.
    """
    if function is None:
        return functools.partial(kernel, inline=inline, allocates=allocates)
    dispatcher = _dispatcher(function, inline, allocates)
    try:
        if not (hasattr(dispatcher, "_cache") and hasattr(FunctionCache, "_index_key")):
            raise AttributeError("Numba's cache interface has moved")
        if not _SOURCES:
            raise FileNotFoundError("the package's sources can't be read, so that a stale entry could not be told")
        dispatcher._cache = PackageCache(function)
    except Exception as error:
        _warn_uncached(str(error))
    return dispatcher


def part(
    function: Callable[..., Any] | None = None, *, inline: bool = False, pasted: bool = False, allocates: bool = False
) -> Any:
    """A function that kernels are made of: like ``kernel``, but called by compiled code only.

    Numba would give each an entry for Python, which has to look into every field of every argument, and machine code of
    its own, and we would keep that on disk.  But LLVM makes their code a part of their callers'.  So nothing is done
    here but what callers need: a layer's kernels are compiled in four fifths of the time.

    ``pasted``: become part of a caller before that is compiled, so that what is called at one place only isn't compiled
    by itself at all.
    """
    if function is None:
        return functools.partial(part, inline=inline, pasted=pasted, allocates=allocates)
    dispatcher = _dispatcher(function, inline, allocates, inline="always" if pasted else "never")
    if hasattr(Flags, "no_compile") and hasattr(getattr(dispatcher, "_compiler", None), "_customize_flags"):
        _leave_uncompiled(dispatcher)  # else Numba's interface has moved: then they are compiled
    return dispatcher


def _dispatcher(function: Callable[..., Any], forceinline: bool, allocates: bool, **more: Any) -> Any:
    with _jit_enabled():
        return numba.njit(nogil=True, error_model="numpy", forceinline=forceinline, _nrt=allocates, **more)(function)


def _leave_uncompiled(dispatcher: Any) -> None:
    """Let Numba stop at LLVM's code.

    It knows an overload by what it calls the entry point, so each gets something in its place that nobody can call.
    """

    def flags_for(flags: Any) -> Any:
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        return flags

    def add_overload(result: Any) -> None:
        known = result._replace(entry_point=_Nowhere())
        dispatcher.overloads[tuple(result.signature.args)] = known
        dispatcher.targetctx.insert_user_function(known.entry_point, known.fndesc, [known.library])

    def refuse(*args: Any, **names: Any) -> NoReturn:
        raise TypeError(f"{dispatcher.py_func.__name__} is a part of kernels: it can be called by compiled code only")

    dispatcher._compiler._customize_flags = flags_for
    dispatcher.add_overload, dispatcher._compile_for_args = add_overload, refuse


class _Nowhere:
    """In the place of an entry point."""


_warned = False


def _warn_uncached(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"nbrnn compiles anew in each process, since nothing can be cached: {reason}", stacklevel=4)


def compiled(dispatcher: Any, signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Entry point of the one specialisation of ``dispatcher`` for ``signature`` (compiled or loaded if need be).

    The caller declares the types (any layout, read-only) instead of letting each array's layout make a
    specialisation of its own, and skips the dispatcher's look-up: 0.13 µs a call instead of 1.6.  The entry point
    checks the dimensions of an array and the size of its numbers, but **not** their kind: check before.
    """
    with _jit_enabled():
        entry: Callable[..., Any] = dispatcher.compile(signature)
    return entry


@contextlib.contextmanager
def _jit_enabled() -> Iterator[None]:
    """NUMBA_DISABLE_JIT is for stepping through functions of one's own; primitives exist compiled only."""
    with global_compiler_lock:
        disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            yield
        finally:
            config.DISABLE_JIT = disabled


_F = TypeVar("_F", bound=Callable[..., Any])


def cached(function: _F) -> _F:
    """functools.cache, without hiding the signature from type checkers."""
    return functools.cache(function)  # type: ignore[return-value]
