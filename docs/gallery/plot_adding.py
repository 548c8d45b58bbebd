r"""
How far back can a network remember?
====================================

Two problems that nothing but memory solves, both from the papers that made the LSTM and its successors known. A plain
recurrent network fails at them once the sequences are a few dozen steps long; gates help, those of an LSTM only if they
are told how long to remember.
"""

# %%
# The adding problem
# ------------------
# Each sequence has two rows: numbers between 0 and 1, and marks at two of them, one in each half. After the last step
# the network is to say the sum of the two marked numbers. Who ignores the marks can do no better than to answer 1, the
# mean, and is wrong by 1/6 in mean square: the variance of the sum. (S. Hochreiter and J. Schmidhuber, "Long short-term
# memory", Neural Computation 9, 1997.)

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

H, B = 32, 32


def sums(T, B, rng):
    """x (T, B, 2) and the sum of the marked numbers (B, 1)."""
    x = np.zeros((T, B, 2), np.float32)
    x[:, :, 0] = rng.uniform(0, 1, (T, B))
    first, second, b = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B), np.arange(B)
    x[first, b, 1] = x[second, b, 1] = 1
    return x, x[first, b, :1] + x[second, b, :1]


x, target = sums(40, 1, np.random.default_rng(1))
fig, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
marked = x[:, 0, 1] == 1
ax.bar(np.arange(40), x[:, 0, 0], color=np.where(marked, "tab:red", "0.8"))
ax.set(xlabel="step", ylabel="number", title=f"One sequence of 40 steps; to be answered: {target[0, 0]:.2f}")

# %%
# Gates that are told how long to remember
# ----------------------------------------
# A GRU's new state is :math:`h' = (1 - z)\,n + z\,h`: a unit whose z is constant forgets like :math:`z^t`, within
# :math:`1/(1 - z)` steps or so. With the usual small random biases z is about 1/2, and that is 2 steps. The LSTM's
# :math:`c' = f c + i g` is the same with f and i. With :math:`b_z = \log k`, or :math:`b_f = \log k` and
# :math:`b_i = -\log k`, the time is k + 1 steps; drawn from U(1, T - 1), the times of the units cover all there can be
# in a sequence of T (C. Tallec and Y. Ollivier, arXiv:1804.11188).


def remember(layer, T, rng):
    """Biases for memories of 1 to T - 1 steps."""
    gates, b = layer.cell.gates, np.zeros((len(layer.cell.gates), layer.hidden_size))
    keep = np.log(rng.uniform(1, T - 1, layer.hidden_size))
    if "z" in gates:
        b[gates.index("z")] = keep
    else:
        b[gates.index("f")], b[gates.index("i")] = keep, -keep
    layer.params["bias_ih_l0"], layer.params["bias_hh_l0"] = b.ravel(), np.zeros(b.size)


def adder(kind, T, told):
    layer = kind(2, H, rng=0)
    if told:
        remember(layer, T, np.random.default_rng(0))
    return nbrnn.Sequential(layer, nbrnn.Pool("last"), nbrnn.Linear(H, 1, rng=1))


def train(net, batch, loss, lr, updates):
    """The loss of each update; every batch is fresh."""
    opt, losses = nbrnn.optim.Adam(net, lr=lr), []
    for update in range(updates):
        x, target = batch(update)
        y, _, tape = net.forward(x)
        value, dy = loss(y, target)
        grads = net.backward(tape, dy)
        nbrnn.clip_grad_norm(grads, 1.0)
        opt.step(grads)
        losses.append(value)
    return losses


# %%
# Five networks, three lengths. The RNN has a smaller learning rate, which it needs, and 2.5 times as many updates.

networks = {
    "RNN": (nbrnn.RNN, False, 3e-3, 1000),
    "GRU": (nbrnn.GRU, False, 1e-2, 400),
    "LSTM": (nbrnn.LSTM, False, 1e-2, 400),
    "GRU, told": (nbrnn.GRU, True, 1e-2, 400),
    "LSTM, told": (nbrnn.LSTM, True, 1e-2, 400),
}
styles = ["-", "-", "-", "--", "--"]
colors = ["0.4", "tab:blue", "tab:red", "tab:blue", "tab:red"]

