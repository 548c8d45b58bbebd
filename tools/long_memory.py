"""What recurrent networks remember, and over how many steps: the adding and the copy problem, and what clipping does.

::

    python tools/long_memory.py adding     # RNN, GRU and LSTM on the sum of two of T numbers, T = 25 to 400
    python tools/long_memory.py copy       # ten symbols repeated after 100 blanks
    python tools/long_memory.py clipping   # a network that explodes, and the same with clipping

Each update sees fresh sequences, and so does each test: nothing can be learnt by heart.  Everything follows from seeds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import nbrnn
from nbrnn.diagnostics import gradient_flow

HIDDEN, BATCH = 64, 50

#: Of the adding problem: mean squared error of the constant answer 1, the variance of the sum of two numbers U(0, 1).
CONSTANT = 1 / 6


def sums(T, B, rng):
    """The adding problem: x (T, B, 2), numbers U(0, 1) and marks at two of them, one in each half; their sum (B, 1)."""
    x = np.zeros((T, B, 2), np.float32)
    x[:, :, 0] = rng.uniform(0, 1, (T, B))
    first, second, b = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B), np.arange(B)
    x[first, b, 1] = x[second, b, 1] = 1
    return x, x[first, b, :1] + x[second, b, :1]


def recall(T, B, rng, symbols=10, kinds=8):
    """The copy problem: symbols 1..kinds, T blanks (0) of which the last is a signal to begin, and blanks as many as
    symbols, at which the target has those; it is blank before.  Both are (T + 2 symbols, B)."""
    x = np.zeros((T + 2 * symbols, B), np.int64)
    target = np.zeros_like(x)
    x[:symbols] = target[-symbols:] = rng.integers(1, kinds + 1, (symbols, B))
    x[symbols + T - 1] = kinds + 1
    return x, target


def remember(layer, T, rng):
    """Biases that let units keep what they have for 1 to T - 1 steps: C. Tallec and Y. Ollivier, arXiv:1804.11188.

    A gate of sigmoid(b) = 1 - 1 / (k + 1) with b = log k keeps for about k steps.
    """
    gates, b = layer.cell.gates, np.zeros((len(layer.cell.gates), layer.hidden_size))
    keep = np.log(rng.uniform(1, T - 1, layer.hidden_size))
    if "z" in gates:  # GRU: h' = (1 - z) n + z h
        b[gates.index("z")] = keep
    else:  # LSTM: c' = f c + i g
        b[gates.index("f")], b[gates.index("i")] = keep, -keep
    layer.params["bias_ih_l0"], layer.params["bias_hh_l0"] = b.ravel(), np.zeros(b.size)


# Adding.


def adder(kind, T, chrono=False, **options):
    """A layer of 64 units, and a linear one on its last h."""
    layer = kind(2, HIDDEN, rng=0, **options)
    if chrono:
        remember(layer, T, np.random.default_rng(0))
    return nbrnn.Sequential(layer, nbrnn.Pool("last"), nbrnn.Linear(HIDDEN, 1, rng=1))


def learn_sums(net, T, lr, updates, clip_norm=1.0, solved=0.003):
    """Train until the mean loss of 20 updates is so low, or so many are done: (updates, seconds, test error)."""
    rng, opt, losses, begun = np.random.default_rng(2), nbrnn.optim.Adam(net, lr=lr), [], time.perf_counter()
    while len(losses) < updates and (len(losses) < 20 or np.mean(losses[-20:]) > solved):
        x, target = sums(T, BATCH, rng)
        y, _, tape = net.forward(x)
        loss, dy = nbrnn.losses.mse(y, target)
        grads = net.backward(tape, dy)
        nbrnn.clip_grad_norm(grads, clip_norm)
        opt.step(grads)
        losses.append(loss)
    seconds = time.perf_counter() - begun
    x, target = sums(T, 2000, np.random.default_rng(3))
    return len(losses), seconds, nbrnn.losses.mse(net(x)[0], target)[0]


#: Kind, initial values, learning rate, most updates.  An update of the RNN is cheaper, and it needs small ones.
ADDERS = {
    "RNN": (nbrnn.RNN, {}, 1e-3, 2000),
    "RNN, orthogonal": (nbrnn.RNN, {"recurrent_init": "orthogonal"}, 1e-3, 2000),
    "GRU": (nbrnn.GRU, {}, 1e-2, 600),
    "LSTM": (nbrnn.LSTM, {}, 1e-2, 600),
    "GRU, biases for T": (nbrnn.GRU, {"chrono": True}, 1e-2, 600),
    "LSTM, biases for T": (nbrnn.LSTM, {"chrono": True}, 1e-2, 600),
}


def adding(lengths=(25, 50, 100, 200, 400)):
    """The table: test error by network and T; and what of the gradient gets back to the first step."""
    print(f"mean squared error on 2000 fresh sequences; of the constant answer 1: {CONSTANT:.3f}")
    for name, (kind, options, lr, updates) in ADDERS.items():
        for T in lengths:
            net = adder(kind, T, **options)
            flow = gradient_flow(net, *sums(T, BATCH, np.random.default_rng(4)), nbrnn.losses.mse).norms[0]
            done, seconds, error = learn_sums(net, T, lr, updates)
            print(
                f"  {name}, T = {T}: {error:.4f} after {done} updates, {seconds:.0f} s; "
                f"|dL/dh| before: last {flow[-1]:.2g}, middle {flow[T // 2]:.2g}, first {flow[0]:.2g}",
                flush=True,
            )


# Copying.


def copier(kind, T, lr, updates, grow, batch=64, hidden=128, symbols=10, kinds=8):
    """Train on T blanks, or on more and more of them from 1 to T; then cross entropy and accuracy on fresh sequences.

    The number of blanks grows by a seventh wherever five updates in a row have recalled 95 % of the symbols.
    """
    layer = kind(kinds + 2, hidden, rng=0)
    if kind is not nbrnn.RNN:
        remember(layer, T, np.random.default_rng(0))
    one_hot = nbrnn.Embedding(kinds + 2, kinds + 2, rng=0)
    one_hot.params["weight"] = np.eye(kinds + 2)
    net = nbrnn.Sequential(one_hot, layer, nbrnn.Linear(hidden, kinds + 1, rng=1))
    rng, opt, loss = np.random.default_rng(2), nbrnn.optim.Adam(net, lr=lr), nbrnn.losses.cross_entropy
    blanks, right, begun = 1 if grow else T, [], time.perf_counter()
    for update in range(updates):
        opt.lr = lr * min(1, 3 * (1 - update / updates))  # falls to 0 in the last third
        x, target = recall(blanks, batch, rng, symbols, kinds)
        y, _, tape = net.forward(x)
        value, dy = loss(y, target)
        grads = net.backward(tape, dy)
        nbrnn.clip_grad_norm(grads, 1.0)
        opt.step(grads)
        right.append(np.mean(y[-symbols:].argmax(-1) == target[-symbols:]))
        if blanks < T and len(right) >= 5 and np.mean(right[-5:]) > 0.95:
            blanks, right = min(T, blanks + 1 + blanks // 7), []
        if update % 250 == 249:
            print(
                f"    {update + 1} updates, {blanks} blanks: {np.mean(right[-20:] or 0):.1%}, loss {value:.4f}",
                flush=True,
            )
    seconds = time.perf_counter() - begun
    x, target = recall(T, 1000, np.random.default_rng(3), symbols, kinds)
    y, _ = net(x)
    accuracy = np.mean(y[-symbols:].argmax(-1) == target[-symbols:])
    baseline = symbols * np.log(kinds) / (T + 2 * symbols)
    print(
        f"  {kind.__name__}, {'growing' if grow else 'all'} blanks: {accuracy:.2%} of the symbols right, cross entropy "
        f"{loss(y, target)[0]:.5f}, without memory {baseline:.3f}; {updates} updates, {seconds:.0f} s",
        flush=True,
    )


def copy(T=100):
    """An LSTM that is given more and more blanks; one and an RNN that are given all of them at once."""
    print(f"{T} blanks, 10 symbols of 8 kinds, 1000 fresh sequences")
    copier(nbrnn.LSTM, T, 5e-3, 3000, grow=True)
    copier(nbrnn.LSTM, T, 5e-3, 1000, grow=False)
    copier(nbrnn.RNN, T, 1e-3, 3000, grow=True)


# Clipping.


def clipping(T=50, delay=5, updates=1500, lr=0.5, scale=1.5):
    """A plain network is to say what it was given five steps before; its recurrent weights are 1.5 times a rotation."""
    for clip_norm in (np.inf, 0.3):
        layer = nbrnn.RNN(1, HIDDEN, recurrent_init="orthogonal", rng=0)
        layer.params["weight_hh_l0"] = scale * layer.params["weight_hh_l0"]
        net = nbrnn.Sequential(layer, nbrnn.Linear(HIDDEN, 1, rng=1))
        rng = np.random.default_rng(2)
        opt, losses, norms = nbrnn.optim.SGD(net, lr=lr), [], []
        while len(losses) < updates and not losses[-1:] > [1e6]:
            x = rng.normal(size=(T, BATCH, 1)).astype(np.float32)
            y, _, tape = net.forward(x)
            loss, late = nbrnn.losses.mse(y[delay:], x[:-delay])
            losses.append(loss)
            grads = net.backward(tape, np.concatenate([np.zeros_like(y[:delay]), late]))
            norms.append(nbrnn.clip_grad_norm(grads, clip_norm))
            opt.step(grads)
        shown = ", ".join(f"{np.mean(part):.3g}" for part in np.array_split(losses, min(8, len(losses))))
        print(
            f"  clip_norm = {clip_norm}: {len(losses)} updates, losses {shown}; largest norm {max(norms):.3g}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adding", "copy", "clipping"))
    {"adding": adding, "copy": copy, "clipping": clipping}[parser.parse_args().what]()
