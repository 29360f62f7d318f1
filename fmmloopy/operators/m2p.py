"""M2P: potentials of the target points of a leaf from the multipoles of its W list.

    potentials[x] += scaling * sum over boxes in W(leaf), n of G(x - y_n) densities[box, n],
                     y_n on the upward equivalent surface of the box

radius_factor is that of the inner surfaces.

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`; arguments: :mod:`fmmloopy.operators.surface`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel
from fmmloopy.operators.surface import from_surface_kernel


def m2p(greens: GreensFunction, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the M2P kernel for a Green's function in float32 or float64, or mixed."""
    return from_surface_kernel("m2p", greens, dtype, inner)
