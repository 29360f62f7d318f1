"""The Green's functions that come with fmmloopy: whole evaluations against the direct sum, and against textbooks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from conftest import cube, devices, error, slow, sphere

import fmmloopy as fl
from fmmloopy.kernels import KERNELS

N, NCHECKED, NCRIT = 1500, 100, 30


def clustered(rng, n):
    """Dense around one point on scales down to 1e-2: functions that are not homogeneous need tables for each level."""
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-2, 0, (n, 1)) / 4


def apart(rng, n):
    """Targets that are not the sources, and share no root octant with all of them."""
    return rng.random((n, 3)) * [1.0, 0.5, 1.0] + [0.3, 0.0, 0.1]


PROBLEMS = {"cube": (cube, None), "sphere": (sphere, None), "clustered": (clustered, None), "separate": (cube, apart)}

MADE = {
    "helmholtz": fl.helmholtz(3.0),
    "stokeslet": fl.stokeslet(0.7),
    "stresslet": fl.stresslet(),
    "rotlet": fl.rotlet(0.7),
    "biot_savart": fl.biot_savart(),
    "kelvin": fl.kelvin(2.0, 0.3),
    "biharmonic": fl.biharmonic(),
    "plummer": fl.plummer(1e-3),
    "gaussian": fl.gaussian(6.0),
}
BOUNDS = {"stresslet": (8e-3, 2e-3), "stokeslet": (8e-4, 1e-2), "rotlet": (2e-3, 5e-4), "biot_savart": (2e-3, 5e-4)}
"""Bounds of the errors of potential and gradient at order 4, where they are not (4e-4, 1e-2)."""

GRADIENTS = ("helmholtz", "stokeslet", "biot_savart", "rotlet", "biharmonic")
"""Functions whose gradients are tested; to generate the code of each takes seconds."""


QUICK = {"stresslet": "cube", "biharmonic": "cube", "gaussian": "clustered"}
"""Problems of a quick run: those that are quicker for a function than its turn's."""


@functools.cache
def problem(name):
    """Sources, targets, and some targets to look at."""
    make, make_targets = PROBLEMS[name]
    rng = np.random.default_rng(17)
    sources = make(rng, N)
    return sources, None if make_targets is None else make_targets(rng, N), rng.choice(N, NCHECKED, replace=False)


def charges_of(kernel, n):
    """Charges of both signs; complex ones for a complex function."""
    rng = np.random.default_rng(5)
    components = kernel.nsource_components // (2 if kernel.is_complex else 1)
    charges = rng.random((n, components)) - 0.3
    charges = charges if components > 1 else charges[:, 0]
    return charges * np.exp(1j * rng.random(n)) if kernel.is_complex else charges


@pytest.mark.parametrize(
    ("kernel", "name"),
    # One problem for each function in a quick run, two otherwise: all pairs of these take a minute and a half.
    [
        pytest.param(kernel, name, marks=[] if name == QUICK.get(kernel, [*PROBLEMS][i % len(PROBLEMS)]) else slow)
        for i, kernel in enumerate(MADE)
        for j, name in enumerate(PROBLEMS)
        if (i + j) % 2 == 0
    ],
)
def test_whole_evaluations(kernel, name):
    """At order 4, about four digits where functions and their densities are those of Laplace or much like them.

    Bounds are about four times what was measured. Functions that decay fast have relative errors of potentials that
    charges of both signs make larger; those that decay slowly have gradients that vary over a leaf.
    """
    function = MADE[kernel]
    sources, targets, chosen = problem(name)
    charges = charges_of(function, N)
    fmm = fl.Fmm(sources, targets, function, order=4, ncrit=NCRIT, recipes="sequential")
    assert fmm.lists.v.lists.size > 0, "nothing goes through expansions"
    at, own = (sources, chosen) if targets is None else (targets, None)
    at = at[chosen]
    if kernel in GRADIENTS:
        found = fmm.evaluate(charges, gradient=True)
        sums = fl.direct(sources, charges, at, function, gradient=True, same_as=own)
    else:
        found, sums = (fmm.evaluate(charges),), (fl.direct(sources, charges, at, function, same_as=own),)
    for values, expected, bound in zip(found, sums, BOUNDS.get(kernel, (4e-4, 1e-2)), strict=False):
        assert values[chosen].shape == expected.shape
        assert values.dtype == expected.dtype == (np.complex128 if kernel == "helmholtz" else np.float64)
        assert error(values[chosen], expected) <= bound


