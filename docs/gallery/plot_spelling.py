"""
From spelling to sound
======================

How is an English word spoken, given how it is spelled? An encoder reads the letters, a decoder writes phonemes: after
*rough* it is to write R AH1 F. Nothing says which letter goes with which sound; attention finds it out.

The data are 2,016 words with their phonemes after the CMU Pronouncing Dictionary; a digit behind a vowel is its stress,
1 primary, 2 secondary, 0 none, and belongs to the phoneme. A tenth of the words is held back.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nbrnn

rows = [line.split("\t") for line in Path("../data/pronunciations.tsv").read_text().splitlines()[1:]]
words = [(word, phonemes.split()) for word, phonemes, _ in rows]
order = np.random.default_rng(0).permutation(len(words))
held, known = ([words[q] for q in part] for part in np.split(order, [round(len(words) / 10)]))
print(f"{len(known):,} words to learn from, {len(held)} held back")
for word, phonemes in known[:4]:
    print(f"{word:>14}  {' '.join(phonemes)}")

# %%
# Letters and phonemes are numbers to the network, and a point stands behind each word. The decoder has two more
# symbols: with one it is started, with the other it ends. In training it is given the right phonemes up to each place,
# and is to say the next.

letters = "abcdefghijklmnopqrstuvwxyz."
phonemes = sorted({p for _, said in words for p in said})
start, end = len(phonemes), len(phonemes) + 1


def spelled(part):
    return [np.array([letters.index(c) for c in word + "."]) for word, _ in part]


def spoken(part):
    return [np.array([phonemes.index(p) for p in said]) for _, said in part]


sources = spelled(known)
given = [np.array([start, *said]) for said in spoken(known)]
targets = [np.array([*said, end]) for said in spoken(known)]

# %%
# A bidirectional GRU reads; a GRU of twice the size begins with the last states of both directions, and writes. With so
# few words dropout matters more than anything else: of the vectors of letters and phonemes, of what the encoder hands
# to the attention, and of what the logits are made from.

H, size, symbols = 64, 64, len(phonemes) + 2
encoder = nbrnn.Sequential(
    nbrnn.Embedding(len(letters), size, rng=0),
    nbrnn.Dropout(0.2, rng=1),
    nbrnn.GRU(size, H, bidirectional=True, rng=2),
    nbrnn.Dropout(0.3, rng=3),
)
decoder = nbrnn.Sequential(
    nbrnn.Embedding(symbols, size, rng=4),
    nbrnn.Dropout(0.2, rng=5),
    nbrnn.GRU(size, 2 * H, rng=6),
    nbrnn.Dropout(0.3, rng=7),
    nbrnn.Linear(2 * H, symbols, rng=8),
)
net = nbrnn.Seq2Seq(encoder, decoder, attention="general", start=start, end=end, rng=9)
print(net)

# %%
# What is written is compared with the dictionary by the edit distance: the fewest phonemes that must be put in, left
# out or changed. The phoneme error rate is the sum of those distances, divided by the number of phonemes there should
# be.


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def padded(sequences):
    lengths = [len(s) for s in sequences]
    table = np.zeros((max(lengths), len(sequences)), int)
    for b, s in enumerate(sequences):
        table[: len(s), b] = s
    return table, lengths


def say(part):
    source, lengths = padded(spelled(part))
    return [[phonemes[s] if s < start else "?" for s in said] for said in net.greedy(source, lengths, max_length=20)]


def error_rate(part, found, plain=lambda said: said):
    wrong = sum(distance(plain(said), plain(meant)) for said, (_, meant) in zip(found, part, strict=True))
    return wrong / sum(len(meant) for _, meant in part)


def without_stress(said):
    return [p.rstrip("012") for p in said]


# %%
# The learning rate goes up and down once. Two hundred of the words that it learns from show how well it knows those.

epochs, batch_size = 22, 32
opt = nbrnn.optim.AdamW(net, lr=3e-3, weight_decay=0.01)
cycle = nbrnn.optim.schedules.OneCycle(opt, 3e-3, epochs * -(-len(known) // batch_size))
rates = {"held back": [], "learned from": []}


def watch(epoch, history):
    rates["held back"].append(error_rate(held, say(held)))
    rates["learned from"].append(error_rate(known[:200], say(known[:200])))


begun = time.perf_counter()
nbrnn.fit(
    net,
    ((sources, given), targets),
    nbrnn.losses.cross_entropy,
    opt,
    epochs,
    batch_size=batch_size,
    clip_norm=1.0,
    schedule=(cycle, "batch"),
    callback=watch,
    progress=False,
    rng=0,
)
seconds = time.perf_counter() - begun
found = say(held)
right = sum(said == meant for said, (_, meant) in zip(found, held, strict=True))
print(f"{seconds:.0f} s of training")
print(f"phoneme error rate of the words held back: {error_rate(held, found):.1%}")
print(f"                           without stress: {error_rate(held, found, without_stress):.1%}")
print(f"words without any error: {right} of {len(held)}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (name, rate), colour in zip(rates.items(), ("C0", "C1"), strict=True):
    ax.plot(range(1, epochs + 1), 100 * np.array(rate), color=colour, label=name)
    ax.annotate(
        f"{100 * rate[-1]:.1f} %",
        (epochs, 100 * rate[-1]),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=colour,
    )
ax.set(xlabel="epoch", ylabel="phoneme error rate in %", ylim=(0, 100), xlim=(1, epochs + 3))
ax.set_xticks([1, *range(5, epochs + 1, 5)])
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

# %%
# Words that it has never seen. Most errors are vowels, whose spelling says little about them, and their stress.

print(f"{'word':>14}  written; where it is wrong, in brackets what the dictionary has")
for (word, meant), said in list(zip(held, found, strict=True))[:24]:
    print(f"{word:>14}  {' '.join(said)}" + ("" if said == meant else f"   [{' '.join(meant)}]"))

# %%
# Beam search keeps the five best beginnings instead of one. It finds likelier sequences; whether these are better is
# another matter.

source, lengths = padded(spelled(held))
best = [several[0][0] for several in net.beam(source, lengths, max_length=20, beam=5)]
best = [[phonemes[s] if s < start else "?" for s in said] for said in best]
print(f"phoneme error rate with a beam of 5: {error_rate(held, best):.1%}")

# %%
# Where it looked
# ---------------
#
# ``attention_weights`` are the weights with which each phoneme looked back at the letters, given those before: of four
# words that it has written rightly. It goes from left to right, skips letters without a sound of their own, and ends
# at the point.

chosen = [b for b, (word, meant) in enumerate(held) if found[b] == meant and len(word) >= 7][:4]
fig, axes = plt.subplots(2, 2, figsize=(8, 7.2), layout="constrained")
for b, ax in zip(chosen, axes.flat, strict=True):
    word, meant = held[b]
    written = np.array([start, *(phonemes.index(p) for p in meant)])
    weights = net.attention_weights((spelled([held[b]])[0][:, None], written[:, None]))[:, 0]
    ax.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(word) + 1), word + ".")
    ax.set_yticks(range(len(written)), [*meant, "end"])
    ax.tick_params(length=0)
fig.supxlabel("letters")
fig.supylabel("phonemes, from the top")
plt.show()
