"""Charges and potentials are put in tree order, and back, by the device.

On a GPU, an evaluation takes about as long as the host takes to read charges and potentials in random order. So the
host hands over charges as they come, and gets potentials in the order of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.range import shift_back
from fmmloopy.components import Components
from fmmloopy.execution.device import GPU
from fmmloopy.execution.generate import reordering_code
from fmmloopy.execution.launch import Array, Launch
from fmmloopy.execution.plan import Plan
from fmmloopy.execution.values import Potentials

LARGEST_FACTOR = 100
"""Charges are divided on the device by 2 to a power up to this, which is far inside the range of float32."""


def reorders(plan: Plan) -> bool:
    """Return whether the device puts charges and potentials in order: a GPU that has the whole problem."""
    return plan.runtime.device.kind == GPU and plan.problem.part is None


class Reordering:
    """The launches before and after those of an evaluation, and the arrays that the host writes and reads.

    Args:
        plan: the plan, for which all launches have been recorded.
        components: of charges and potentials.
        potentials: the result of these launches.
        dtype: float32 or float64, of the host's charges and potentials.

    Attributes:
        before: launches that put charges in tree order, in the dtypes in which operators read them.
        after: the launch that puts potentials in the order of the targets.
    """

    def __init__(self, plan: Plan, components: Components, potentials: Potentials, dtype: np.dtype[Any]) -> None:
        self._plan, self._components = plan, components
        runtime, tree = plan.runtime, plan.problem.tree
        charges = [
            (arrays.charges(components, local), local)
            for arrays in plan.arrays.values()
            for local in (False, True)
            if arrays.has_charges(components, local)
        ]
        columns, (rows, _) = charges[0][0].shape[0], potentials.array.shape
        self._given = runtime.zeros((columns, tree.nsources), dtype)
        self._found = runtime.zeros((rows, tree.ntargets), dtype)
        self._factors = [(runtime.zeros((columns,), dtype), local) for _, local in charges]
        order, places = np.asarray(tree.source_order, np.int32), np.empty(tree.ntargets, np.int32)
        places[tree.target_order] = np.arange(tree.ntargets, dtype=np.int32)
        order_of_sources = runtime.upload(order)
        self.before: Sequence[Launch] = [
            self._launch(self._given, array, factors, order_of_sources)
            for (array, _), (factors, _) in zip(charges, self._factors, strict=True)
        ]
        ones = runtime.upload(np.ones(rows, potentials.array.dtype))
        self.after: Sequence[Launch] = [self._launch(potentials.array, self._found, ones, runtime.upload(places))]

    def _launch(self, given: Array, wanted: Array, factors: Array, order: Array) -> Launch:
        """Bind wanted[row, i] = factors[row] given[row, order[i]]."""
        code = reordering_code(given.dtype, wanted.dtype, self._plan.runtime.device)
        arguments = {
            "given": given,
            "wanted": wanted,
            "factors": factors,
            "order": order,
            "n": order.shape[0],
            "nrows": given.shape[0],
            "ngiven": given.shape[1],
            "nwanted": wanted.shape[1],
        }
        return self._plan.runtime.bind(code, arguments)

    def write(self, charges: NDArray[Any], largest: NDArray[Any]) -> int:
        """Copy charges and dipole moments, shape (columns, nsources), in the order of the sources, to the device.

        They are divided as `Plan.write_charges` divides them.

        Args:
            charges: charges and dipole moments.
            largest: the largest charges.

        Returns:
            The exponent of the power of two that they are divided by; 0 if nothing is divided.
        """
        plan = self._plan
        exponent = plan.exponent(largest)
        on_device = abs(exponent) <= LARGEST_FACTOR
        ones = np.ones((len(charges), 1), charges.dtype)
        for factors, local in self._factors:
            values = plan.moments_in_unit(ones, self._components) if local else ones
            plan.runtime.write(factors, np.ldexp(values[:, 0], -exponent if on_device else 0))
        plan.runtime.write(self._given, charges if on_device else np.ldexp(charges, -exponent))
        return exponent

    def read(self, exponent: int) -> NDArray[Any]:
        """Return potentials in the order of the targets, shape (rows, ntargets).

        Args:
            exponent: what `write` has returned.

        Raises:
            ValueError: a potential is above the largest number of the dtype.
        """
        return shift_back(self._plan.runtime.read(self._found), exponent)
