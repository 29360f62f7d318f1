"""Potentials of random charges on the unit sphere: the fast multipole method from points to picture, in six steps.

    python examples/laplace_sphere.py
    python examples/laplace_sphere.py --n 100000 --digits 4 --dtype float32
    python examples/laplace_sphere.py --device pocl --recipes sequential --json --no-plot

Exit status: 0 if the error is as small as requested, 1 if it is larger, 2 if the arguments are invalid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

import fmmloopy as fl
from fmmloopy.choosing.work import count_work, mean_list_sizes
from fmmloopy.octree.lists import build_lists

NO_PICTURE = "No picture: it needs matplotlib (extra [plot]): python -m pip install matplotlib"
NCHECKED = 1000  # targets at which the potential is compared with the direct sum
PASSES = {
    "upward": ("p2m", "check_to_equivalent", "m2m"),
    "downward": ("m2l_forward", "m2l_hadamard", "m2l_inverse", "m2l_svd", "p2l", "l2l"),
    "potential": ("l2p", "m2p", "p2p", "p2p_mutual"),
}


class Parser(argparse.ArgumentParser):
    """Report a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def whole_number(text: str) -> int:
    if float(text) < 0 or not float(text).is_integer():
        raise ValueError
    return int(float(text))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--n", type=whole_number, default=1_000_000, help="number of charges (default: %(default)s)")
    add("--digits", type=float, help="relative error below 10^-DIGITS (default: 6, in float32 5; with --order none)")
    add("--order", type=int, help="points per edge of the surfaces, 2 to 16 (default: what --digits needs)")
    add("--ncrit", type=int, help="maximum number of points in a leaf (default: predicted to be the fastest)")
    add("--device", help="part of a device's description, or 'c' (default: the best device found)")
    add("--recipes", help="name of a recipe book, or path of its file (default: the device's)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="precision (default: %(default)s)")
    add("--seed", type=whole_number, default=0, help="seed of the random points and charges (default: %(default)s)")
    add("--plot", type=Path, default=Path("laplace_sphere.png"), help="picture (default: %(default)s)")
    add("--no-plot", dest="plot", action="store_const", const=None, help="draw no picture")
    add("--json", action="store_true", help="print only one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.digits is None and arguments.order is None:
        arguments.digits = 5.0 if arguments.dtype == "float32" else 6.0
    if arguments.plot and not (arguments.plot.suffix in (".png", ".pdf", ".svg") and arguments.plot.parent.is_dir()):
        parser.error(f"argument --plot: {arguments.plot} is not a .png, .pdf or .svg file in a folder that exists")
    return arguments


def run(arguments: argparse.Namespace, console: Console) -> tuple[fl.Fmm, np.ndarray, dict[str, Any]]:
    """Go through the six steps; return the solver, the potentials and all numbers of the report."""

    def step(number: int, name: str, seconds: float, text: str, style: str = "none") -> None:
        console.print(f"step {number}  {name:16}{seconds:7.2f} s   {text}", style=style, markup=False, soft_wrap=True)

    start = time.perf_counter()
    random = np.random.default_rng(arguments.seed)
    points = random.standard_normal((arguments.n, 3)).astype(arguments.dtype)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    charges = random.uniform(-1, 1, arguments.n).astype(arguments.dtype)
    seconds = {"points": time.perf_counter() - start}
    step(1, "points", seconds["points"], f"{arguments.n:,} on the unit sphere, charges in [-1, 1], {arguments.dtype}")

    options = {name: getattr(arguments, name) for name in ("digits", "order", "ncrit", "device", "recipes")}
    fmm = fl.Fmm(points, **options)
    tree, nleaves = fmm.tree, len(fmm.tree.leaves)
    seconds |= {name: fmm.timings[name] for name in ("tree", "choice", "lists", "tables", "setup")}
    size = f"{tree.nboxes:,} boxes, {nleaves:,} leaves of at most {fmm.ncrit} points, {tree.nlevels} levels"
    step(2, "tree", seconds["tree"], size)

    sizes, used = mean_list_sizes(tree, build_lists(tree)), mean_list_sizes(tree, fmm.lists)
    means, means_used = (" ".join(f"|{k.upper()}| {v:.1f}" for k, v in lists.items()) for lists in (sizes, used))
    moved = "" if used == sizes else f"; with small boxes moved to U: {means_used}"
    step(3, "lists", seconds["lists"], f"mean sizes {means}{moved}")

    choice, code = fmm.plan_report().choice, f"recipes {fmm.recipes.name}, on {fmm.device.description}"
    compared = ", ".join(map(str, sorted({candidate.ncrit for candidate in choice.candidates})))
    chosen = f"order {fmm.order}, ncrit {fmm.ncrit}, M2L {choice.m2l}: {choice.reason}"
    chosen += f"; compared: ncrit {compared}" if compared else ""
    prepared = sum(seconds[name] for name in ("choice", "tables", "setup"))
    step(4, "tables and code", prepared, f"{chosen}; {code}")

    fmm.evaluate(charges)
    seconds["first_evaluate"] = fmm.timings["evaluate"]
    potentials = fmm.evaluate(charges)
    seconds["evaluate"] = fmm.timings["evaluate"]
    late = f"second evaluation; the first took {seconds['first_evaluate']:.2f} s with late compilation"
    step(5, "evaluate", seconds["evaluate"], late)

    start = time.perf_counter()
    some = random.choice(arguments.n, min(arguments.n, NCHECKED), replace=False)
    exact = fl.direct(points, charges, points[some])
    error = float(np.linalg.norm(potentials[some] - exact) / (np.linalg.norm(exact) or 1.0))
    seconds["check"] = time.perf_counter() - start
    passed = None if arguments.digits is None else error <= 10**-arguments.digits
    verdict = "" if passed is None else ", as requested" if passed else f", MORE than 1e-{arguments.digits:g}"
    compared = f"relative error {error:.2e} (2-norm) against the direct sum at {len(some):,} random targets{verdict}"
    step(6, "check", seconds["check"], compared, style="bold red" if passed is False else "none")

    report = {name: getattr(arguments, name) for name in ("n", "seed", "dtype", "digits")}
    report |= {"order": fmm.order, "ncrit": fmm.ncrit, "device": fmm.device.description, "recipes": fmm.recipes.name}
    report |= {"nboxes": tree.nboxes, "nleaves": nleaves, "nlevels": tree.nlevels}
    report |= {"list_sizes": sizes, "list_sizes_used": used, "seconds": seconds, "operators": rate_operators(fmm)}
    return fmm, potentials, report | {"error": error, "nchecked": len(some), "passed": passed}


def rate_operators(fmm: fl.Fmm) -> dict[str, dict[str, float]]:
    """Return seconds, share, work and rates of each operator that ran in the last evaluation."""
    work, whole, rates = count_work(fmm.tree, fmm.lists, fmm.method, fmm.m2l), fmm.timings["evaluate"], {}
    for operator in (name for names in PASSES.values() for name in names if fmm.timings.get(name)):
        seconds, pairs, flops = fmm.timings[operator], work[operator].pairs, work[operator].flops
        rates[operator] = {"seconds": seconds, "share": seconds / whole, "pairs": pairs, "flops": flops}
        rates[operator] |= {"gpairs_per_second": pairs / seconds * 1e-9, "gflops_per_second": flops / seconds * 1e-9}
    return rates


def make_table(report: dict[str, Any]) -> Table:
    """List seconds, share and rates of every operator, pass by pass."""
    table = Table("pass", "operator", title="One evaluation")
    for heading in ("seconds", "share", "Gpairs/s", "GFLOP/s"):
        table.add_column(heading, justify="right")
    whole = rest = report["seconds"]["evaluate"]
    for name, operators in PASSES.items():
        for operator in (operator for operator in operators if operator in report["operators"]):
            row = report["operators"][operator]
            pairs = f"{row['gpairs_per_second']:.2f}" if row["pairs"] else ""
            rates = (pairs, f"{row['gflops_per_second']:.1f}")
            table.add_row(name, operator, f"{row['seconds']:.3f}", f"{row['share']:.1%}", *rates)
            name, rest = "", rest - row["seconds"]
        table.add_section()
    table.add_row("", "all else", f"{rest:.3f}", f"{rest / whole:.1%}", end_section=True)
    table.add_row("", "evaluate", f"{whole:.3f}", "100.0%", style="bold")
    return table


def draw(fmm: fl.Fmm, potentials: np.ndarray, report: dict[str, Any], path: Path) -> None:
    """Draw the potential and the tree's leaves on the sphere, and the seconds of each operator beside it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(12, 6.2))
    figure.text(0.03, 0.935, f"Potential of {report['n']:,} charges on a sphere", size=19, weight="bold")
    wanted = "" if report["digits"] is None else f"{report['digits']:g} digits requested,  "
    accuracy = f"{wanted}relative error {report['error']:.2g},  order {fmm.order},  {report['dtype']}"
    figure.text(0.03, 0.885, f"{accuracy},  {fmm.device.name},  recipes {fmm.recipes.name}", size=11, color="0.35")

    axes = figure.add_axes((0.01, 0.02, 0.47, 0.84))
    potential, edges, depth = paint_sphere(fmm.tree, potentials)
    low, high = np.percentile(potential[depth > 0], (0.5, 99.5))
    options = {"origin": "lower", "extent": (-1.01, 1.01, -1.01, 1.01)}
    layers = [axes.imshow(potential, cmap="RdYlBu_r", vmin=low, vmax=high, **options)]
    shadow = 0.3 * (1 - depth) ** 1.5
    layers += [axes.imshow(0 * depth, cmap="gray", alpha=1 - (1 - edges) * (1 - shadow), **options)]
    for layer in layers:
        layer.set_clip_path(Circle((0, 0), 1, transform=axes.transData))
    axes.axis("off")
    bar = figure.colorbar(layers[0], cax=figure.add_axes((0.46, 0.08, 0.011, 0.2)))
    bar.outline.set_visible(False)
    bar.ax.set_title("potential", size=9, color="0.35", loc="left")
    bar.ax.tick_params(labelsize=8, length=2, colors="0.35")

    axes = figure.add_axes((0.67, 0.06, 0.31, 0.72))
    kinds = {"pairs of points": "#4575b4", "dense products": "#f08a4b", "all else": "0.7"}
    rest = report["seconds"]["evaluate"] - sum(row["seconds"] for row in report["operators"].values())
    for place, (name, row) in enumerate([*report["operators"].items(), ("all else", {"seconds": rest, "flops": 0})]):
        kind, rate = "all else", ""
        if row["flops"]:
            kind, rate = "dense products", f"{row['gflops_per_second']:.0f} GFLOP/s"
        if row.get("pairs"):
            kind, rate = "pairs of points", f"{row['gpairs_per_second']:.2f} Gpairs/s"
        # From 99.5 ms on, two digits of milliseconds would be 1e+02.
        seconds = f"{row['seconds']:.2f} s" if row["seconds"] >= 0.0995 else f"{1e3 * row['seconds']:.2g} ms"
        axes.barh(name, row["seconds"], 0.72, color=kinds[kind])
        axes.text(row["seconds"], place, f"  {seconds}   {rate}", va="center")
    axes.set(xlim=(0, 1.7 * axes.get_xlim()[1]), xticks=[], frame_on=False)
    axes.invert_yaxis()
    axes.tick_params(length=0, pad=6)
    axes.set_title(f"One evaluation: {report['seconds']['evaluate']:.2f} s", size=14, weight="bold", loc="left", pad=28)
    for place, (kind, colour) in zip((0, 0.35, 0.71), kinds.items(), strict=True):
        axes.text(place, 1.025, kind, color=colour, weight="bold", transform=axes.transAxes)
    figure.savefig(path, dpi=120)


def paint_sphere(tree: Any, potentials: np.ndarray, npixels: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the potential, the darkness of the leaves' edges and the depth at each pixel of the half that faces us."""
    from scipy.ndimage import gaussian_filter

    turn, tilt = np.radians((35, 25))
    across = (np.cos(turn), np.sin(turn), 0)
    towards = (np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt))
    view = np.array([across, np.cross(towards, across), towards])  # rows: right, up, towards the eye
    right, up = np.meshgrid(*[np.linspace(-1.01, 1.01, npixels)] * 2)
    depth = np.sqrt(np.maximum(1 - right**2 - up**2, 0))

    # The potential of a pixel: a mean over the charges near it.
    x, y, z = view @ (tree.targets + tree.origin[:, None])
    cells = [np.rint((axis[z > 0] / 2.02 + 0.5) * (npixels - 1)).astype(int) for axis in (y, x)]
    image = np.zeros((2, npixels, npixels))
    np.add.at(image[0], tuple(cells), potentials[tree.target_order][z > 0])
    np.add.at(image[1], tuple(cells), 1)
    near = 1.2 * npixels / np.sqrt(max(len(potentials), 2000) / 2)
    total, count = gaussian_filter(image, (0, near, near), truncate=6)

    # Edges: neighbouring pixels in different boxes, drawn the darker, the earlier their paths from the root part.
    places = view.T @ np.stack([right, up, depth]).reshape(3, -1) - tree.origin[:, None]
    box, edges = np.zeros(npixels**2, int), np.zeros((npixels, npixels))
    for level in range(tree.nlevels - 1):
        child = tree.box_children[box, np.array([1, 2, 4]) @ (places >= tree.box_centres[:, box])]
        box = np.where(child < 0, box, child)
        for step in (1, npixels):
            parted = (box != np.roll(box, step)).reshape(npixels, npixels)
            edges = np.maximum(edges, parted * max(0.15, 0.6 - 0.08 * level))
    return total / np.maximum(count, 1e-12), edges, depth


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    console = Console(quiet=arguments.json, highlight=False)
    try:
        fmm, potentials, report = run(arguments, console)
        console.print(make_table(report))
        if arguments.plot and find_spec("matplotlib"):
            draw(fmm, potentials, report, arguments.plot)
            console.print(f"The picture is in {arguments.plot}", markup=False, soft_wrap=True)
        elif arguments.plot:
            console.print(NO_PICTURE, markup=False, soft_wrap=True)
            arguments.plot = None
    except (ValueError, MemoryError, OSError, fl.DeviceError, fl.RecipeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(report | {"plot": str(arguments.plot or "") or None}, indent=2))
    return 1 if report["passed"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
