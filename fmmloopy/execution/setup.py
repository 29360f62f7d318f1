"""The parameters of an evaluation before there are points; code, plans, rates and certificates depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmmloopy.common.cores import processors
from fmmloopy.common.sizes import count_points
from fmmloopy.components import CHARGES, Components
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.part import Part
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import InteractionLists
from fmmloopy.octree.mutual import pair_leaves
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import Tree
from fmmloopy.operators import P2P_MUTUAL, Operator, Specification
from fmmloopy.precision import DOUBLE, Precision, Types
from fmmloopy.recipes.book import RecipeBook


@dataclass(frozen=True)
class Method:
    """The discretization, which determines the amount of work and the error.

    Attributes:
        kernel: the Green's function, without gradient.
        order: points per edge of the surfaces.
        precision: which numbers are float32.
    """

    kernel: GreensFunction
    order: int
    precision: Precision = DOUBLE

    def specification(
        self, operator: Operator, components: Components = CHARGES, types: Types | None = None
    ) -> Specification:
        """Return the specification of an operator's kernel.

        Args:
            operator: the operator.
            components: of charges and potentials; operators between surfaces have those of one vector of charges.
            types: types of the kernel; None for those of this precision.
        """
        kernel, types = self.function_of(operator), types or operator.types_in(self.precision)
        if operator.particles is None:
            return Specification(operator, kernel, self.order, types)
        return Specification(operator, operator.own(components).of(kernel), self.order, types)

    @property
    def translations(self) -> GreensFunction:
        """The Green's function between surfaces, which tables are made for."""
        return self.kernel.translations

    def function_of(self, operator: Operator) -> GreensFunction:
        """Return the Green's function between the sources and targets of an operator: points or surfaces."""
        particles = operator.particles
        if particles is None:
            return self.translations
        return self.kernel.between(particles.sources.is_surface, particles.targets.is_surface)


@dataclass(frozen=True)
class Setup:
    """A method with recipes and a device.

    Attributes:
        method: the discretization.
        book: the recipe book.
        device: the device.
        parameters: keyword arguments of the recipes by operator; those that are not given have their defaults on the
            device.
        admit: called with each kernel before it is first bound; returns the code to run, or raises an exception if the
            kernel must not run. None lets all
            run.
    """

    method: Method
    book: RecipeBook
    device: Device
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    admit: Callable[[CodeKey, CompiledOperator], CompiledOperator] | None = field(
        default=None, hash=False, compare=False
    )

    def pairs_leaves(self, tree: Tree) -> bool:
        """Whether pairs of leaves that act on each other are evaluated for both at once, if there is a recipe."""
        return tree.same_points and self._pairs(tree)

    def _pairs(self, tree: Tree) -> bool:
        limits, types = self.device.limits, P2P_MUTUAL.types_in(self.method.precision)
        pays = tree.ntargets >= limits.pairs_from and (limits.narrow_pairs or types.inner == np.float64)
        return pays and P2P_MUTUAL.name in self.book.recipes

    def near_lists(self, tree: Tree, lists: InteractionLists) -> InteractionLists:
        """Return the lists that operators use, from those of `build_lists`.

        Args:
            tree: the tree.
            lists: its lists.
        """
        lists = absorb_small_boxes(tree, lists, count_points(self.method.order))
        return pair_leaves(tree, lists, self.cores) if self.pairs_leaves(tree) else lists

    def lists_of(self, part: Part) -> InteractionLists:
        """Return the lists that operators use in a part of a problem: pairs of its own leaves are evaluated at once."""
        pairs = part.same_points and self._pairs(part.tree)
        return pair_leaves(part.tree, part.lists, self.cores) if pairs else part.lists

    @property
    def cores(self) -> int:
        """Cores of the device that work-groups are divided among."""
        return self.device.cores or processors()

    def code_key(self, operator: str, components: Components = CHARGES, types: Types | None = None) -> CodeKey:
        """Return the key of an operator's code; arguments as for `Method.specification`, with the operator's name."""
        spec = self.method.specification(self.book.operator(operator), components, types)
        return CodeKey(spec, self.book, self.device, self.parameters.get(operator, {}))
