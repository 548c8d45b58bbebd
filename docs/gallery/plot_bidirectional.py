"""
Reading with hindsight: one direction against two
=================================================

INTHEBEGINNINGGODCREATEDTHEHEAVENANDTHEEARTH: where do the words end?  Whoever reads this from left to right, one letter
at a time, can't tell after THE: the word may go on as THEN or THERE.  It takes the letters that follow to know.

A recurrent network of one direction is in the same position: what it says at a letter follows from the letters up to
there.  A bidirectional one has a second set of units that reads from the right.  In this example we give both the same
letters, about the same number of parameters and the same training, and see how much the right-hand side is worth.
"""

import gzip

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

# %%
# The data
# --------
#
# From the King James Bible we take away all that isn't a letter, and the difference between upper and lower case.  What
# is asked at each letter is whether it was the last of its word.

with gzip.open("../data/kjv.txt.gz", "rt") as file:
    words = "".join(c if c.isalpha() else " " for c in file.read(240_000).lower()).split()

letters = np.frombuffer("".join(words).encode(), np.uint8).astype(int) - ord("a")
ends = np.zeros(len(letters), np.float32)
ends[np.cumsum([len(word) for word in words]) - 1] = 1
print(f"{len(words):,} words, {len(letters):,} letters; {ends.mean():.1%} of them end a word")

# %%
# The text is cut into pieces of 64 letters, which become the columns of an array (T, B).  The last tenth of them is
# kept aside.

T = 64
count = len(letters) // T
x = letters[: count * T].reshape(count, T).T
target = ends[: count * T].reshape(count, T).T[..., None]  # (T, B, 1), as the outputs will be
cut = count * 9 // 10
held_out = (x[:, cut:], target[:, cut:])
train = [(x[:, b : b + 32], target[:, b : b + 32]) for b in range(0, cut - 31, 32)]

# %%
# Two networks
# ------------
#
# A GRU of 72 units that reads to the right, or two of 48 units each, one for each direction.


def network(hidden, bidirectional):
    """Letters in, a logit for "a word ends here" out."""
    return nbrnn.Sequential(
        nbrnn.Embedding(26, 16, rng=0),
        nbrnn.GRU(16, hidden, bidirectional=bidirectional, rng=1),
        nbrnn.Linear(2 * hidden if bidirectional else hidden, 1, rng=2),
    )


networks = {"one direction": network(72, False), "both directions": network(48, True)}
for name, net in networks.items():
    print(f"{name}: {net.flat.size:,} parameters")

# %%
# Training
# --------
#
# Each letter is a question of its own with the answer yes or no, so the loss is the binary cross entropy.  What we look
# at is how many of the letters are marked wrongly.


def wrong(y, target, lengths):
    """The fraction of letters on the wrong side of 0."""
    return np.mean((y > 0) != (target > 0.5))


histories = {}
for name, net in networks.items():
    histories[name] = nbrnn.fit(
        net,
        train,
        nbrnn.losses.bce_with_logits,
        nbrnn.optim.Adam(net, lr=0.005),
        epochs=6,
        clip_norm=1.0,
        validation=held_out,
        metric=wrong,
        progress=False,
        rng=3,
    )
    history = histories[name]
    print(f"{name}: {history.metric[-1]:.2%} of the letters wrong, {history.seconds[-1]:.0f} s")

# %%
# Both learn, but one of them is held up by what it can't know.  More letters and more units bring both lines down, and
# the gap stays.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, history in histories.items():
    ax.plot(range(1, 1 + len(history.metric)), 100 * np.array(history.metric), "o-", label=name)
ax.axhline(100 * held_out[1].mean(), color="0.6", ls="--", label='always "no"')
ax.set(xlabel="epoch", ylabel="letters marked wrongly, %", title="Held-back text", yscale="log")
ax.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
ax.minorticks_off()
ax.grid(alpha=0.3)
_ = ax.legend()

# %%
# What they say at each letter
# ----------------------------
#
# The probability that a word ends, for a sentence of our own.  The grey lines are where words do end.

sentence = "there was neither an end to the other gods nor to their anger"
plain = np.frombuffer(sentence.replace(" ", "").encode(), np.uint8).astype(int) - ord("a")
borders = np.cumsum([len(word) for word in sentence.split()]) - 1

figure, axes = plt.subplots(2, 1, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
for ax, (name, net) in zip(axes, networks.items(), strict=True):
    logits, _ = net(plain)  # without a batch: (T,) gives (T, 1)
    ax.vlines(borders, 0, 1, color="0.85", lw=8, zorder=0)
    ax.bar(range(len(plain)), 1 / (1 + np.exp(-logits[:, 0])), width=0.7)
    ax.set(title=name, ylabel="p(word ends)", ylim=(0, 1.02))
axes[1].set_xticks(range(len(plain)), sentence.replace(" ", ""), family="monospace")
_ = axes[1].set_xlim(-0.7, len(plain) - 0.3)

# %%
# And text, cut where a probability is above one half:

shown = held_out[0][:, 4]
for name, net in networks.items():
    marked = "".join(chr(c + ord("a")) + " " * bool(y > 0) for c, y in zip(shown, net(shown)[0][:, 0], strict=True))
    print(f"{name + ':':16s} {marked}")

# %%
# The price of the second direction: all of the sequence must be there before the first answer comes.  Where answers are
# wanted at once, as in forecasting or in control, a network of one direction it is.
