"""The passes of the fast multipole method: which operators run, in which order, on which values.

Each line is one operator, or one per level, except the exchange of multipoles between parts of a problem, which is
nothing for a whole one: they are sent after the upward pass and received before the downward pass, and near pairs need
none of them. A stage takes and returns values (`fmmloopy.execution.values`).
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
    return do.send(multipoles)


def near_pass(do: Stages, charges: Charges, components: Components) -> Potentials:
    """Sum the contributions of U lists to the targets."""
    potentials = do.cleared_potentials(components)
    return do.p2p(charges, potentials)


def downward_pass(do: Stages, charges: Charges, multipoles: Multipoles, m2l: str) -> Locals:
    """Compute locals, from the root to the leaves."""
    checks = do.m2l(multipoles, m2l)
    checks = do.p2l(charges, checks)
    locals_ = do.downward_equivalent(checks)
    for level in range(FIRST_LEVEL, do.nlevels - 1):
        locals_ = do.l2l(locals_, level)
    return locals_


def far_pass(do: Stages, multipoles: Multipoles, locals_: Locals, potentials: Potentials) -> Potentials:
    """Add the contributions of locals and of the multipoles of W lists to the potentials of the targets."""
    potentials = do.l2p(locals_, potentials)
    return do.m2p(multipoles, potentials)
