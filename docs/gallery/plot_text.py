"""
A network that writes: characters from the King James Bible
===========================================================

A language model says how likely each character is to come next.  Trained on nothing but one long string, a small LSTM
learns to spell, then words, then the tone of a book, all by guessing the next character.  In this example we train one
by truncated backpropagation through time, and let it write.
"""

import gzip
import textwrap

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

# %%
# The data
# --------
#
# Ends of lines are of no interest here, so all white space becomes a single space; then characters become integers.
# The last 30,000 are kept aside.

with gzip.open("../data/kjv.txt.gz", "rt") as file:
    text = " ".join(file.read(720_000).split())
alphabet = np.array(sorted(set(text)))
symbols = np.searchsorted(alphabet, list(text))
print(f"{len(symbols):,} characters, {len(alphabet)} different ones")
print(textwrap.fill(text[:300], 90))

# %%
# One long string is a batch of one, which would be slow.  So we cut it into 32 long columns, which stand side by side:
# x is (T, 32), and the target is the same one character later.


def columns(symbols, size):
    """x and target, both (T, size)."""
    T = (len(symbols) - 1) // size
    return tuple(np.ascontiguousarray(symbols[k : k + T * size].reshape(size, T).T) for k in (0, 1))


train, held_out = columns(symbols[:-30_000], 32), columns(symbols[-30_000:], 32)
print(f"to learn from: {train[0].shape}, held back: {held_out[0].shape}")

# %%
# Truncated backpropagation through time
# --------------------------------------
#
# Going back through all 20,000 steps for a single update would take long, and much memory.  With ``bptt=64`` the
# columns are gone through in stretches of 64 steps; each makes an update, and hands its final state to the next.  So
# the network goes on reading where it stood, and only the gradients stop at the cut.
#
# A loss is a function of outputs and targets that gives a number and its gradient.  Ours is the cross entropy, and
# takes notes.  Divided by log(2) it is in bits per character: what the text would cost if the model were used to
# compress it.

net = nbrnn.Sequential(
    nbrnn.Embedding(len(alphabet), 48, rng=0),
    nbrnn.LSTM(48, 128, rng=1),
    nbrnn.Linear(128, len(alphabet), rng=2),
)
bits = []


def loss(y, target):
    """Cross entropy, with notes."""
    value, dy = nbrnn.losses.cross_entropy(y, target)
    bits.append(value / np.log(2))
    return value, dy


epochs = 2
updates = epochs * -(-len(train[0]) // 64)
optimizer = nbrnn.optim.Adam(net, lr=0.015)
schedule = nbrnn.optim.schedules.Cosine(optimizer, updates)
history = nbrnn.fit(
    net, train, loss, optimizer, epochs, bptt=64, clip_norm=1.0, schedule=(schedule, "batch"), progress=False
)  # fmt: skip

test_bits = nbrnn.training.evaluate(net, held_out, nbrnn.losses.cross_entropy).loss / np.log(2)
print(f"{updates} updates in {history.seconds[-1]:.0f} s; {test_bits:.2f} bits per character of the held-back text")

# %%
# For comparison: what a character costs by its frequency alone, and by those of the character after each character.


def entropy(*columns):
    """Bits of what the columns hold, by its frequency."""
    counts = np.unique(np.stack(columns), axis=1, return_counts=True)[1]
    p = counts / counts.sum()
    return -np.sum(p * np.log2(p))


alone = entropy(symbols)
after_one = entropy(symbols[:-1], symbols[1:]) - entropy(symbols[:-1])

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(range(1, 1 + updates), bits, color="tab:blue", lw=0.8)
for level, name, colour in (
    (alone, "by frequency", "0.35"),
    (after_one, "knowing one character before", "0.35"),
    (test_bits, "LSTM, held-back text", "tab:red"),
):
    ax.axhline(level, color=colour, lw=1, ls="--")
    ax.text(updates - 5, level + 0.06, name, ha="right", color=colour)
ax.set(xlabel="update", ylabel="bits per character", xlim=(0, updates), ylim=(1.5, 5))
ax.grid(alpha=0.3)

# %%
# It writes
# ---------
#
# ``nbrnn.generate`` gives the network a beginning, draws the next character by the probabilities that come out, feeds
# it back, and so on.  The logits are divided by the temperature first: low ones make it choose what is likeliest, and
# repeat itself; high ones let it risk more, down to spelling.

prompt = np.searchsorted(alphabet, list("And the LORD said unto "))
for temperature in (0.2, 0.6, 1.0, 1.4):
    written = nbrnn.generate(net, prompt, 300, temperature, rng=4)
    print(f"temperature {temperature}:")
    print(textwrap.fill("And the LORD said unto " + "".join(alphabet[written]), 90), end="\n\n")
