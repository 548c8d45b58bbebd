"""Against torch: random shapes and all flags, outputs, states and every gradient.

torch knows neither resets nor sequences of length 0, and draws its dropout elsewhere.  So each stretch between cuts
of each sequence is run by itself, and layer by layer where there is dropout, with our own mask in between.

NBRNN_TORCH_CASES sets how many cases are tried.
"""

import os

import numpy as np
import pytest

from tests.cases import KINDS, Case
from tests.reference.philox import kept
from tests.tolerances import error, tolerance

torch = pytest.importorskip("torch")

CASES = int(os.environ.get("NBRNN_TORCH_CASES", "600"))


def random_case(seed):
    rng = np.random.default_rng(seed)
    large = rng.random() < 0.1
    flags = rng.random(8) < 0.5
    layers = int(rng.choice([1, 1, 2, 3]))
    return Case(
        kind=KINDS[seed % len(KINDS)],
        dtype=("float32", "float64")[seed // len(KINDS) % 2],
        T=int(rng.integers(60, 200) if large else rng.integers(0, 13)),
        B=int(rng.integers(1, 4) if large else rng.integers(0, 12)),
        I=int(rng.integers(1, 60 if large else 12)),
        H=int(rng.integers(30, 150) if large else rng.integers(1, 40)),
        P=int(rng.integers(1, 60)),
        L=layers,
        bidirectional=bool(flags[0]),
        bias=bool(flags[1] or rng.random() < 0.5),
        batch_first=bool(flags[2]),
        batched=bool(flags[3] or rng.random() < 0.5),
        dropout=float(rng.choice([0, 0, 0, 0.3])) if layers > 1 and not large else 0.0,
        ragged=bool(flags[4]),
        cut=bool(flags[5]),
        stateful=bool(flags[6]),
        checkpoint=[None, None, 1, 3, "sqrt"][int(rng.integers(0, 5))],
        seed=seed,
    )


def modules_of(case):
    """torch modules with the case's parameters: one for the whole stack, or one for each layer."""
    kind = {"tanh": "RNN", "relu": "RNN", "projected": "LSTM"}.get(case.kind, case.kind)
    options = {"nonlinearity": case.kind} if kind == "RNN" else {}
    options |= {"proj_size": case.P} if case.P else {}
    options |= {"bias": case.bias, "bidirectional": case.bidirectional, "dtype": getattr(torch, case.dtype)}
    split = case.dropout > 0
    made = []
    for layer in range(case.L if split else 1):
        inputs = case.I if layer == 0 else case.D * case.K
        module = getattr(torch.nn, kind)(inputs, case.H, num_layers=1 if split else case.L, **options)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                ours = name.replace("_l0", f"_l{layer}") if split else name
                parameter.copy_(torch.from_numpy(case.layer.params[ours].copy()))
        made.append(module)
    return made


def gradient(tensor):
    """Of a tensor; zeros where nothing led there."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def run_torch(case, key):
    """All results by name, from torch."""
    modules, D = modules_of(case), case.D
    x, h, c = (torch.from_numpy(a.copy()).requires_grad_() for a in (case.x, case.h, case.c))
    units = case.L * D // len(modules)
    y_rows, h_rows, c_rows = [], [], []
    for b in range(case.B):
        length = case.T if case.lengths is None else int(case.lengths[b])
        starts = [0] + [t for t in range(1, length) if case.cut and case.resets[t, b]]
        discarded = length > 0 and case.cut and bool(case.resets[0, b])
        given, after_h, after_c = x[:length, b], list(h[:, b]), list(c[:, b])
        for q, module in enumerate(modules):
            gave = []
            for start, end in zip(starts, [*starts[1:], length], strict=True):
                if start == end:
                    continue
                state_h, state_c = [], []
                for unit in range(q * units, (q + 1) * units):
                    enters = (start == 0 and not discarded) if unit % D == 0 else end == length
                    state_h.append(h[unit, b] if enters else torch.zeros_like(h[unit, b]))
                    state_c.append(c[unit, b] if enters else torch.zeros_like(c[unit, b]))
                state = torch.stack(state_h)[:, None]
                if case.has_c:
                    state = (state, torch.stack(state_c)[:, None])
                y, state = module(given[start:end, None], state)
                gave.append(y[:, 0])
                for unit in range(q * units, (q + 1) * units):
                    if end == length if unit % D == 0 else start == 0:
                        after_h[unit] = (state[0] if case.has_c else state)[unit - q * units, 0]
                        after_c[unit] = state[1][unit - q * units, 0] if case.has_c else after_c[unit]
            given = torch.cat(gave) if gave else torch.zeros(0, D * case.K, dtype=x.dtype)
            if q < len(modules) - 1:
                keep = [
                    [kept(key, 0, q, n // case.K, t, b, n % case.K, case.dropout) for n in range(D * case.K)]
                    for t in range(length)
                ]
                given = given * torch.tensor(keep, dtype=x.dtype).reshape(given.shape) / (1 - case.dropout)
        y_rows.append(torch.cat([given, torch.zeros(case.T - length, D * case.K, dtype=x.dtype)]))
        h_rows.append(torch.stack(after_h))
        c_rows.append(torch.stack(after_c))
    if case.B == 0:
        return None
    y, h_after, c_after = (torch.stack(a, 1) for a in (y_rows, h_rows, c_rows))
    total = (y * torch.from_numpy(case.dy)).sum() + (h_after * torch.from_numpy(case.dh)).sum()
    if case.has_c:
        total = total + (c_after * torch.from_numpy(case.dc)).sum()
    total.backward()
    results = {"y": y, "h": h_after, "dx": gradient(x), "dh": gradient(h)}
    if case.has_c:
        results |= {"c": c_after, "dc": gradient(c)}
    for layer, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            ours = name.replace("_l0", f"_l{layer}") if len(modules) > 1 else name
            results[ours] = gradient(parameter)
    return {name: a.detach().numpy() for name, a in results.items()}


def errors_of(case):
    """Errors by name, over the error allowed."""
    rng = np.random.default_rng(case.seed)
    low, high = np.random.default_rng(case.seed).integers(0, 2**32, 2)
    theirs = run_torch(case, (int(low), int(high)))
    if theirs is None:
        theirs = {}
    if case.lengths is not None:  # only we see what lies past the ends
        outside = np.arange(case.T)[:, None] >= case.lengths
        case.x[outside], case.dy[outside] = np.nan, np.nan
    y, h, c, grads = case.train(rng=rng)
    dh, dc = case.split(grads.state)
    ours = {"y": y, "h": h, "c": c, "dx": case.ours(grads.x), "dh": dh, "dc": dc} | dict(grads.params)
    allowed = tolerance(case.dtype, case.T)
    return {name: error(ours[name], a) / allowed for name, a in theirs.items()}


@pytest.mark.filterwarnings("ignore:.*oneDNN.*")
@pytest.mark.parametrize("part", range(10))
def test_agrees_with_torch(part):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        failures = []
        for seed in range(part, CASES, 10):
            case = random_case(seed)
            found = errors_of(case)
            failures += [f"{case}: {name} {e:.3g} times the tolerance" for name, e in found.items() if not e <= 1]
        assert not failures, f"{len(failures)} failures, first:\n" + "\n".join(failures[:10])
    finally:
        torch.set_num_threads(before)
