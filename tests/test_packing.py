"""Packing: what a table of assignments does, and that packed weights outlive whatever comes after them."""

import gc

import numpy as np
import pytest

import nbrnn
from nbrnn._cpu import cost, isa, workers
from nbrnn._cpu.loops import move_kernel
from nbrnn._cpu.moves import TILE, Moves
from nbrnn._cpu.team import CALLER
from tests.cases import DTYPES, KINDS, Case
from tests.teams import offered


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_assignments_are_numpys(dtype, threads, monkeypatch):
    """Of rows, of columns, of blocks, of sums; shorter and longer than is moved at a time; shared or not."""
    monkeypatch.setattr(cost, "MOVED", 1)
    monkeypatch.setattr(workers, "allowed", lambda: threads)
    rng, n = np.random.default_rng(0), 2 * TILE + 3
    a, b = rng.normal(size=(2, 4, n)).astype(dtype), rng.normal(size=(n,)).astype(dtype)
    source = {"a": a.shape, "b": b.shape}
    to = {"rows": (4, n), "columns": (n, 4), "blocks": (2, 2, n), "sums": (n,)}

    def assign(put, to, a, b):
        put(to["rows"][1:], a[0, 1:])
        put(to["columns"], a[1].T)
        put(to["blocks"].transpose(0, 2, 1), a.reshape(2, 2, 2, n)[1].transpose(0, 2, 1))
        put(to["sums"], b)
        put(to["sums"][: n // 2], a[0, 0, : n // 2], True)
        put(to["rows"][:0], a[0, :0])

    def plain(to, source, add=False):
        to[...] = to + source if add else source

    moves = Moves(source, to)
    assign(moves.put, moves.to, moves.source["a"], moves.source["b"])
    table, size, room = moves.order()
    got = np.zeros(size, dtype)
    before, team, rooms = offered(), workers.team_of_moves(size, 3), np.empty(3 * room, dtype)
    given = table, np.concatenate([a.ravel(), b]), got, rooms
    if threads == 1:
        move_kernel(np.dtype(dtype))(*given)
    else:
        move_kernel(np.dtype(dtype), True)(CALLER, team, *given)
    assert (offered() > before) == (threads > 1)
    wanted = {name: np.zeros(shape, dtype) for name, shape in to.items()}
    assign(plain, wanted, a, b)
    np.testing.assert_array_equal(got, np.concatenate([w.ravel() for w in wanted.values()]))


def test_what_is_no_view_cannot_be_moved():
    moves = Moves({"a": (3, 4)}, {"b": (4, 3)})
    with pytest.raises(AssertionError):
        moves.put(moves.to["b"], moves.source["a"].T.copy())
    with pytest.raises(AssertionError):
        moves.put(moves.to["b"], moves.source["a"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", ["256", "scalar"])
def test_each_weight_stands_where_kernels_look_for_it(kind, width):
    """Number by number; and where no weight belongs stands 0."""
    case = Case(kind, "float32", T=1, B=1, I=5, H=19, P=3, L=1, seed=1)
    cell, I, H, K = case.layer.cell, 5, 19, case.K
    w = {name.removesuffix("_l0"): np.asarray(a) for name, a in case.layer.params.items()}
    with isa.use(width):
        unit = case.layer._stack().units[0]
    z, G, S = unit.form.sizes, len(cell.gates), cell.sums()
    block = 2 * z.W

    bias, from_x, from_h = np.zeros((z.J, S, z.U)), np.zeros((z.J, I, G, z.U)), np.zeros((z.J, K, G, z.U))
    dh, dx = (np.zeros((-(-n // block), G, H, block)) for n in (K, I))
    for way, gates, first, to, back in (
        ("ih", cell.of_input(), 0, from_x, dx),
        ("hh", cell.of_hidden(), S - G, from_h, dh),
    ):
        for g, u in np.ndindex(G, H):
            row = cell.gates.index(gates[g]) * H + u
            bias[u // z.U, first + g, u % z.U] += w[f"bias_{way}"][row]
            for k, weight in enumerate(w[f"weight_{way}"][row]):
                to[u // z.U, k, g, u % z.U] = weight
                back[k // block, g, u, k % block] = weight
    forward, carry = [bias, from_x, from_h], [dh]
    if cell.projected:
        projection, projected = np.zeros((z.Kp // block, H, block)), np.zeros((z.Mp // block, K, block))
        for k, u in np.ndindex(K, H):
            projection[k // block, u, k % block] = projected[u // block, k, u % block] = w["weight_hr"][k, u]
        forward.append(projection)
        carry.append(projected)
    net, (net_back, panels) = unit.net, unit.nets_back
    for buffer, parts in ((net.w, forward), (net_back.w, [*carry, dx]), (panels.w, [dx])):
        np.testing.assert_array_equal(buffer, np.concatenate([p.ravel() for p in parts]).astype(np.float32))


def test_packed_weights_stay_for_whom_they_are_in_use():
    """A stream, a tape and a compiled network keep theirs; the memory of those that nobody has is used again."""
    layer, x, dy = nbrnn.LSTM(4, 5, rng=0), np.ones((6, 3, 4), np.float32), np.ones((6, 3, 5), np.float32)
    first = layer.flat.copy()
    stream, net = layer.stream(), layer.jit()
    wanted, w = stream(x[0, 0]), net.w.copy()
    _, _, tape = layer.forward(x)
    kept = tape.stack.units[0].net.w.copy()
    for q in (2, 3):
        layer.flat = q * first
        layer(x)
    np.testing.assert_array_equal(tape.stack.units[0].net.w, kept)
    stream.reset()
    np.testing.assert_array_equal(stream(x[0, 0]), wanted)
    np.testing.assert_array_equal(net.w, w)
    del stream, tape

    def places():
        unit = layer._stack().units[0]
        layer.backward(layer.forward(x)[2], dy)
        return unit.net.w.ctypes.data, unit.nets_back[0].w.ctypes.data

    layer.flat = first
    before = places()
    for q in (2, 3):
        layer.flat = q * first
        gc.collect()
        assert places() == before
    assert not layer._stack().units[0].net.w.flags.writeable
