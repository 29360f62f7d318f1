"""The program of the page on Green's functions, whole."""

# points
import numpy as np

import fmmloopy as fl


def main() -> None:
    random = np.random.default_rng(0)
    points = random.random((4000, 3))
    charges = random.uniform(-1, 1, len(points))

    # string
    podolsky = fl.GreensFunction("podolsky", "(1 - exp(-m*r))/(4*pi*r)", {"m": 5.0})
    print(podolsky.homogeneity, podolsky.parity)

    # evaluate
    fmm = fl.Fmm(points, kernel=podolsky, digits=3)
    potentials, gradients = fmm.evaluate(charges, gradient=True)
    print(fmm)
    print(potentials.shape, gradients.shape, fmm.error_estimate, fmm.estimate_error())

    # refused
    try:
        fl.Fmm(points, kernel=podolsky, digits=8)
    except ValueError as error:
        print(error)

    # surfaces
    m = {"m": 5.0}
    between = fl.GreensFunction("between", (("1/(4*pi*r)", "0"), ("0", "exp(-m*r)/(4*pi*r)")), m)
    onto = fl.GreensFunction("onto", (("1/(4*pi*r)",), ("-exp(-m*r)/(4*pi*r)",)), m)
    back = fl.GreensFunction("back", (("1/(4*pi*r)", "exp(-m*r)/(4*pi*r)"),), m)
    better = fl.GreensFunction("podolsky", podolsky.matrix, m, surfaces=fl.Surfaces(between, onto, back))
    fmm = fl.Fmm(points, kernel=better, digits=8)
    fmm.evaluate(charges)
    print(fmm.order, fmm.estimate_error())

    # verify
    fl.verify_kernel(better, orders=(3, 4, 5))

    # matrix
    def entry(i: int, j: int) -> str:
        return f"d{i}*d{j}/r/r/r" + (" + 1/r" if i == j else "")

    oseen = fl.GreensFunction("oseen", tuple(tuple(entry(i, j) for j in range(3)) for i in range(3)))
    forces = random.uniform(-1, 1, (len(points), 3))
    velocities = fl.Fmm(points, kernel=oseen, digits=3).evaluate(forces)
    print(oseen.homogeneity, velocities.shape)

    # complex
    waves = fl.Fmm(points, kernel=fl.helmholtz(5.0), digits=3)
    print(waves.evaluate(charges * np.exp(1j * points[:, 0])).dtype)

    # same
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    for kernel in (fl.laplace(), fl.gaussian(1.0)):
        print(kernel.name, fl.direct(pair, np.ones(3), kernel=kernel))


if __name__ == "__main__":
    main()
