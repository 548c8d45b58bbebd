"""A trained encoder and decoder that others published: the GRUs of the package g2p_en, which spell words.

Its arrays and nothing else: ``pip install --no-deps g2p_en==2.1.0`` (Apache-2.0; K. Park and J. Kim).
"""

import importlib.util
import pathlib

import numpy as np
import pytest

import nbrnn

from .reference.cells import GRU

WORDS = pathlib.Path(__file__).parents[1] / "docs" / "data" / "pronunciations.tsv"
GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
]  # fmt: skip
#: Vowels with their stress, and one without by mistake, in the order of the alphabet.
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([v + s for v in VOWELS for s in "012"] + CONSONANTS + ["UW"])]
UNKNOWN, STOP, START, END = 1, 2, 2, 3
#: Where the package stops writing.
MOST = 20


@pytest.fixture(scope="module")
def arrays():
    """The package's arrays; it is found, and not imported, which would need data of nltk."""
    spec = importlib.util.find_spec("g2p_en")
    if spec is None:
        pytest.skip("g2p_en isn't installed")
    with np.load(pathlib.Path(spec.origin).parent / "checkpoint20.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def net(arrays):
    def layers(part):
        symbols, size = arrays[f"{part}_emb"].shape
        embedding, gru = nbrnn.Embedding(symbols, size), nbrnn.GRU(size, arrays[f"{part}_w_hh"].shape[1])
        embedding.params["weight"] = arrays[f"{part}_emb"]
        for kind, end in (("weight", "ih"), ("weight", "hh"), ("bias", "ih"), ("bias", "hh")):
            gru.params[f"{kind}_{end}_l0"] = arrays[f"{part}_{kind[0]}_{end}"]
        return embedding, gru

    last = nbrnn.Linear(*reversed(arrays["fc_w"].shape))
    last.params["weight"], last.params["bias"] = arrays["fc_w"], arrays["fc_b"]
    return nbrnn.Seq2Seq(
        nbrnn.Sequential(*layers("enc")), nbrnn.Sequential(*layers("dec"), last), start=START, end=END
    )  # fmt: skip


def spelled(words):
    """(symbols (T, B), lengths): the letters of each word, and the sign that it has ended."""
    columns = [[GRAPHEMES.index(c) if c in GRAPHEMES else UNKNOWN for c in word] + [STOP] for word in words]
    lengths = [len(column) for column in columns]
    source = np.zeros((max(lengths), len(words)), np.int64)
    for b, column in enumerate(columns):
        source[: len(column), b] = column
    return source, lengths


def by_reference(arrays, word):
    """One word, step by step in float64; and how much larger than the others the largest logit was, at least."""

    def run(part, h, symbol):
        return GRU().forward(
            {name: arrays[f"{part}_{name}"].astype(float) for name in ("w_ih", "w_hh", "b_ih", "b_hh")},
            arrays[f"{part}_emb"][symbol].astype(float), h, None,
        )[0]  # fmt: skip

    h = np.zeros(arrays["enc_w_hh"].shape[1])
    for symbol in spelled([word])[0][:, 0]:
        h = run("enc", h, symbol)
    said, symbol, margin = [], START, np.inf
    while len(said) < MOST:
        h = run("dec", h, symbol)
        logits = arrays["fc_w"] @ h + arrays["fc_b"]
        symbol = int(logits.argmax())
        second, first = np.partition(logits, -2)[-2:]
        margin = min(margin, first - second)
        if symbol == END:
            break
        said.append(symbol)
    return said, margin


def test_all_words_are_spelled_as_the_package_spells_them(net):
    rows = [line.split("\t") for line in WORDS.read_text().splitlines()]
    words, _, wanted = zip(*rows[1:], strict=True)
    assert rows[0] == ["word", "cmudict", "g2p_en"]
    assert len(words) == 2016
    source, lengths = spelled(words)
    found = net.greedy(source, lengths=lengths, max_length=MOST)
    wrong = {
        word: (says, meant)
        for word, symbols, meant in zip(words, found, wanted, strict=True)
        if (says := " ".join(PHONEMES[s] for s in symbols)) != meant
    }
    assert not wrong
    # In any batch, and by beam search that keeps one.
    assert [net.greedy(source[:n, [b]], max_length=MOST)[0].tolist() for b, n in enumerate(lengths[:30])] == [
        symbols.tolist() for symbols in found[:30]
    ]
    best = net.beam(source[:, :30], lengths=lengths[:30], max_length=MOST, beam=1)
    assert [both[0][0].tolist() for both in best] == [symbols.tolist() for symbols in found[:30]]


def test_what_no_dictionary_has(net, arrays):
    """Long words, at whose end twenty phonemes aren't enough, and letters that it doesn't know."""
    words = [
        "pneumonoultramicroscopicsilicovolcanoconiosis", "antidisestablishmentarianism", "o'clock", "naïve", "", "x" * 40
    ]  # fmt: skip
    meant = [by_reference(arrays, word) for word in words]
    assert min(margin for _, margin in meant) > 1e-3  # so that float32 must find the same
    source, lengths = spelled(words)
    found = net.greedy(source, lengths=lengths, max_length=MOST)
    assert [symbols.tolist() for symbols in found] == [said for said, _ in meant]
    assert max(map(len, found)) == MOST
    assert net.greedy(source, lengths=lengths, max_length=3)[0].tolist() == meant[0][0][:3]
