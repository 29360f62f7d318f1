"""L2P: potentials of the target points of a leaf from its local.

    potentials[x] += scaling * sum over n of G(x - y_n) densities[leaf, n],   y_n on the downward equivalent surface

The list of a leaf is the leaf itself; radius_factor is that of the outer surfaces.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel
from fmmloopy.operators.surface import from_surface_kernel


def l2p(greens: GreensFunction, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the L2P kernel for a Green's function in float32 or float64, or mixed."""
    return from_surface_kernel("l2p", greens, dtype, inner)
