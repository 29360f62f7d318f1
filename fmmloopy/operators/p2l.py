"""P2L: downward check potentials of a box from the source points of its X list.

    checks[box, m] += scaling * sum over y in X(box) of G(x_m - y) charges[y],   x_m on the downward check surface

The surface has the inner radius.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from dataclasses import replace

from fmmloopy.operators.surface import onto_surface

P2L = replace(onto_surface("p2l", "x", "inner"), timed_like="p2m", block=1500.0)
