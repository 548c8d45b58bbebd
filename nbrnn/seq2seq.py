"""Sequence to sequence: an encoder reads, a decoder writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check, _parts
from ._bridge import cross, cross_back, require_fit, split
from ._params import Parameters
from ._search import Decoder, greedy, greedy_alone
from ._search import beam as search
from .attention import KINDS, Attention, Looked
from .module import Gradients, Module, Seed, Tape
from .recurrent import Recurrent

Array = NDArray[Any]


class Seq2Seq(Module, cpu_only=True):
    """An encoder reads a sequence; a decoder, which begins with the encoder's final state, writes another.

    Each recurrent layer of the decoder begins with the final state of the one of the encoder that stands at the same
    place.  Of a bidirectional layer of the encoder the states of both directions, joined, are the state of one layer of
    the decoder, which then is twice as large.  With attention, each output h_t of the decoder's last recurrent layer
    looks back at all outputs s_j of the encoder: ``tanh(W_c [c_t; h_t])`` takes its place, with c_t the mean of all s_j
    with weights softmax(score(h_t, s_j)).

    The parts' parameters move into one vector as in a ``Sequential``, named ``encoder.``, ``decoder.`` and
    ``attention.``.

    Parameters
    ----------
    encoder : Module
        A recurrent layer, or a ``Sequential`` with some.  An Embedding as the first part takes symbols.
    decoder : Module
        Likewise, of one direction; gives logits of the symbols.  If its first part isn't an Embedding, it takes vectors
        with a 1 at the symbol.
    attention : None, "dot" or "general"
        The score: h_t . s_j, or h_t . W_a s_j.
    start, end : int
        The symbol that the decoder is given first, and that with which what it writes ends.
    rng : numpy.random.Generator, seed or None
        For the initial parameters of the attention, uniform within 1/sqrt(n) for n inputs.

    Raises
    ------
    TypeError, ValueError
        Encoder and decoder don't go together, or an argument is of the wrong kind or out of range.

    References
    ----------
    I. Sutskever, O. Vinyals and Q. V. Le, "Sequence to sequence learning with neural networks", NIPS 2014.
    M.-T. Luong, H. Pham and C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
    2015, equations 5, 7 and 8; without input feeding.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> encoder = nbrnn.Sequential(nbrnn.Embedding(10, 8, rng=0), nbrnn.GRU(8, 16, rng=1))
    >>> decoder = nbrnn.Sequential(nbrnn.Embedding(12, 8, rng=2), nbrnn.GRU(8, 16, rng=3), nbrnn.Linear(16, 12, rng=4))
    >>> net = nbrnn.Seq2Seq(encoder, decoder, "dot", start=10, end=11, rng=5)
    >>> source, written = np.zeros((6, 2), int), np.zeros((4, 2), int)
    >>> y, state = net((source, written), lengths=([6, 3], [4, 4]))
    >>> y.shape
    (4, 2, 12)
    >>> len(net.greedy(source, max_length=5))
    2
    """

    def __init__(
        self,
        encoder: Module,
        decoder: Module,
        attention: str | None = None,
        *,
        start: int,
        end: int,
        rng: Seed = None,
    ) -> None:
        super().__init__(rng)
        for name, part in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(part, Module):
                raise TypeError(f"{name} must be a layer or a network, got {type(part).__name__}")
        self.encoder, self.decoder = encoder, decoder
        self.attention: str | None = _check.choice(attention, "attention", KINDS)
        require_fit(encoder, decoder)
        self._reader, (self._writer, self._speaker) = _parts.leaves(encoder), split(decoder)
        self.batch_first = next(part.batch_first for part in self._writer if isinstance(part, Recurrent))
        symbols, classes = _parts.symbols_in(decoder, "decoder"), _parts.size_out(_parts.leaves(decoder))
        if classes > symbols:
            raise ValueError(f"decoder must take all symbols that it gives, got {classes} logits for {symbols} symbols")
        self.start, self.end = _parts.symbol(start, "start", symbols), _parts.symbol(end, "end", classes)
        self._symbols, self._looking = symbols, None
        if self.attention is not None:
            sizes = _parts.size_out(self._reader), _parts.size_out(self._writer)
            if self.attention == "dot" and sizes[0] != sizes[1]:
                raise ValueError(f"attention 'dot' needs outputs of one size, got {sizes[0]} and {sizes[1]}")
            self._looking = Attention(self.attention, *sizes, self.dtype, self._rng)
        self._fix()
        self._join()

    def _join(self) -> None:
        parts = {"encoder": self.encoder, "decoder": self.decoder, "attention": self._looking}
        self._parameters = Parameters.join({name: part._parameters for name, part in parts.items() if part})

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters."""
        return self.decoder._parameters.dtype

    def _lengths_after(self, lengths: Any) -> Any:
        return None if lengths is None else lengths[1]

    def __call__(self, x: Any, state: None = None, lengths: Any = None) -> tuple[Array, Any]:
        """Logits of what comes next, each time given what in truth came before.

        Parameters
        ----------
        x : pair of ndarrays
            The source, and what the decoder is given: the symbols to be written, with start before and without the end.
            Each (T, B) for symbols or (T, B, n) for vectors, with a T of its own; (B, T, ...) with ``batch_first``.
        state : None
            There is none: for the protocol of all parts.
        lengths : pair of array_like of int, shape (B,), optional
            Steps of each source and of what the decoder is given; None, for both or for one, stands for all.

        Returns
        -------
        y : ndarray, shape (T, B, classes), or (B, T, classes) with ``batch_first``
            With T of what the decoder is given; 0 past its end.
        state : as the decoder's
            After its last step.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As of the parts.
        """
        source, given, ends = self._enter(x, state, lengths)
        s, h, after = self._run(source, given, ends)
        if self._looking is not None:
            h = _parts.inside_of(
                self._looking(self._looking.memory(s, ends[0]), h.swapaxes(0, 1)).swapaxes(0, 1), ends[1]
            )
        y, rest = _parts.run(self._speaker, h, [None] * len(self._speaker), ends[1])
        return self._turn(y), _parts.nest(self.decoder, iter(after + rest))

    def attention_weights(self, x: Any, lengths: Any = None) -> Array:
        """Where each step of the decoder looks: softmax(score(h_t, s_j)).

        Parameters
        ----------
        x, lengths
            As in a call.

        Returns
        -------
        ndarray, shape (T, B, J), or (B, T, J) with ``batch_first``
            For T steps of the decoder and J of the source; 0 past the ends of either.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As in a call, or there is no attention.
        """
        if self._looking is None:
            raise ValueError("attention must be 'dot' or 'general' for weights, got None")
        source, given, ends = self._enter(x, None, lengths)
        s, h, _ = self._run(source, given, ends)
        looked = self._looking.forward(self._looking.memory(s, ends[0]), h.swapaxes(0, 1))
        return self._turn(_parts.inside_of(looked.weights.swapaxes(0, 1), ends[1]))

    def _run(self, source: Array, given: Array, ends: Any) -> tuple[Array, Array, list[Any]]:
        """Outputs of the encoder, those of the decoder's last recurrent part, and the states of its parts up to it."""
        s, after = _parts.run(self._reader, source, [None] * len(self._reader), ends[0])
        return s, *_parts.run(self._writer, given, cross(self._reader, after, self._writer), ends[1])

    def forward(self, x: Any, state: None = None, lengths: Any = None, *, rng: Seed = None) -> tuple[Array, Any, Tape]:
        """Run for training.

        Parameters
        ----------
        x, state, lengths
            As in a call; x must not be changed before ``backward``.
        rng : numpy.random.Generator, seed or None
            Where all that is drawn for dropout comes from; None: each part's own generator.

        Returns
        -------
        y : ndarray
            Read-only.
        state
            As in a call.
        tape : Tape
            For one ``backward``.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As of the parts.
        """
        source, given, ends = self._enter(x, state, lengths)
        random, looked = None if rng is None else self._generator(rng), None
        s, after, reading = _parts.forward(self._reader, source, [None] * len(self._reader), ends[0], random)
        h, after, writing = _parts.forward(
            self._writer, given, cross(self._reader, after, self._writer), ends[1], random
        )
        if self._looking is not None:
            looked = self._looking.forward(self._looking.memory(s, ends[0]), h.swapaxes(0, 1))
            h = _parts.inside_of(looked.y.swapaxes(0, 1), ends[1])
            h.flags.writeable = False
        y, rest, speaking = _parts.forward(self._speaker, h, [None] * len(self._speaker), ends[1], random)
        y = self._turn(y)
        tape = Seq2SeqTape(self, reading, writing, looked, speaking, ends[1], y.shape)
        return y, _parts.nest(self.decoder, iter(after + rest)), tape

    def backward(self, tape: Tape, dy: Array | None = None, dstate: Any = None, retain: bool = False) -> Gradients:
        """Backpropagation through decoder, attention and encoder.

        Parameters
        ----------
        tape : Tape
            From ``forward`` of this network, with the parameters unchanged since.
        dy : ndarray, shape of y, optional
            Gradient of the loss for y; None stands for zero.  What lies past an end is ignored.
        dstate : as the state, optional
            Gradient for the decoder's final state; None stands for zero.
        retain : bool
            Leave the tape usable for another ``backward``.

        Returns
        -------
        Gradients
            ``x``, a pair as x with None for symbols, ``params``, ``flat``; ``state`` is None.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have changed since.
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype; the tape stays usable.
        """
        if not isinstance(tape, Seq2SeqTape):
            raise TypeError(f"tape must come from forward of this network, got {type(tape).__name__}")
        retain = _check.flag(retain, "retain")
        with tape._lock:
            return self._go_back(tape, dy, dstate, retain)

    def _go_back(self, tape: Seq2SeqTape, dy: Array | None, dstate: Any, retain: bool) -> Gradients:
        dstates = self._check_dstate(tape, dstate)
        dy = np.zeros(tape.y_shape, self.dtype) if dy is None else _check.array(dy, "dy", self.dtype)
        _check.shape(dy, "dy", tape.y_shape)
        dy = self._turn(dy)
        count = len(self._writer)
        dh, _, flats = _parts.backward(self._speaker, tape.speaking, dy, dstates[count:], retain)
        ds, looking = None, []
        if self._looking is not None and tape.looked is not None:
            dh, ds, flat = self._looking.backward(tape.looked, _parts.inside_of(dh, tape.ends).swapaxes(0, 1))
            dh, looking = dh.swapaxes(0, 1), [flat]
        dgiven, dbefore, writing = _parts.backward(self._writer, tape.writing, dh, dstates[:count], retain)
        dafter = cross_back(self._reader, dbefore, self._writer)
        dsource, _, reading = _parts.backward(self._reader, tape.reading, ds, dafter, retain)
        if not retain:
            tape._consume()
        flat = np.concatenate([*reading, *writing, *flats, *looking], dtype=self.dtype)
        dx: Any = self._turn(dsource), self._turn(dgiven)
        return Gradients(dx, None, None, flat, self._parameters.shapes)

    def _check_dstate(self, tape: Any, dstate: Any) -> list[Any]:
        """The states of the decoder's leaves; everything that could be wrong, before any part's tape is used up."""
        tape._check(self)
        given = _parts.flatten(self.decoder, dstate, "dstate")
        for part, own in zip(self._reader, tape.reading, strict=True):
            own._check(part)
        for part, own, after in zip(self._writer + self._speaker, tape.writing + tape.speaking, given, strict=True):
            own._check(part)
            part._check_dstate(own, after)
        return given

    def greedy(self, source: Array, lengths: Any = None, max_length: int = 100) -> list[Array]:
        """What the decoder writes if it always takes the likeliest symbol.

        Parameters
        ----------
        source : ndarray
            As in a call.
        lengths : array_like of int, shape (B,), optional
            Of the sources.
        max_length : int
            Where writing stops if the end hasn't come.

        Returns
        -------
        list of B ndarrays of int
            The symbols of each, without start and end.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype.
        FloatingPointError
            The logits aren't finite.
        """
        most = _check.size(max_length, "max_length")
        batch, decoder = self._open(source, lengths, alone=True)
        if batch == 1:
            return greedy_alone(decoder, self.start, self.end, most)
        return greedy(decoder, batch, self.start, self.end, most)

    def beam(
        self, source: Array, lengths: Any = None, max_length: int = 100, beam: int = 5, length_penalty: float = 0.0
    ) -> list[list[tuple[Array, float]]]:
        """The likeliest sequences that a beam search finds.

        At each step the ``beam`` best of each source are kept, of those that have ended and of all continuations of
        those that haven't; with ``beam=1`` that is ``greedy``.

        Parameters
        ----------
        source, lengths, max_length
            As for ``greedy``.
        beam : int
            How many sequences are kept, >= 1.
        length_penalty : float
            alpha >= 0: sequences of n symbols, the end included, are ranked by log p / ((5 + n) / 6)^alpha.

        Returns
        -------
        list of B lists of (symbols, log p)
            At most ``beam``, best first: the symbols as for ``greedy``, and the log of the probability of these and,
            unless max_length was reached, of the end.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype.
        FloatingPointError
            The logits aren't finite.

        References
        ----------
        Y. Wu et al., "Google's neural machine translation system", arXiv:1609.08144 (2016), equation 14, for the
        ranking.
        """
        most, width = _check.size(max_length, "max_length"), _check.size(beam, "beam")
        penalty = _check.number(length_penalty, "length_penalty", 0)
        batch, decoder = self._open(source, lengths)
        return search(decoder, batch, self.start, self.end, most, width, penalty)

    def _open(self, source: Array, lengths: Any, alone: bool = False) -> tuple[int, Decoder]:
        """How many sources there are, and a decoder that has read them: if ``alone``, without an axis for only one."""
        source = self._sequences(source, "source", self._reader)
        ends = _parts.ends(lengths, "lengths", source)
        s, after = _parts.run(self._reader, source, [None] * len(self._reader), ends)
        memory = None if self._looking is None else self._looking.memory(s, ends)
        batch = source.shape[1]
        size = None if alone and batch == 1 else batch
        writer = _parts.Steps(self._writer, size, cross(self._reader, after, self._writer), self._symbols)
        speaker = _parts.Steps(self._speaker, size, [None] * len(self._speaker))
        return batch, Decoder(writer, self._looking, memory, speaker)

    # What users give.

    def _turn(self, a: Any) -> Any:
        """Between the user's axes and (T, B, ...): a view."""
        return _parts.turn(self, a)

    def _sequences(self, x: Any, name: str, parts: list[Module]) -> Array:
        """One of the arrays of sequences as (T, B, ...)."""
        axes = parts[0]._x_axes
        x = _check.array(x, name, self.dtype) if axes == 3 else _parts.symbols(x, name)
        if x.ndim != axes:
            wanted = ("(B, T" if self.batch_first else "(T, B") + (", n)" if axes == 3 else ")")
            raise ValueError(f"{name} must have shape {wanted}, got {x.shape}")
        return self._turn(x)

    def _enter(self, x: Any, state: Any, lengths: Any) -> tuple[Array, Array, tuple[Array | None, Array | None]]:
        """Source, what the decoder is given, and the lengths of both, checked."""
        if state is not None:
            raise ValueError(f"state must be None for Seq2Seq, got {type(state).__name__}")
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise TypeError(f"x must be a pair (source, decoder_input), got {_parts.kind(x)}")
        if lengths is not None and (not isinstance(lengths, tuple | list) or len(lengths) != 2):
            raise TypeError(f"lengths must be a pair (of the source, of decoder_input), got {_parts.kind(lengths)}")
        source = self._sequences(x[0], "source", self._reader)
        given = self._sequences(x[1], "decoder_input", self._writer)
        if source.shape[1] != given.shape[1]:
            raise ValueError(
                f"source and decoder_input must have one batch size, got {source.shape[1]} and {given.shape[1]}"
            )
        pair = (None, None) if lengths is None else lengths
        return source, given, (_parts.ends(pair[0], "lengths[0]", source), _parts.ends(pair[1], "lengths[1]", given))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_parameters": None}  # the parts have them

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._join()

    def __repr__(self) -> str:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        inner = "".join(f"\n  {name}: " + repr(part).replace("\n", "\n  ") for name, part in parts.items())
        attention = "" if self.attention is None else f"{self.attention!r}, "
        what = f"{self._called()}({attention}start={self.start}, end={self.end})"
        return f"<{what}: {self._parameters.size:,} parameters>{inner}"


class Seq2SeqTape(Tape):
    """What ``forward`` of a Seq2Seq leaves for ``backward``."""

    def __init__(
        self,
        net: Seq2Seq,
        reading: list[Tape],
        writing: list[Tape],
        looked: Looked | None,
        speaking: list[Tape],
        ends: Array | None,
        y_shape: tuple[int, ...],
    ) -> None:
        super().__init__(net)
        self.reading, self.writing, self.looked, self.speaking = reading, writing, looked, speaking
        self.ends, self.y_shape = ends, y_shape

    def _release(self) -> None:
        del self.reading, self.writing, self.looked, self.speaking
