"""P2M: upward check potentials of a leaf from its own source points.

    checks[box, m] += scaling * sum over y in box of G(x_m - y) charges[y],   x_m on the upward check surface

The list of a leaf is the leaf itself; radius_factor is that of the outer surfaces.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel
from fmmloopy.operators.surface import onto_surface_kernel


def p2m(greens: GreensFunction, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the P2M kernel for a Green's function in float32 or float64, or mixed."""
    return onto_surface_kernel("p2m", greens, dtype, inner)
