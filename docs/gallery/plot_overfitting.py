"""
Overfitting, and what helps
===========================

A network of ten thousand numbers and sixty utterances to learn from: it soon knows each of them by heart, and what it
says of others gets worse while what it says of those gets better. The usual cures, side by side, averaged over seeds.
"""

# %%
# Few data
# --------
# Nine speakers say two vowels; an utterance is 7 to 29 frames of 12 numbers, and the network is to say who speaks.
# (M. Kudo, J. Toyama and M. Shimbo, Pattern Recognition Letters 20, 1999; 270 utterances to learn from and 370 for the
# test.) Here it is given 60 of the 270, and 60 others to watch how it does: the validation set.

import pathlib

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

here = pathlib.Path(__file__).parent if "__file__" in globals() else pathlib.Path.cwd()
data = np.load(here.parent / "data" / "japanese_vowels.npz")
mean, deviation = data["train_values"].mean(0), data["train_values"].std(0)


def utterances(part):
    """Sequences (T_i, 12), and who speaks, 0..8."""
    values = ((data[f"{part}_values"] - mean) / deviation).astype(np.float32)
    ends = np.cumsum(data[f"{part}_lengths"].astype(int))
    return np.split(values, ends[:-1]), data[f"{part}_label"].astype(int) - 1


def some(xs, labels, places):
    return [xs[q] for q in places], labels[places]


known, test = utterances("train"), utterances("test")
print(f"{len(known[0])} utterances to learn from, {len(test[0])} for the test")

# %%
# The network
# -----------
# An LSTM, its last h, a linear layer. ``dropout`` drops numbers of that h; ``recurrent_dropout`` drops numbers of h on
# their way into the next step, the same ones at all steps of a sequence (Y. Gal and Z. Ghahramani, arXiv:1512.05287).
# Weight decay is AdamW's: each step makes all weights smaller by a factor. Early stopping ends the training when the
# validation loss hasn't fallen for 10 epochs, and puts back the weights that were best.

loss, EPOCHS = nbrnn.losses.cross_entropy, 60


def right(y, target, lengths):
    return np.mean(y.argmax(-1) == target)


def train(seed, n=60, dropout=0.0, recurrent_dropout=0.0, weight_decay=0.0, patience=None):
    """The history of a training with n utterances; loss and accuracy on the test set."""
    order = np.random.default_rng(seed).permutation(len(known[0]))
    watched, learnt = some(*known, order[:60]), some(*known, order[60 : 60 + n])
    layer = nbrnn.LSTM(12, 48, recurrent_dropout=recurrent_dropout, rng=seed)
    net = nbrnn.Sequential(layer, nbrnn.Pool("last"), nbrnn.Dropout(dropout), nbrnn.Linear(48, 9, rng=seed + 100))
    opt = nbrnn.optim.AdamW(net, lr=0.01, weight_decay=weight_decay)
    history = nbrnn.fit(
        net, learnt, loss, opt, EPOCHS,
        batch_size=30, clip_norm=1.0, validation=watched, patience=patience, progress=False, rng=seed,
    )  # fmt: skip
    return history, nbrnn.training.evaluate(net, test, loss, metric=right, batch_size=370)


# %%
# Side by side
# ------------
# The last one is no cure but a measure: what it would have been worth to have 60 utterances more.

cures = {
    "none": {},
    "dropout 0.5": {"dropout": 0.5},
    "recurrent dropout 0.5": {"recurrent_dropout": 0.5},
    "both": {"dropout": 0.5, "recurrent_dropout": 0.5},
    "weight decay 1": {"weight_decay": 1.0},
    "early stopping": {"patience": 10},
    "60 more utterances": {"n": 120},
}
SEEDS = range(5)

print(f"{'':22}  validation loss: lowest, at the end   test: loss  accuracy")
results = {}
for name, cure in cures.items():
    runs = [train(seed, **cure) for seed in SEEDS]
    results[name] = runs
    lowest = np.mean([min(history.validation) for history, _ in runs])
    end = np.mean([history.validation[-1] for history, _ in runs])
    scores = np.array([score for _, score in runs])
    print(
        f"{name:22}  {lowest:23.3f} {end:12.3f} {scores[:, 0].mean():12.3f}  "
        f"{100 * scores[:, 1].mean():5.1f} % (+- {100 * scores[:, 1].std(ddof=1) / len(runs) ** 0.5:.1f})"
    )

# %%

fig, (left, middle, bars) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
colors = dict(zip(cures, ("0.3", "tab:orange", "tab:blue", "tab:purple", "tab:green", "tab:red", "0.75"), strict=True))
for name, runs in results.items():
    if name == "early stopping":
        continue  # the beginning of the first curve
    epochs = np.arange(1, EPOCHS + 1)
    left.semilogy(epochs, np.mean([history.loss for history, _ in runs], 0), color=colors[name])
    middle.plot(epochs, np.mean([history.validation for history, _ in runs], 0), color=colors[name], label=name)
stops = [(1 + history.best, history.validation[history.best]) for history, _ in results["early stopping"]]
middle.plot(*np.transpose(stops), "o", color=colors["early stopping"], label="early stopping: kept")
left.set(xlabel="epoch", ylabel="loss", title="On what it learns from")
middle.set(xlabel="epoch", title="On the validation set", ylim=(0.1, 1.2))
middle.legend(fontsize="small")
accuracies = {name: 100 * np.array([score.metric for _, score in runs]) for name, runs in results.items()}
for q, (name, values) in enumerate(accuracies.items()):
    bars.plot(values, np.full(len(values), q), "o", color=colors[name], alpha=0.5)
    bars.plot(values.mean(), q, "|", color=colors[name], ms=24, mew=3)
bars.set_yticks(range(len(cures)), cures)
bars.invert_yaxis()
bars.set(xlabel="%", title="Test: accuracy, each seed and mean")

# %%
# What helps
# ----------
# Without a cure the validation loss is lowest after a dozen epochs and then rises while the training loss still falls:
# overfitting. Dropout of the last h alone helps little. Recurrent dropout helps most, here about as much as twice the
# data; both kinds together are no better than that one alone. Strong weight decay helps the loss much, and the accuracy
# somewhat. Early stopping costs nothing and saves time, but the network it keeps is only the best one of an unhindered
# training; and with 60 utterances to judge by, chance has a say in when it stops.
#
# Five seeds, each with other utterances, leave a percent or so of uncertainty in every mean (the figures after +-), so
# small differences mean nothing. The strengths of the cures are round numbers, not tuned. The utterances used for
# watching could have been learnt from instead: the last row says what that is worth.

plt.show()
