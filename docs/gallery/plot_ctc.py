"""
Reading a line of digits that nobody has cut apart
==================================================

A line of handwriting is a picture of some hundred columns, and its transcript a handful of symbols.  Which column
belongs to which symbol, nobody has written down, and cutting the line into symbols is about as hard as reading it.

Connectionist temporal classification (CTC) does without.  At each column the network gives a probability to each symbol
and to *nothing*, the blank.  A transcript's probability is the sum over all ways to stretch it over the columns, with
blanks in between, and this sum (by dynamic programming) is what is made large in training.  Where the symbols are, the
network finds out by itself.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import nbrnn

# %%
# Lines of digits
# ---------------
#
# We make them from scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: three to six in a row, which overlap by as
# much as two columns or stand apart by as much as two.  The first 1,300 are for training, the others for the test, so
# no image is in both.

digits = load_digits()
images = digits.images.astype(np.float32) / 16
places = np.random.default_rng(0).permutation(len(images))


def lines(places, count, rng):
    """Pictures, columns first: (T_i, 8); their labels: digits + 1, since 0 is the blank."""
    xs, labels = [], []
    for _ in range(count):
        chosen = rng.choice(places, rng.integers(3, 7))
        line, at = np.zeros((8, 10 * len(chosen) + 2), np.float32), 1
        for image in images[chosen]:
            line[:, at : at + 8] = np.maximum(line[:, at : at + 8], image)
            at += 8 + rng.integers(-2, 3)
        xs.append(np.ascontiguousarray(line.T))
        labels.append(digits.target[chosen] + 1)
    return xs, labels


rng = np.random.default_rng(1)
train, test = lines(places[:1300], 3000, rng), lines(places[1300:], 400, rng)

figure, axes = plt.subplots(3, 2, figsize=(8, 3), layout="constrained")
for ax, x, label in zip(axes.flat, *train, strict=False):
    ax.imshow(x.T, cmap="gray_r")
    ax.set_title("".join(str(s - 1) for s in label), fontsize="medium")
    ax.set_axis_off()

# %%
# Network and training
# --------------------
#
# A column of 8 pixels is one time step.  A bidirectional GRU sees what is left and right of it, and a linear layer
# gives 11 logits: the blank and ten digits.  The loss takes the labels as they are, vectors of any length.

net = nbrnn.Sequential(
    nbrnn.GRU(8, 48, bidirectional=True, rng=0),
    nbrnn.Dropout(0.3, rng=1),
    nbrnn.Linear(96, 11, rng=2),
)
print(net)


def padded(xs):
    """Arrays (T_i, 8) as one (T, B, 8), and the T_i."""
    lengths = np.array([len(x) for x in xs])
    together = np.zeros((lengths.max(), len(xs), 8), np.float32)
    for b, x in enumerate(xs):
        together[: len(x), b] = x
    return together, lengths


def edits(found, wanted):
    """Levenshtein's distance: insertions, deletions and replacements that make one of the other."""
    row = list(range(len(wanted) + 1))
    for i, s in enumerate(found, 1):
        before, row = row, [i]
        for j, t in enumerate(wanted, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (s != t)))
    return row[-1]


def error_rate(found, wanted):
    """Edits that are needed, per label."""
    return sum(map(edits, found, wanted)) / sum(map(len, wanted))


test_x, test_lengths = padded(test[0])
rates = []


def test_error(epoch, history):
    """Called after each epoch."""
    y, _ = net(test_x, lengths=test_lengths)
    rates.append(error_rate(nbrnn.decoding.ctc_greedy(y, test_lengths), test[1]))


batch, epochs = 16, 6
optimizer = nbrnn.optim.Adam(net)
schedule = nbrnn.optim.schedules.OneCycle(optimizer, 0.01, epochs * -(-len(train[0]) // batch))
history = nbrnn.fit(
    net,
    train,
    nbrnn.losses.ctc,
    optimizer,
    epochs,
    batch_size=batch,
    clip_norm=1.0,
    schedule=(schedule, "batch"),
    progress=False,
    rng=3,
    callback=test_error,
)
print(f"{epochs} epochs in {history.seconds[-1]:.0f} s")

# %%
# It's typical of CTC that at first little seems to happen: the network learns to say nothing, which is cheap, and
# nearly all is wrong.  Then it finds the digits, all of them within an epoch.  No update comes from the lines whose
# errors are counted here.

figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(range(1, 1 + epochs), 100 * np.array(rates), "o-")
ax.set(xlabel="epoch", ylabel="errors per 100 digits", title="Lines of digits from other images", yscale="log")
ax.set_ylim(0.8, 120)
ax.set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
ax.minorticks_off()
ax.grid(alpha=0.3)

# %%
# From outputs to labels
# ----------------------
#
# ``ctc_greedy`` takes the likeliest class of each column, merges repeats and drops blanks.  ``ctc_beam`` looks for the
# labels whose alignments are the likeliest together.  Where the network is as sure as here, there is little between
# them.

y, _ = net(test_x, lengths=test_lengths)
greedy = nbrnn.decoding.ctc_greedy(y, test_lengths)
beam = [labels for labels, log_p in nbrnn.decoding.ctc_beam(y, test_lengths, beam=16)]
for name, found in (("best alignment", greedy), ("beam search", beam)):
    whole = np.mean([edits(a, b) == 0 for a, b in zip(found, test[1], strict=True)])
    print(f"{name}: {error_rate(found, test[1]):.2%} of the digits wrong, {whole:.1%} of the lines without an error")

# %%
# What the network says at each column
# ------------------------------------
#
# Three lines of the test: two of the longest, and one that is read wrongly.  Below each picture are the probabilities
# of the ten digits, column by column.  They are narrow peaks, one to each digit, and everywhere else the blank has all.
# No one told the network where to put them.

wrong = next(b for b in range(len(greedy)) if edits(greedy[b], test[1][b]))
long = [b for b in range(len(greedy)) if len(test[1][b]) == 6 and b != wrong][:2]
colours = plt.get_cmap("tab10").colors

figure, axes = plt.subplots(
    6, 1, figsize=(8, 8), layout="constrained", sharex=True, height_ratios=[0.8, 1] * 3
)  # fmt: skip
for above, below, b in zip(axes[::2], axes[1::2], [*long, wrong], strict=True):
    T = test_lengths[b]
    e = np.exp(y[:T, b] - y[:T, b].max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    above.imshow(test_x[:T, b].T, cmap="gray_r", aspect="auto")
    above.set_axis_off()
    read, true = ("".join(str(s - 1) for s in labels) for labels in (greedy[b], test[1][b]))
    above.set_title(f"read as {read}" + (f", is {true}" if read != true else ""))
    for digit in range(10):
        below.fill_between(range(T), p[:, digit + 1], color=colours[digit], alpha=0.7, lw=0)
    for t in range(T):
        digit = p[t, 1:].argmax()
        peak = p[max(0, t - 1) : t + 2, digit + 1].max()
        if p[t, digit + 1] > 0.2 and p[t, digit + 1] == peak:
            below.text(t, p[t, digit + 1] + 0.05, digit, color=colours[digit], ha="center", weight="bold")
    below.set(ylim=(0, 1.3), ylabel="probability", yticks=[0, 1])
    below.spines[["top", "right"]].set_visible(False)
axes[-1].set_xlabel("column")
_ = axes[-1].set_xlim(-0.5, max(test_lengths) - 0.5)
