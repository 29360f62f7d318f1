"""Translation validation: whether a kernel does what the sequential one does, for all sizes, shown without a run.

Both kernels are read as stores of sums of terms over sets of points (`facts`, `integer_reader`, `number_reader`,
`memory`, `sums`, `contributions`). A map between the points is found from the indices (`unify`); isl shows that it is a
bijection (`sets`, `match`, `compare`), and the terms under it are compared (`identity`, `lemmas`).
"""

from __future__ import annotations

from fmmloopy.checking.proof.proving import prove
from fmmloopy.checking.proof.verdict import Lemma, NotProved, Proved, ProvedIf, Refuted, Verdict, Wrong

__all__ = ["Lemma", "NotProved", "Proved", "ProvedIf", "Refuted", "Verdict", "Wrong", "prove"]
