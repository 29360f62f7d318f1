"""P2L: downward check potentials of a box from the source points of its X list.

    checks[box, m] += scaling * sum over y in X(box) of G(x_m - y) charges[y],   x_m on the downward check surface

radius_factor is that of the inner surfaces.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel
from fmmloopy.operators.surface import onto_surface_kernel


def p2l(greens: GreensFunction, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the P2L kernel for a Green's function in float32 or float64, or mixed."""
    return onto_surface_kernel("p2l", greens, dtype, inner)
