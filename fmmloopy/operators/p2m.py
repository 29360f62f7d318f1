"""P2M: upward check potentials of a leaf from its own source points.

    checks[box, m] += scaling * sum over y in box of G(x_m - y) charges[y],   x_m on the upward check surface

The list of a leaf is the leaf itself; the surface has the outer radius.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from dataclasses import replace

from fmmloopy.operators.surface import onto_surface

P2M = replace(onto_surface("p2m", "own", "outer"), block=500.0)
