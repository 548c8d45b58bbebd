"""
Who is speaking?  Sequences of different lengths
================================================

Nine men say the Japanese vowels "ae" one after another.  Each utterance is a series of 7 to 29 frames, and each frame
holds 12 numbers that describe the shape of the spectrum (LPC cepstrum coefficients).  Which of the nine was it?

There are 270 utterances to learn from, and 370 others to be tested on.  In this example

* sequences of different lengths go into training as a plain list of arrays;
* an LSTM reads each of them in both directions, and the mean over time is what is classified;
* a part of the training data says when to stop.
"""

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

# %%
# The data
# --------
#
# The file has the frames of all utterances one after another, and how many belong to each: ``np.split`` cuts them
# apart. Scaling to mean 0 and deviation 1 uses the training part alone.

with np.load("../data/japanese_vowels.npz") as archive:
    file = dict(archive)
mean, deviation = file["train_values"].mean(0), file["train_values"].std(0)


def utterances(part):
    """Arrays (T_i, 12), and the speakers 0..8."""
    values = (file[f"{part}_values"] - mean) / deviation
    ends = np.cumsum(file[f"{part}_lengths"], dtype=int)
    return np.split(values, ends[:-1]), file[f"{part}_label"].astype(int) - 1


xs, speakers = utterances("train")
test_xs, test_speakers = utterances("test")
print(f"{len(xs)} to learn from, {len(test_xs)} to test; the first ones have shapes {[x.shape for x in xs[:4]]}")

# %%
# Three utterances of each of three speakers, as pictures: time runs to the right, a row is a coefficient.  The widths
# are the lengths.

figure, axes = plt.subplots(3, 3, figsize=(8, 5), layout="constrained", sharex=True, sharey=True)
for row, speaker in zip(axes, (0, 4, 8), strict=True):
    for ax, q in zip(row, np.flatnonzero(speakers == speaker), strict=False):
        picture = ax.imshow(xs[q].T, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, origin="lower")
    row[0].set_ylabel(f"speaker {speaker + 1}\ncoefficient")
    row[0].set_yticks([0, 5, 11], [1, 6, 12])
for ax in axes[-1]:
    ax.set_xlabel("frame")
axes[0, 0].set_xlim(-0.5, max(len(x) for x in xs) - 0.5)
_ = figure.colorbar(picture, ax=axes, label="standard deviations", shrink=0.6)

# %%
# A network
# ---------
#
# The LSTM gives 2 x 32 numbers at each frame: what its forward direction knows of the frames before, and what its
# backward direction knows of those that follow.  ``Pool("mean")`` makes one vector of them.  It takes the mean over the
# frames that there are: where sequences of different lengths lie in one array, what is behind the end of a short one
# has no influence.

net = nbrnn.Sequential(
    nbrnn.LSTM(12, 32, bidirectional=True, rng=0),
    nbrnn.Pool("mean"),
    nbrnn.Dropout(0.5, rng=1),
    nbrnn.Linear(64, 9, rng=2),
)
print(net)

# %%
# Training
# --------
#
# One utterance in five is kept aside, the same number of each speaker.  ``fit`` puts utterances of like length
# together, pads them, and after each epoch looks at the loss of what was kept aside.  If it hasn't become smaller for
# 20 epochs, training ends, and the best parameters are put back.

place = np.arange(len(xs)) % 5
known, aside = np.flatnonzero(place != 0), np.flatnonzero(place == 0)


def accuracy(y, target, lengths):
    """How many of the largest of nine numbers are in the right place."""
    return (y.argmax(-1) == target).mean()


optimizer = nbrnn.optim.Adam(net, lr=0.005)
history = nbrnn.fit(
    net,
    ([xs[q] for q in known], speakers[known]),
    nbrnn.losses.cross_entropy,
    optimizer,
    epochs=100,
    batch_size=32,
    clip_norm=1.0,
    validation=([xs[q] for q in aside], speakers[aside]),
    metric=accuracy,
    patience=20,
    progress=False,
    rng=0,
)
print(f"{len(history.loss)} epochs in {history.seconds[-1]:.1f} s; the best was epoch {history.best + 1}:")
best_loss, best_accuracy = history.validation[history.best], history.metric[history.best]
print(f"loss {best_loss:.3f}, accuracy {best_accuracy:.1%} of what was kept aside")

# %%
# The history has a number for each epoch, and ``nbrnn.diagnostics.plot`` draws it.  Behind the dotted line the loss on
# the training data goes on falling, that on the others doesn't: the network learns its 216 utterances by heart.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
nbrnn.diagnostics.plot(history, ax)
_ = ax.axvline(history.best + 1, color="tab:red", lw=1, ls=":")

# %%
# Of the 370 utterances held back
# -------------------------------
#
# They had no part in the training.  (The sizes above were chosen by hand, with an eye on results like these;
# ``tools/learning.py vowels`` chooses by cross-validation on the training part alone.)  To apply the network we put
# them in one array (T, B, I), and say how long each of them is.

lengths = np.array([len(x) for x in test_xs])
padded = np.zeros((lengths.max(), len(test_xs), 12), np.float32)
for b, x in enumerate(test_xs):
    padded[: len(x), b] = x

logits, _ = net(padded, lengths=lengths)
found = logits.argmax(-1)
print(f"accuracy: {np.mean(found == test_speakers):.1%}, {np.sum(found != test_speakers)} errors")

# %%
# Another seed gives another figure: with so few utterances chance has a part in it.  Who is taken for
# whom:

counts = np.zeros((9, 9), int)
np.add.at(counts, (test_speakers, found), 1)

figure, ax = plt.subplots(figsize=(5.5, 5), layout="constrained")
ax.imshow(np.log1p(counts), cmap="Blues")
for (row, column), count in np.ndenumerate(counts):
    if count:
        ax.text(column, row, count, ha="center", va="center", color="white" if count > 15 else "black")
ax.set_xticks(range(9), range(1, 10))
ax.set_yticks(range(9), range(1, 10))
_ = ax.set(xlabel="speaker found", ylabel="speaker", title="370 utterances")
