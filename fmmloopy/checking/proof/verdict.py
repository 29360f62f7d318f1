"""What a proof says: proved, proved if lemmas hold, wrong at a point, or not proved because of a statement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lemma:
    """What a step declares of a function that it inserts: that it is another one, up to rounding.

    Attributes:
        name, source: of the function.
        dtype: float32 or float64, the type of its argument and of its result.
        function: what it stands for, as loopy calls it.
    """

    name: str
    source: str
    dtype: str
    function: str


@dataclass(frozen=True)
class Proved:
    """Both kernels add the same terms to the same entries, for all sizes.

    Attributes:
        sums: how many sums of terms were matched.
        lemmas: what this rests on beside the texts of the kernels; each has passed its test on a device, and says
            nothing of others.
    """

    sums: int
    lemmas: tuple[Lemma, ...] = ()


@dataclass(frozen=True)
class ProvedIf:
    """A proof that rests on lemmas, which nobody has tested yet: it is none until then.

    Attributes:
        sums: as in `Proved`.
        lemmas: what has to be tested; at least one.
    """

    sums: int
    lemmas: tuple[Lemma, ...]


@dataclass(frozen=True)
class Refuted:
    """A lemma that the proof rests on is wrong: a test on a device has shown it.

    Attributes:
        lemma: which one.
        reason: type, argument, result, and what was expected.
    """

    lemma: Lemma
    reason: str


@dataclass(frozen=True)
class Wrong:
    """There is a point at which the kernels seem to differ; only a run shows whether they do.

    Attributes:
        witness: values of sizes and loop variables, such as ``"ncolumns=514, j=512"``.
        where: what is wrong there, with the statement.
    """

    witness: str
    where: str


@dataclass(frozen=True)
class NotProved:
    """The method does not show that the kernels agree, nor that they differ.

    Attributes:
        reason: what stands in the way.
        statement: id of the statement, "" if it is none in particular.
    """

    reason: str
    statement: str = ""


Verdict = Proved | ProvedIf | Refuted | Wrong | NotProved


class Unproved(Exception):
    """Ends a proof: the kernels differ, or the method does not reach that far."""

    def __init__(self, reason: str, statement: str = "", witness: str = "") -> None:
        super().__init__(reason)
        self.reason, self.statement, self.witness = reason, statement, witness

    @property
    def verdict(self) -> Verdict:
        """The verdict that it ends with."""
        if self.witness:
            return Wrong(self.witness, f"{self.statement}: {self.reason}" if self.statement else self.reason)
        return NotProved(self.reason, self.statement)
