"""What a recurrent cell is: the names of its gates and two formulas."""

from __future__ import annotations

from typing import Any, ClassVar


class Cell:
    """One recurrent cell: h_t, and whatever else it carries, from the weighted sums of its gates.

    For each gate g, with the row blocks W_g of ``weight_ih``, U_g of ``weight_hh`` and the two biases,

        a_g = W_g x_t + b_ih,g + U_g h_(t-1) + b_hh,g

    is its *sum*.  A gate named in ``split`` needs the two halves apart, as the GRU's n does: it has the sums
    W_g x_t + b_ih,g and U_g h_(t-1) + b_hh,g.  The formulas see the sums in one fixed order,

        input halves of split gates, then the other gates, then hidden halves of split gates,

    so that all that stems from the input is the first G of them and all that stems from h is the last G.

    Subclasses are never instantiated: a cell is the class itself.  The formulas are plain Python on values that know
    ``+ - * /``, with the functions of ``ops`` (see there for what those values can be).
    """

    #: Gates in the order of their row blocks in weight_ih and weight_hh.
    gates: ClassVar[tuple[str, ...]]
    #: Gates whose formula wants the input's and the hidden state's sums apart.
    split: ClassVar[tuple[str, ...]] = ()
    #: What is carried from step to step: h first, then anything of the same size that only the cell itself sees.
    state: ClassVar[tuple[str, ...]] = ("h",)
    #: What ``forward`` saves for ``backward``.
    saved: ClassVar[tuple[str, ...]]
    #: Whether h is a projection (weight_hr) of what ``forward`` returns as h: such a formula can't read the old h.
    projected: ClassVar[bool] = False

    @staticmethod
    def forward(sums: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """From the sums and the state before the step to (the state after it, what ``backward`` will want)."""
        raise NotImplementedError

    @staticmethod
    def backward(dstate: tuple[Any, ...], saved: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """From the loss's gradient for the state after the step to (that for the sums, that for the state before).

        The gradient for h before the step holds only the direct way; that through the sums is the loops' part.
        """
        raise NotImplementedError

    # What follows from the names.

    @classmethod
    def of_input(cls) -> tuple[str, ...]:
        """Gates in the order of the first G sums."""
        return cls.split + tuple(g for g in cls.gates if g not in cls.split)

    @classmethod
    def of_hidden(cls) -> tuple[str, ...]:
        """Gates in the order of the last G sums."""
        return tuple(g for g in cls.gates if g not in cls.split) + cls.split

    @classmethod
    def sums(cls) -> int:
        """Number of sums."""
        return len(cls.gates) + len(cls.split)

    @classmethod
    def extras(cls) -> int:
        """Number of what is carried beside h."""
        return len(cls.state) - 1

    @classmethod
    def slots(cls) -> int:
        """Values kept for each step and unit: what is saved, later overwritten by the gradients of the sums.

        A projection also keeps, for the gradient of weight_hr, what it projects and the gradient of what it yields.
        """
        return cls.slots_of_step() + 2 * cls.projected

    @classmethod
    def slots_of_step(cls) -> int:
        """The slots of the step itself."""
        return max(len(cls.saved), cls.sums())

    @classmethod
    def slot_projected(cls) -> int:
        """The slot of what is projected."""
        return cls.slots_of_step()

    @classmethod
    def slot_projection(cls) -> int:
        """The slot of the gradient for the projection."""
        return cls.slots_of_step() + 1
