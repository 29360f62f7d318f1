"""M2P: potentials of the target points of a leaf from the multipoles of its W list.

    potentials[x] += scaling * sum over boxes in W(leaf), n of G(x - y_n) densities[box, n],
                     y_n on the upward equivalent surface of the box

The surface has the inner radius.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from dataclasses import replace

from fmmloopy.operators.surface import from_surface

M2P = replace(from_surface("m2p", "w", "inner"), timed_like="l2p", block=5000.0)
