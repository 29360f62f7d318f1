"""The passes of the fast multipole method: which operators run, in which order, on which values.

Each line is one operator, or one per level, except the exchange of multipoles between parts of a problem, which is
nothing for a whole one. A stage takes and returns values (`fmmloopy.execution.values`).
"""

from __future__ import annotations

from fmmloopy.components import Components
from fmmloopy.execution.stages import Stages
from fmmloopy.execution.values import Charges, Locals, Multipoles, Potentials
from fmmloopy.octree.tree import FIRST_LEVEL


def upward_pass(do: Stages, charges: Charges) -> Multipoles:
    """Compute multipoles from charges, from the leaves to the root (Ying, Biros & Zorin 2004, section 3.2)."""
    checks = do.p2m(charges)
    multipoles = do.upward_equivalent(checks)
    for level in reversed(range(FIRST_LEVEL, do.nlevels - 1)):
        multipoles = do.m2m(multipoles, level)
    return do.exchange(multipoles)


def downward_pass(do: Stages, charges: Charges, multipoles: Multipoles, m2l: str) -> Locals:
    """Compute locals, from the root to the leaves."""
    checks = do.m2l(multipoles, m2l)
    checks = do.p2l(charges, checks)
    locals_ = do.downward_equivalent(checks)
    for level in range(FIRST_LEVEL, do.nlevels - 1):
        locals_ = do.l2l(locals_, level)
    return locals_


def potential_pass(
    do: Stages, charges: Charges, multipoles: Multipoles, locals_: Locals, components: Components
) -> Potentials:
    """Sum the contributions to the targets: locals, multipoles of W lists, charges of U lists."""
    potentials = do.l2p(locals_, components)
    potentials = do.m2p(multipoles, potentials)
    return do.p2p(charges, potentials)