def test_all_that_ship_are_tested():
    assert {*MADE, "laplace", "yukawa"} == set(KERNELS)
    assert all(callable(getattr(fl, name)) for name in KERNELS)


def test_stokeslets_converge(rng):
    """What check surfaces do not resolve must not be amplified: with it, the error was 3.6e-6; without, 1.1e-7."""
    sources, charges = sphere(rng, N), rng.random((N, 3)) - 0.3
    found = fl.Fmm(sources, kernel=fl.stokeslet(), order=8, ncrit=60, recipes="sequential").evaluate(charges)[:NCHECKED]
    assert error(found, fl.direct(sources, charges, sources[:NCHECKED], fl.stokeslet())) <= 4e-7


# -- textbooks, without the direct sum


@functools.cache
def ball():
    """Points on the unit sphere, their normals, and targets inside it; each point stands for an equal area.

    On a spiral that turns by the golden angle, sums of smooth functions of the points are integrals to a few 1e-4.
    """
    n = 3000
    z = (2 * np.arange(n) + 1) / n - 1
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    points = np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)
    inside = np.random.default_rng(2).uniform(-0.3, 0.3, (60, 3))
    return points, inside


def inside_of(kernel, charges):
    points, inside = ball()
    return fl.Fmm(points, inside, kernel, order=4, ncrit=NCRIT, recipes="sequential").evaluate(charges)


def test_drag_of_a_sphere():
    """A sphere that moves with U feels the drag 6 pi mu a U, spread evenly; the fluid inside moves along."""
    viscosity, velocity = 0.7, np.array([1.0, -2.0, 0.5])
    forces = np.tile(6 * np.pi * viscosity * velocity / 3000, (3000, 1))
    assert error(inside_of(fl.stokeslet(viscosity), forces), np.tile(velocity, (60, 1))) <= 1e-3


def test_double_layer_of_a_constant():
    """A constant velocity on a closed surface gives itself inside (Pozrikidis 1992, eq. 2.1.12)."""
    points, _ = ball()
    velocity = np.array([1.0, -2.0, 0.5])
    charges = 4 * np.pi / 3000 * np.einsum("j,nk->njk", velocity, points).reshape(-1, 9)
    assert error(inside_of(fl.stresslet(), charges), np.tile(velocity, (60, 1))) <= 1e-2


def test_waves_inside_a_sphere():
    """Sources spread over a unit sphere make a standing wave: i k h0(k) j0(k r) / (4 pi), by the addition theorem."""
    k = 3.0
    r = np.linalg.norm(ball()[1], axis=1)
    expected = np.exp(1j * k) / (4 * np.pi) * np.sin(k * r) / (k * r)
    assert error(inside_of(fl.helmholtz(k), np.full(3000, 1 / 3000)), expected) <= 1e-3


def test_charged_sphere():
    """The potential inside is constant, 1 / (4 pi a); from a string as from `fmmloopy.laplace`."""
    for kernel in (fl.laplace(), fl.GreensFunction("mine", "1/(4*pi*r)")):
        np.testing.assert_allclose(inside_of(kernel, np.full(3000, 1 / 3000)), 1 / (4 * np.pi), rtol=1e-3)


