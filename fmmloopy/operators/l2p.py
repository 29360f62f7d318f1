"""L2P: potentials of the target points of a leaf from its local.

    potentials[x] += scaling * sum over n of G(x - y_n) densities[leaf, n],   y_n on the downward equivalent surface

The list of a leaf is the leaf itself; the surface has the outer radius.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from dataclasses import replace

from fmmloopy.operators.surface import from_surface

L2P = replace(from_surface("l2p", "own", "outer"), block=1000.0)
