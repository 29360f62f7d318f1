"""Chains of translations of the homogeneous functions that have no table of errors: ``python -m benchmarks.squares``.

It writes what predictions of errors start from, so that nobody has to measure it: the first prediction for nine digits
takes half a minute for the Stokeslet. Run it when `fmmloopy.prediction.predict.MADE_WITH` changes, or a function does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks.kernels import PARAMETERS
from fmmloopy.accuracy import errors_for
from fmmloopy.common.sizes import FIRST_ORDER
from fmmloopy.kernels import KERNELS
from fmmloopy.precision import DOUBLE
from fmmloopy.prediction.chain import is_homogeneous, measure_chain
from fmmloopy.prediction.predict import MADE_WITH, SHIPPED_FILE, with_unit_scaling

DIGITS = 6
"""Of the numbers that are written; predictions are right to a factor of three."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.squares", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=13, help="highest order (default: %(default)s)")
    arguments = parser.parse_args(argv)
    functions = {}
    for name, make in KERNELS.items():
        kernel = with_unit_scaling(make(*PARAMETERS.get(name, ())))
        if errors_for(kernel) is not None or not is_homogeneous(kernel):
            continue
        found = functions[repr(kernel.key)] = dict[str, list[float]]()
        for order in range(FIRST_ORDER, arguments.most + 1):
            squares = measure_chain(kernel, order, 1.0, DOUBLE)
            found[str(order)] = [float(f"{value:.{DIGITS}g}") for value in (squares.error, squares.size)]
            print(f"{name}, order {order}: {(squares.error / squares.size) ** 0.5:.1e}", flush=True)
    SHIPPED_FILE.write_text(json.dumps({"made_with": MADE_WITH, "functions": functions}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
