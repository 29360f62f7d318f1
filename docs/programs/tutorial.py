"""The program of the tutorial, whole."""

# points
import numpy as np

import fmmloopy as fl


def main() -> None:
    random = np.random.default_rng(0)
    points = random.standard_normal((100_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    charges = random.uniform(-1, 1, len(points))

    # fmm
    fmm = fl.Fmm(points, digits=5)
    print(fmm.order, fmm.ncrit, fmm.tree.nboxes, fmm.tree.nlevels)

    # evaluate
    potentials = fmm.evaluate(charges)

    # check
    some = random.choice(len(points), 500, replace=False)
    exact = fl.direct(points, charges, points[some])
    print(np.linalg.norm(potentials[some] - exact) / np.linalg.norm(exact))

    # again
    twice = fmm.evaluate(2 * charges)
    print(np.linalg.norm(twice - 2 * potentials) / np.linalg.norm(twice))

    # gradient
    potentials, gradients = fmm.evaluate(charges, gradient=True)
    force = -charges[:, None] * gradients
    print(gradients.shape, np.linalg.norm(force.sum(axis=0)) / np.linalg.norm(force))

    # timings
    for name, seconds in fmm.timings.items():
        print(f"{name:20}{seconds:8.3f} s")
    print(fmm.plan_report())

    # dipoles
    moments = random.normal(size=points.shape) / 100
    potentials, hessians = fmm.evaluate(charges, moments, hessian=True)
    exact = fl.direct(points, charges, points[some], dipoles=moments)
    print(hessians.shape, np.linalg.norm(potentials[some] - exact) / np.linalg.norm(exact))

    # vectors
    several = random.uniform(-1, 1, (len(points), 8))
    potentials = fmm.evaluate(several)
    alone = fmm.evaluate(several[:, 3])
    print(potentials.shape, np.linalg.norm(potentials[:, 3] - alone) / np.linalg.norm(alone))

    # targets
    targets = 1.5 * points[:1000]
    outside = fl.Fmm(points, targets, digits=5).evaluate(charges)
    print(outside.shape)

    # yukawa
    screened = fl.Fmm(points, kernel=fl.yukawa(decay=2.0), digits=5)
    exact = fl.direct(points, charges, points[some], fl.yukawa(decay=2.0))
    print(np.linalg.norm(screened.evaluate(charges)[some] - exact) / np.linalg.norm(exact))

    # single
    single = fl.Fmm(points.astype(np.float32), digits=4)
    print(single.evaluate(charges.astype(np.float32)).dtype)

    # devices
    for device in fl.find_devices():
        print(device.description)
    fmm = fl.Fmm(points, digits=5, device="pocl")
    print(fmm.device.name, fmm.recipes.name)

    # recipes
    slow = fl.Fmm(points, digits=5, recipes="sequential")
    difference = slow.evaluate(charges) - fmm.evaluate(charges)
    print(np.linalg.norm(difference) / np.linalg.norm(potentials))


if __name__ == "__main__":
    main()
