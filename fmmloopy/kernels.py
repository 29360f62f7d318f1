"""Green's functions of mathematical physics in three dimensions, beside those of Laplace and Yukawa.

With d = x - y, target minus source, and r = |d|. Vectors and tensors are components of charges and potentials, in the
order of their indices, the last index fastest. Laplace's and Yukawa's functions are in :mod:`fmmloopy.greens`; how
accurate each function is at each order is in the documentation, under mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi

from fmmloopy.greens import GreensFunction, Matrix, Surfaces, check_positive, laplace, yukawa

MOST_WAVELENGTHS = 2.0
"""Most wavelengths in the width of a box. With one, an order has two digits less than Laplace's; with two, four digits
less; with three, order 10 has three digits."""

AXES = range(3)
_SYMMETRIC = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _matrix(rows: Callable[[int], list[str]]) -> Matrix:
    """Return the rows of the three target axes."""
    return tuple(tuple(rows(i)) for i in AXES)


def _isotropic(of_delta: str, i: int, j: int) -> str:
    """Return an entry of the tensor of_delta I / r + d d^T / r^3."""
    return f"d{i}*d{j}*rinv*rinv*rinv" + (f" + {of_delta}rinv" if i == j else "")


def helmholtz(wavenumber: float) -> GreensFunction:
    """Helmholtz' Green's function for outgoing waves: G = exp(i k r) / (4 pi r), of complex charges and potentials.

    Colton & Kress, Inverse Acoustic and Electromagnetic Scattering Theory (1998), section 2.1, for exp(-i w t). It is
    computed as a real matrix, of real and imaginary parts. A box may be as wide as `MOST_WAVELENGTHS` wavelengths.

    Args:
        wavenumber: k = 2 pi / wavelength, in 1 / (unit of the points); positive.
    """
    check_positive("wavenumber", wavenumber, "for k = 0 use laplace()")
    matrix = (("cos(k*r)*rinv", "-1*sin(k*r)*rinv"), ("sin(k*r)*rinv", "cos(k*r)*rinv"))
    width = MOST_WAVELENGTHS * 2 * pi / wavenumber
    return GreensFunction(
        "helmholtz", matrix, {"k": wavenumber}, 1 / (4 * pi), None, is_complex=True, max_box_width=width
    )


def stokeslet(viscosity: float = 1.0) -> GreensFunction:
    """Velocity of a viscous fluid from forces, the Stokeslet: G = (I / r + d d^T / r^3) / (8 pi viscosity).

    Pozrikidis, Boundary Integral and Singularity Methods (1992), eq. 2.2.8. Charges are forces, shape (n, 3).

    Args:
        viscosity: positive.
    """
    check_positive("viscosity", viscosity)
    return GreensFunction(
        "stokeslet", _matrix(lambda i: [_isotropic("", i, j) for j in AXES]), scaling=1 / (8 * pi * viscosity)
    )


def stresslet() -> GreensFunction:
    """The stresslet, or Stokes' doublet: G_i,jk = -3 d_i d_j d_k / (4 pi r^5).

    It is the stress of a Stokeslet, and the kernel of the double-layer potential (Pozrikidis 1992, eq. 2.2.11). Charges
    have nine components: strength_j normal_k, ``np.einsum("nj,nk->njk", strengths, normals).reshape(-1, 9)``. It
    depends on the symmetric part of this tensor, so surfaces have six densities.
    """
    scaling = -3 / (4 * pi)

    def entry(i: int, j: int, k: int) -> str:
        return f"d{i}*d{j}*d{k}*rinv*rinv*rinv*rinv*rinv"

    nine = _matrix(lambda i: [entry(i, j, k) for j in AXES for k in AXES])
    six = _matrix(lambda i: [("" if j == k else "2*") + entry(i, j, k) for j, k in _SYMMETRIC])
    pairs = GreensFunction("stresslet", nine, scaling=scaling)
    densities = GreensFunction("stresslet_densities", six, scaling=scaling)
    return GreensFunction("stresslet", nine, scaling=scaling, surfaces=Surfaces(densities, pairs, densities))


def rotlet(viscosity: float = 1.0) -> GreensFunction:
    """Velocity of a viscous fluid from torques, the rotlet: u = torque x d / (8 pi viscosity r^3).

    Pozrikidis (1992), eq. 7.2.18. Charges are torques, shape (n, 3).

    Args:
        viscosity: positive.
    """
    check_positive("viscosity", viscosity)
    return _curl("rotlet", 1 / (8 * pi * viscosity))


def biot_savart() -> GreensFunction:
    """Velocity from vorticity, or the magnetic field of currents: u = vorticity x d / (4 pi r^3).

    Saffman, Vortex Dynamics (1992), section 1.2, eq. 11. Charges are vorticity times volume, shape (n, 3). The gradient
    gives the stretching of vortices.
    """
    return _curl("biot_savart", 1 / (4 * pi))


def _curl(name: str, scaling: float) -> GreensFunction:
    """Return scaling times q x d / r^3. Each component is harmonic, and so are its densities on surfaces."""
    field = {(0, 1): "d2", (0, 2): "-1*d1", (1, 0): "-1*d2", (1, 2): "d0", (2, 0): "d1", (2, 1): "-1*d0"}
    matrix = _matrix(lambda i: [f"{field[i, j]}*rinv*rinv*rinv" if i != j else "0" for j in AXES])
    harmonic = _matrix(lambda i: ["rinv" if i == j else "0" for j in AXES])
    pairs = GreensFunction(name, matrix, scaling=scaling)
    densities = GreensFunction("laplace_vector", harmonic, scaling=scaling)
    return GreensFunction(name, matrix, scaling=scaling, surfaces=Surfaces(densities, pairs, densities))


def kelvin(shear_modulus: float = 1.0, poisson_ratio: float = 0.25) -> GreensFunction:
    """Displacement of an elastic solid by forces, Kelvin's solution.

    G = ((3 - 4 nu) I / r + d d^T / r^3) / (16 pi mu (1 - nu)); Love, The Mathematical Theory of Elasticity (1927),
    section 130. Charges are forces, shape (n, 3).

    Args:
        shear_modulus: mu, positive.
        poisson_ratio: nu, more than -1 and at most 1/2, for which it is the Stokeslet.
    """
    check_positive("shear_modulus", shear_modulus)
    if not isinstance(poisson_ratio, (int, float)) or not -1 < poisson_ratio <= 0.5:
        raise ValueError(f"poisson_ratio is {poisson_ratio!r}, expected more than -1 and at most 0.5")
    matrix = _matrix(lambda i: [_isotropic("c*", i, j) for j in AXES])
    scaling = 1 / (16 * pi * shear_modulus * (1 - poisson_ratio))
    return GreensFunction("kelvin", matrix, {"c": 3 - 4 * poisson_ratio}, scaling)


def biharmonic() -> GreensFunction:
    """Green's function of the biharmonic operator, the square of Laplace's: G = -r / (8 pi).

    Polyanin, Handbook of Linear Partial Differential Equations (2002), section 8.4. A biharmonic field is determined by
    itself and its Laplacian, so surfaces have both as check potentials, and densities of r and of 1 / r.
    """
    scaling = -1 / (8 * pi)
    both = (("r", "rinv"), ("2*rinv", "0"))
    translations, sources, targets = (
        GreensFunction(f"biharmonic_{name}", matrix, scaling=scaling)
        for name, matrix in (("both", both), ("onto", (("r",), ("2*rinv",))), ("from", (("r", "rinv"),)))
    )
    return GreensFunction("biharmonic", (("r",),), scaling=scaling, surfaces=Surfaces(translations, sources, targets))


def plummer(softening: float) -> GreensFunction:
    """Plummer's softened potential: G = 1 / sqrt(r^2 + softening^2).

    Plummer, Monthly Notices of the Royal Astronomical Society 71 (1911), 460. It is not harmonic, so errors do not fall
    with the order beyond some point: 1e-6 where the softening is a hundredth of the width of a leaf, 3e-5 where it is a
    tenth. Order 6 is then as good as any.

    Args:
        softening: length, in the unit of the points; positive.
    """
    check_positive("softening", softening, "for none use laplace() times 4 pi")
    return GreensFunction("plummer", (("1/sqrt(r*r + softening*softening)",),), {"softening": softening})


def gaussian(width: float) -> GreensFunction:
    """A Gaussian: G = exp(-r^2 / width^2).

    Greengard & Strain, SIAM Journal on Scientific and Statistical Computing 12 (1991), 79. Densities on a surface
    represent it only in boxes that are narrower than it is: to 3e-5 in boxes of ``width`` / 2, 1e-8 in boxes of
    ``width`` / 4. Larger boxes than the first are refused.

    Args:
        width: distance at which it is 1 / e, in the unit of the points; positive.
    """
    check_positive("width", width)
    return GreensFunction("gaussian", (("exp(-1*c*r*r)",),), {"c": 1 / width**2}, max_box_width=width / 2)


KERNELS: Mapping[str, Callable[..., GreensFunction]] = {
    "laplace": laplace,
    "yukawa": yukawa,
    "helmholtz": helmholtz,
    "stokeslet": stokeslet,
    "stresslet": stresslet,
    "rotlet": rotlet,
    "biot_savart": biot_savart,
    "kelvin": kelvin,
    "biharmonic": biharmonic,
    "plummer": plummer,
    "gaussian": gaussian,
}
"""All Green's functions that come with fmmloopy, by name."""
