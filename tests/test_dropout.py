"""Philox: known answers, and the place as the counter."""

import numpy as np
import pytest

import nbrnn
from nbrnn._cpu import dropout as module
from nbrnn._cpu.unit import dropout
from tests.reference import philox as reference

#: From the known-answer tests of Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    assert reference.philox(counter, key) == words
    assert tuple(map(int, module.philox(*map(np.uint64, counter + key)))) == words


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_depend_on_the_place_alone(directions, dtype):
    key, p, layer, t0 = (123456789, 987654321), 0.3, 2, 5
    x = np.random.default_rng(0).normal(size=(4, 3, 6 * directions)).astype(dtype)
    y = dropout(x, p, key, module.BETWEEN_LAYERS, layer, directions, t0)
    for t, b, n in np.ndindex(x.shape):
        d, unit = divmod(n, 6)
        keep = reference.kept(key, 0, layer, d, t0 + t, b, unit, p)
        assert y[t, b, n] == (x[t, b, n] * dtype(1 / (1 - p)) if keep else 0)


def test_forward_draws_one_key():
    layer, x = nbrnn.GRU(3, 5, 3, dropout=0.5), np.ones((4, 2, 3), np.float32)
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    layer.forward(x, rng=rng)
    twin.integers(0, 2**32, 2)
    assert rng.bit_generator.state == twin.bit_generator.state


def test_forward_drops_and_a_call_does_not():
    layer, x = nbrnn.GRU(3, 50, 2, dropout=0.5, rng=0), np.ones((4, 2, 3), np.float32)
    a, b, inferred = layer.forward(x)[0], layer.forward(x)[0], layer(x)[0]
    assert (a != b).any()
    assert (a != inferred).any()
    np.testing.assert_array_equal(layer.forward(x, rng=5)[0], layer.forward(x, rng=5)[0])
    np.testing.assert_array_equal(inferred, layer(x)[0])
