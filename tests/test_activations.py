"""exp, sigmoid and tanh of the kernels: accuracy over the whole range, special values, every vector width.

    python -m tests.test_activations

prints the table of the docs, for float32 over all numbers there are (takes minutes).
"""

import mpmath
import numpy as np
import pytest

from nbrnn._cpu import isa
from nbrnn._cpu.activation import activate

NAMES = ("exp", "sigmoid", "tanh")

#: Largest error in units of the last place, as stated in the docs: float32 over all of its numbers, float64 sampled.
LARGEST = {
    ("exp", "float32"): 1.019,
    ("sigmoid", "float32"): 2.402,
    ("tanh", "float32"): 1.950,
    ("exp", "float64"): 1.1,
    ("sigmoid", "float64"): 2.5,
    ("tanh", "float64"): 2.1,
}

#: Where an earlier version had its largest errors in float64, among 2 * 10^8 numbers for each function.
WORST = [
    -4.493804646112219,
    -223.53111673164597,
    -4.845864983996227,
    -5.543155907587943,
    -0.20137934471424054,
    6.000382280552444,
]


def points(dtype, count):
    """Numbers of all magnitudes, and many where the functions change."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), count, dtype=np.uint64)
    anything = bits.astype(np.uint32).view(np.float32) if dtype == "float32" else bits.view(np.float64)
    most = 110 if dtype == "float32" else 760
    parts = [anything, rng.uniform(-most, most, count), rng.normal(size=count), rng.normal(size=count) * 10]
    parts.append(rng.normal(size=count) * 10.0 ** rng.uniform(-40, 1, count))
    x = np.concatenate([p.astype(dtype) for p in parts])
    return x[np.isfinite(x)]


def exact32(name, x):
    """In float64, far more accurate than float32 needs."""
    from scipy.special import expit

    with np.errstate(over="ignore", under="ignore"):
        return {"exp": np.exp, "sigmoid": expit, "tanh": np.tanh}[name](x.astype(np.float64))


def ulp(got, exact, dtype):
    """|got - exact| in units of the last place of the exact value; 0 where both overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = exact.astype(dtype)
        unit = np.spacing(np.minimum(np.abs(nearest), np.finfo(dtype).max)).astype(np.float64)
        return np.where(np.isinf(nearest) & (got == nearest), 0, np.abs(got.astype(np.float64) - exact) / unit)


def largest32(name, count):
    x = points("float32", count)
    return ulp(activate(name, x), exact32(name, x), np.float32).max()


def largest64(name, count):
    """Against mpmath, the error itself taken in 40 digits."""
    x = np.concatenate([points("float64", count), WORST])
    got = activate(name, x)
    worst = 0.0
    with mpmath.workdps(40):
        function = {"exp": mpmath.exp, "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)), "tanh": mpmath.tanh}[name]
        for a, b in zip(x, got, strict=True):
            exact = function(mpmath.mpf(float(a)))
            nearest = float(exact)
            if np.isinf(nearest) or np.isinf(b):
                assert b == nearest or abs(exact) > mpmath.mpf(np.finfo(np.float64).max) * (1 - 2**-52)
                continue
            worst = max(worst, float(abs(mpmath.mpf(float(b)) - exact) / mpmath.mpf(float(np.spacing(abs(nearest))))))
    return worst


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", isa.WIDTHS)
def test_float32_accuracy(name, width):
    with isa.use(width):
        assert largest32(name, 200_000) <= LARGEST[name, "float32"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", isa.WIDTHS)
def test_float64_accuracy(name, width):
    with isa.use(width):
        assert largest64(name, 1500) <= LARGEST[name, "float64"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", isa.WIDTHS)
def test_special_values_are_scipys(name, width, dtype):
    from scipy.special import expit

    info = np.finfo(dtype)
    x = np.array(
        [np.nan, np.inf, -np.inf, 0.0, -0.0, info.max, -info.max, info.tiny, -info.tiny,
         info.smallest_subnormal, -info.smallest_subnormal],
        dtype,
    )  # fmt: skip
    with np.errstate(over="ignore"):
        wanted = {"exp": np.exp, "sigmoid": expit, "tanh": np.tanh}[name](x)
    with isa.use(width):
        got = activate(name, x)
    np.testing.assert_array_equal(got, wanted)
    number = ~np.isnan(wanted)  # the sign of NaN means nothing
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(wanted[number]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_width_gives_the_same_bits(name, dtype):
    x = points(dtype, 2000)
    results = []
    for width in isa.WIDTHS:
        with isa.use(width):
            results.append(activate(name, x))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rests_of_rows(dtype):
    """Arrays of every length around the vector: nothing beyond the end is written."""
    for n in range(70):
        x = np.linspace(-3, 3, n).astype(dtype)
        np.testing.assert_allclose(activate("tanh", x), np.tanh(x), rtol=1e-6)


def every32(name):
    """Largest error over all finite float32."""
    worst = 0.0
    for start in range(0, 2**32, 2**24):
        x = np.arange(start, start + 2**24, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        if x.size:
            worst = max(worst, ulp(activate(name, x), exact32(name, x), np.float32).max())
    return worst


if __name__ == "__main__":
    for name in NAMES:
        print(f"float32 {name:8s}        : {every32(name):.3f} ulp over all numbers", flush=True)
        print(f"float64 {name:8s}        : {largest64(name, 200_000):.3f} ulp among a million", flush=True)
