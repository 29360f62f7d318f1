"""What a proof says: proved, wrong at a point, or not proved because of a statement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proved:
    """Both kernels add the same terms to the same entries, for all sizes.

    Attributes:
        sums: how many sums of terms were matched.
    """

    sums: int


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


Verdict = Proved | Wrong | NotProved


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