def test_axis_of_a_vortex_ring():
    """The velocity on the axis of a ring of circulation 1 is a^2 / (2 (a^2 + z^2)^(3/2)); the sum over it is exact."""
    n, z = 2000, np.linspace(-2, 2, 50)
    angle = 2 * np.pi * np.arange(n) / n
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    vorticity = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], axis=1) * (2 * np.pi / n)
    axis = np.stack([0 * z, 0 * z, z], axis=1)
    found = fl.Fmm(ring, axis, fl.biot_savart(), order=4, ncrit=NCRIT, recipes="sequential").evaluate(vorticity)
    expected = np.stack([0 * z, 0 * z, 0.5 * (1 + z * z) ** -1.5], axis=1)
    assert error(found, expected) <= 1e-2  # at order 4, of fields that decay as 1 / r^2


def test_speed_of_a_vortex_ring():
    """A thin ring with a smoothed core moves along its axis with (log(8 R / m) - 1) / (4 pi R).

    For q x d / (r^2 + m^2)^(3/2): Saffman, Vortex Dynamics (1992), section 11.2. Next order: (m / R)^2 log(R / m).
    """
    n, m = 6000, 0.005
    plain = fl.biot_savart()
    soft = tuple(
        tuple(str(entry) if not entry else f"({entry})/(sqrt(r*r + m*m)*(r*r + m*m))" for entry in row)
        for row in ((0, "d2", "-1*d1"), ("-1*d2", 0, "d0"), ("d1", "-1*d0", 0))
    )
    kernel = fl.GreensFunction("rosenhead", soft, {"m": m}, plain.scaling, surfaces=plain.surfaces)
    angle = 2 * np.pi * np.arange(n) / n
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    vorticity = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], axis=1) * (2 * np.pi / n)
    fmm = fl.Fmm(ring, kernel=kernel, order=6, ncrit=200, recipes="sequential")
    assert fmm.lists.v.lists.size > 0
    velocity = fmm.evaluate(vorticity)
    expected = (np.log(8 / m) - 1) / (4 * np.pi)
    np.testing.assert_allclose(velocity[:, 2], expected, rtol=1e-3)
    assert np.abs(velocity[:, :2]).max() < 1e-3 * expected


def test_plane_wave_from_its_values_on_a_sphere():
    """Green's representation: the integral of G du/dn - u dG/dn is u inside a closed surface, and 0 outside.

    Colton & Kress (1998), theorem 2.1. Charges and dipoles at once, with complex strengths.
    """
    points, inside = ball()
    k = np.array([1.5, -2.0, 1.0])
    wave = np.exp(1j * points @ k)
    weight = 4 * np.pi / len(points)
    charges, dipoles = weight * 1j * (points @ k) * wave, -weight * wave[:, None] * points
    targets = np.concatenate([inside, 2 * unit(inside)])
    fmm = fl.Fmm(points, targets, fl.helmholtz(float(np.linalg.norm(k))), order=5, ncrit=NCRIT, recipes="sequential")
    found = fmm.evaluate(charges, dipoles)
    assert error(found[: len(inside)], np.exp(1j * inside @ k)) <= 2e-3
    assert np.abs(found[len(inside) :]).max() <= 2e-3


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_kepler_orbits():
    """Around a sphere of mass 1, bodies without mass return to where they were after 2 pi a^(3/2), on ellipses.

    By leapfrog, whose error in the phase is 1e-3 with this step; the sphere moves from step to step, as do the bodies.
    """
    sources = 0.5 * ball()[0]
    masses = np.full(len(sources), 4 * np.pi / len(sources))
    rng = np.random.default_rng(8)
    a, eccentricity, steps = 2.0, 0.3, 120
    step = 2 * np.pi * a**1.5 / steps
    first = unit(rng.standard_normal((40, 3)))
    across = unit(np.cross(first, rng.standard_normal((40, 3))))
    start = a * (1 + eccentricity) * first  # farthest from the sphere
    velocity = np.sqrt((1 - eccentricity) / (a * (1 + eccentricity))) * across
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    fmm = fl.Fmm(sources, start, order=4, ncrit=NCRIT, recipes="sequential")
    positions, radii = start, []
    for _ in range(steps):
        _, slopes = fmm.evaluate(masses, gradient=True)
        velocity = velocity + 0.5 * step * slopes
        positions = positions + step * velocity
        sources = sources @ turn
        fmm.update(sources, positions)
        _, slopes = fmm.evaluate(masses, gradient=True)
        velocity = velocity + 0.5 * step * slopes
        radii.append(np.linalg.norm(positions, axis=1))
    assert error(positions, start) <= 2e-2
    np.testing.assert_allclose(np.min(radii, axis=0), a * (1 - eccentricity), rtol=1e-2)
    np.testing.assert_allclose(np.max(radii, axis=0), a * (1 + eccentricity), rtol=1e-2)