fig, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
for ax, T in zip(axes, (8, 25, 60), strict=True):
    test, wanted = sums(T, 1000, np.random.default_rng(3))
    for (name, (kind, told, lr, updates)), style, color in zip(networks.items(), styles, colors, strict=True):
        net, rng = adder(kind, T, told), np.random.default_rng(2)
        losses = train(net, lambda _, T=T, rng=rng: sums(T, B, rng), nbrnn.losses.mse, lr, updates)
        error = nbrnn.losses.mse(net(test)[0], wanted)[0]
        print(f"T = {T}, {name}: mean squared error on fresh sequences {error:.4f}")
        smooth = np.convolve(losses, np.ones(20) / 20, "valid")
        ax.semilogy(np.linspace(0, 1, len(smooth)), smooth, style, color=color, label=name)
    ax.axhline(1 / 6, color="0.7", lw=1, zorder=0)
    ax.set(title=f"T = {T}", xlabel="part of the training", ylim=(3e-4, 1))
axes[0].set_ylabel("mean squared error")
axes[0].legend(loc="lower left")

# %%
# At 8 steps all of them learn, the RNN slowly. At 25 and 60 the RNN and the LSTM as it comes stay with the constant
# answer. The LSTM leaves it when it is told how long to remember. The GRU does so by itself, and here even sooner
# than when it is told; the gates can learn what the biases say.
# ``tools/long_memory.py`` in the repository does the same up to T = 400, with networks of 64 units.
#
# The copy problem
# ----------------
# A few symbols, then blanks; at a signal the network is to say the symbols again, in their order. (M. Arjovsky, A. Shah
# and Y. Bengio, arXiv:1511.06464, section 5.1.) Here more has to be kept, and all of it until the very end. Given all
# blanks at once the networks are long content with answering any symbol. So they begin with one, and get more whenever
# they recall 95 % of the symbols: a curriculum.

SYMBOLS, KINDS, MOST = 5, 4, 40


def recall(T, B, rng):
    """Numbers (T + 2 SYMBOLS, B): x and target; 0 is blank, KINDS + 1 the signal."""
    x = np.zeros((T + 2 * SYMBOLS, B), np.int64)
    target = np.zeros_like(x)
    x[:SYMBOLS] = target[-SYMBOLS:] = rng.integers(1, KINDS + 1, (SYMBOLS, B))
    x[SYMBOLS + T - 1] = KINDS + 1
    return x, target


def copy(kind, lr, updates, seed=0):
    """How many blanks were asked for, and how many symbols recalled, at each update."""
    layer = kind(8, 64, rng=seed)
    if kind is not nbrnn.RNN:
        remember(layer, MOST, np.random.default_rng(seed))
    net = nbrnn.Sequential(nbrnn.Embedding(KINDS + 2, 8, rng=seed), layer, nbrnn.Linear(64, KINDS + 1, rng=seed))
    rng, blanks, right = np.random.default_rng(seed), [1], []

    def batch(update):
        if np.mean(right[-5:] or 0) > 0.95 and blanks[-5:] == blanks[-1:] * 5:
            blanks.append(min(MOST, blanks[-1] + 1 + blanks[-1] // 7))
        else:
            blanks.append(blanks[-1])
        return recall(blanks[-1], B, rng)

    def loss(y, target):
        right.append(np.mean(y[-SYMBOLS:].argmax(-1) == target[-SYMBOLS:]))
        return nbrnn.losses.cross_entropy(y, target)

    train(net, batch, loss, lr, updates)
    x, target = recall(MOST, 1000, np.random.default_rng(9))
    y, _ = net(x)
    score = np.mean(y[-SYMBOLS:].argmax(-1) == target[-SYMBOLS:])
    value, _ = nbrnn.losses.cross_entropy(y, target)
    baseline = SYMBOLS * np.log(KINDS) / len(x)
    print(
        f"{kind.__name__}, {MOST} blanks: {score:.1%} right, cross entropy {value:.4f} (without memory {baseline:.4f})"
    )
    return blanks, right


fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for kind, lr, color in ((nbrnn.RNN, 3e-3, "0.4"), (nbrnn.GRU, 1e-2, "tab:blue"), (nbrnn.LSTM, 1e-2, "tab:red")):
    blanks, score = copy(kind, lr, 700)
    left.plot(blanks, color=color, label=kind.__name__)
    right.plot(np.convolve(score, np.ones(20) / 20, "valid"), color=color)
left.set(xlabel="update", ylabel="blanks asked for", title="The curriculum")
right.axhline(1 / KINDS, color="0.7", lw=1, zorder=0)
right.set(xlabel="update", ylabel="symbols right", title="Recall, at so many blanks", ylim=(0, 1.02))
left.legend()

# %%
# The GRU soon is asked for all forty blanks; the LSTM is on its way, and what it has learnt on fewer carries over. Each
# blank more throws the RNN back: what it has learnt for one length it has learnt for no other.

plt.show()
