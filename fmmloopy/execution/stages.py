"""The stages of an evaluation: each binds an operator to the arrays of a plan and records the launch.

A stage takes the values that it reads and returns the value that it writes. Launches are recorded once, and replayed
for new charges. The stages are in the order of the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.components import CHARGES, Components
from fmmloopy.execution.arrays import Boxes
from fmmloopy.execution.m2l_forms import FORMS
from fmmloopy.execution.plan import Action, Plan, Receive, Send
from fmmloopy.execution.runtime import Array
from fmmloopy.execution.values import Charges, Checks, Locals, Multipoles, Potentials
from fmmloopy.octree.copies import copies
from fmmloopy.octree.heavy_boxes import cut_heavy_boxes
from fmmloopy.octree.lists import CSR
from fmmloopy.octree.tree import FIRST_LEVEL
from fmmloopy.operators import CHECK_TO_EQUIVALENT, L2L, L2P, M2M, M2P, P2L, P2M, P2P, P2P_MUTUAL, Operator
from fmmloopy.operators.operator import Families

Notify = Callable[[str], None]
"""Called with the name of each operator before its code is generated."""


class Stages:
    """A recording of stages.

    Attributes:
        plan: the plan with arrays and code.
        nlevels: number of levels of the tree.
        charges: the charges of the sources, which `Plan.write_charges` fills.
        components: of charges and potentials.
        launches: the recorded launches, in order; between them, what parts send to each other and receive.
    """

    def __init__(self, plan: Plan, notify: Notify | None = None, components: Components = CHARGES) -> None:
        self.nlevels, self.components = plan.problem.tree.nlevels, components
        self.charges = Charges(plan.arrays, components)
        self.launches: list[Action] = []
        self.plan, self._notify = plan, notify or (lambda operator: None)

    # -- the upward pass

    def p2m(self, charges: Charges) -> Checks:
        """Charges of leaves -> their upward check potentials."""
        checks = self._cleared_checks()
        self.particles(P2M, charges, checks)
        return checks

    def upward_equivalent(self, checks: Checks) -> Multipoles:
        """Upward check potentials of leaves -> their multipoles."""
        plan, result = self.plan, Multipoles(self.plan.expansions.multipoles)
        factors = plan.problem.tables.upward_first, plan.problem.tables.upward_second
        self._check_to_equivalent(
            "upward", factors, copies(plan.leaves(plan.gathers), plan.vectors), checks.array, result.array
        )
        return result

    def m2m(self, multipoles: Multipoles, level: int) -> Multipoles:
        """Multipoles of the children -> multipoles of their parents on a level."""
        self.translate(M2M, multipoles, level)
        return multipoles

    def send(self, multipoles: Multipoles) -> Multipoles:
        """Multipoles of this part's boxes -> the same, on their way to other parts."""
        if self.plan.problem.part is not None:
            self.launches.append(Send(multipoles.array))
        return multipoles

    # -- near pairs

    def cleared_potentials(self, components: Components) -> Potentials:
        """Return potentials that are zero."""
        potentials = Potentials(self.plan.points.potentials(components), components)
        self.launches.append(self.plan.runtime.clear(potentials.array))
        return potentials

    def p2p(self, charges: Charges, potentials: Potentials) -> Potentials:
        """Charges of the U lists, and of pairs of leaves that act on each other -> potentials."""
        self.particles(P2P, charges, potentials)
        self.particles(P2P_MUTUAL, charges, potentials)
        return potentials

    # -- the downward pass

    def receive(self, multipoles: Multipoles) -> Multipoles:
        """Multipoles of this part's boxes -> those of all boxes that its targets interact with."""
        if self.plan.problem.part is not None:
            self.launches.append(Receive(multipoles.array))
        return multipoles

    def m2l(self, multipoles: Multipoles, form: str) -> Checks:
        """Multipoles -> downward check potentials of the boxes whose V lists they are in, by a form of M2L."""
        checks = self._cleared_checks()
        for levels, table in self.plan.levels_by_table():
            self.launches += FORMS[form](self.plan, self._notify, levels, table, multipoles, checks)
        return checks

    def p2l(self, charges: Charges, checks: Checks) -> Checks:
        """Charges of leaves -> downward check potentials of the boxes whose X lists they are in."""
        self.particles(P2L, charges, checks)
        return checks

    def downward_equivalent(self, checks: Checks) -> Locals:
        """Downward check potentials -> locals."""
        plan, result = self.plan, Locals(self.plan.expansions.locals)
        factors = plan.problem.tables.downward_first, plan.problem.tables.downward_second
        boxes = np.flatnonzero(plan.has_targets & (plan.problem.tree.box_levels >= FIRST_LEVEL))
        self._check_to_equivalent("downward", factors, copies(boxes, plan.vectors), checks.array, result.array)
        return result

    def l2l(self, locals_: Locals, level: int) -> Locals:
        """Locals of the parents on a level -> locals of their children."""
        self.translate(L2L, locals_, level)
        return locals_

    # -- what comes from expansions

    def l2p(self, locals_: Locals, potentials: Potentials) -> Potentials:
        """Locals of leaves -> potentials."""
        self.particles(L2P, locals_, potentials)
        return potentials

    def m2p(self, multipoles: Multipoles, potentials: Potentials) -> Potentials:
        """Multipoles of the W lists -> potentials."""
        self.particles(M2P, multipoles, potentials)
        return potentials

    # -- how operators are bound

    def _cleared_checks(self) -> Checks:
        checks = Checks(self.plan.expansions.checks)
        self.launches.append(self.plan.runtime.clear(checks.array))
        return checks

    def _bind(self, operator: Operator, arguments: Mapping[str, Any], components: Components = CHARGES) -> None:
        self.launches.append(self.plan.bind(operator, arguments, self._notify, components))

    def particles(self, operator: Operator, reads: Charges | Multipoles | Locals, writes: Checks | Potentials) -> None:
        """Record an operator on particles; its record names the lists and points."""
        plan = self.plan
        components = writes.components if isinstance(writes, Potentials) else self.components
        particles, types = plan.particles_of(operator), plan.types_of(operator, components)
        local = plan.setup.book.operator(operator.name).is_local and types.is_mixed
        csr = plan.list_of(particles.list, by_leaves=local and not particles.is_mutual)
        boxes = plan.boxes_of(particles)
        if not len(boxes):
            return
        # Charges and surfaces are in what the kernel computes in.
        inner, kernel = plan.arrays[types.inner.name], plan.setup.method.function_of(operator)
        arguments = {
            **plan.points.points,
            **inner.surfaces,
            particles.sources.array: (
                reads.in_dtype(types.inner.name, local) if isinstance(reads, Charges) else reads.array
            ),
            particles.targets.array: writes.array,
            "sources": plan.points.sources,
            "scaling": kernel.scaling,
            **plan.points.csr(csr),
            **kernel.arguments,
            "radius_factor": {"inner": plan.problem.tables.inner, "outer": plan.problem.tables.outer, "": 0.0}[
                particles.surface
            ],
            "target_boxes": plan.points.indices(boxes),
            "ntarget_boxes": len(boxes),
            **(plan.local_points(components) if local else {}),
        }
        if particles.is_mutual:
            for each in plan.rounds:
                self._bind(operator, arguments | each, components)
            return
        if operator.gives_potentials:
            arguments |= self._pieces(boxes, csr, by_sources=operator.is_near)
        self._bind(operator, arguments, components)

    def _pieces(self, boxes: Boxes, csr: CSR, by_sources: bool) -> dict[str, Any]:
        """Return the arguments that replace target boxes by pieces, if one has too much work."""
        plan, tree, limits = self.plan, self.plan.problem.tree, self.plan.runtime.device.limits
        sources = tree.box_source_ends - tree.box_source_starts if by_sources else None
        pieces = cut_heavy_boxes(tree, boxes, csr, sources, limits.heavy_share, limits.piece_targets)
        if pieces is None:
            return {}
        before = np.int32(plan.points.first_target)
        return {
            **plan.points.csr(pieces.csr),
            "box_target_starts": plan.runtime.upload(pieces.starts + before),
            "box_target_ends": plan.runtime.upload(pieces.ends + before),
            "target_boxes": plan.points.indices(np.arange(len(pieces.starts))),
            "ntarget_boxes": len(pieces.starts),
        }

    def translate(self, operator: Operator, vectors: Multipoles | Locals, level: int) -> None:
        """Record a translation between a level and the next, by the tables with the operator's name."""
        plan, own = self.plan, self.plan.setup.book.operator(operator.name)
        assert isinstance(own.over, Families)
        parents = plan.parents(level, plan.gathers if own.over.side == "sources" else plan.has_targets)
        if not len(parents):
            return
        parents = copies(parents, plan.vectors)
        matrices: NDArray[Any] = getattr(plan.problem.tables, operator.name)
        arrays = plan.expansions
        arguments = {
            # Input and output vectors are rows of the same array.
            **dict.fromkeys(("result", *own.aliases.values()), vectors.array),
            "children": plan.children_of(operator),
            **plan.counts(operator, parents, arrays.columns, arrays.columns, self._notify),
            "table": arrays.matrix(operator.name, matrices, arrays.columns, arrays.columns),
            "itable": min(level - FIRST_LEVEL, len(matrices) - 1),
            "ntables": len(matrices),
            "parents": plan.points.indices(parents, plan.copied.tree.nboxes),
            "nparents": len(parents),
        }
        self._bind(operator, arguments)

    def _check_to_equivalent(
        self, which: str, factors: tuple[NDArray[Any], NDArray[Any]], boxes: Boxes, checks: Array, result: Array
    ) -> None:
        """Record the two factors of a pseudo-inverse, the second with the scaling of every box."""
        arrays, nboxes = self.plan.expansions, self.plan.copied.tree.nboxes
        rows, columns, between = arrays.rows, arrays.columns, min(arrays.rows, arrays.columns)
        factors_in_turn = (
            ("first", factors[0], between, rows, checks, arrays.between, arrays.scales(0)),
            ("second", factors[1], columns, between, arrays.between, result, arrays.scales(-1)),
        )
        for levels, table in self.plan.levels_by_table():
            here = self.plan.on_levels(levels, boxes)
            if not len(here):
                continue
            indices = arrays.indices(here, nboxes)
            for name, matrices, nrows, ncolumns, check, equivalent, scales in factors_in_turn:
                arguments = {
                    **self.plan.counts(CHECK_TO_EQUIVALENT, here, nrows, ncolumns, self._notify),
                    "table": arrays.matrix(f"{which} {name}", matrices, nrows, ncolumns),
                    "itable": table,
                    "ntables": len(matrices),
                    "check": check,
                    "equivalent": equivalent,
                    "scales": scales,
                    "boxes": indices,
                    "ntargets": len(here),
                }
                self._bind(CHECK_TO_EQUIVALENT, arguments)