# -- functions, values and limits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("device", devices())
def test_special_functions_on_every_device(device, dtype, rng):
    """All pairs are near pairs; derivatives call exp, cosh and sinh too."""
    text = "(erf(a*r) + 3*erfc(2*a*r) + sinh(r)/2 + cosh(a*r)/4 + tanh(a*r) + atan(3*r))/r"
    kernel = fl.GreensFunction("screened", text, {"a": 1.5})
    points, charges = rng.random((200, 3)).astype(dtype), rng.random(200).astype(dtype) - dtype(0.3)
    found = fl.Fmm(points, kernel=kernel, order=2, ncrit=500, device=device, recipes="sequential").evaluate(
        charges, gradient=True
    )
    for values, expected in zip(found, fl.direct(points, charges, kernel=kernel, gradient=True), strict=True):
        # float32: 200 terms of 6e-8, and near pairs whose coordinates were rounded.
        assert error(values, expected) <= (1e-4 if dtype == np.float32 else 1e-12)


def test_complex_values():
    points, kernel = np.random.default_rng(0).random((50, 3)), fl.helmholtz(2.0)
    charges = np.random.default_rng(1).random(50)
    fmm = fl.Fmm(points, kernel=kernel, order=2, recipes="sequential")
    real, turned = fmm.evaluate(charges), fmm.evaluate(1j * charges)
    np.testing.assert_allclose(turned, 1j * real, rtol=1e-12)
    np.testing.assert_allclose(real, fl.direct(points, charges, kernel=kernel), rtol=1e-12)
    assert fl.Fmm(points.astype(np.float32), kernel=kernel, order=2).evaluate(charges).dtype == np.complex64
    with pytest.raises(ValueError, match=r"charges has shape \(50, 2, 2\), expected"):
        fmm.evaluate(np.ones((50, 2, 2), complex))
    with pytest.raises(ValueError, match="charges has 1 masked entry"):
        fmm.evaluate(np.ma.masked_less(charges + 0j, charges.real.min() + 1e-12))
    with pytest.raises(ValueError, match="expected real numbers: pass real and imaginary parts separately"):
        fl.direct(points, charges + 0j)


@pytest.mark.parametrize(("kernel", "most"), [(fl.helmholtz(4 * np.pi), "4"), (fl.gaussian(1.0), "2")])
def test_boxes_that_are_too_wide_are_refused(kernel, most, rng):
    points = 5 * rng.random((500, 3))
    expected = f"the extent of the points is .*, expected at most {most} for {kernel.name} with .*use fewer points"
    with pytest.raises(ValueError, match=expected):
        fl.Fmm(points, kernel=kernel, order=2, ncrit=20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fl.helmholtz(0), "wavenumber is 0, expected a positive number; for k = 0 use laplace"),
        (lambda: fl.stokeslet(-1), "viscosity is -1, expected a positive number"),
        (lambda: fl.kelvin(1, 0.7), "poisson_ratio is 0.7, expected more than -1 and at most 0.5"),
        (lambda: fl.plummer(0), "softening is 0, expected a positive number"),
    ],
)
def test_refused_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
