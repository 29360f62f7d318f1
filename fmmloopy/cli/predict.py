"""``fmmloopy predict``: how long an evaluation would take on a card that is not there."""

from __future__ import annotations

from typing import Annotated

import typer

from fmmloopy.cli.common import BookArgument, JsonOption, console, print_json, telling
from fmmloopy.cli.ladder import DistributionOption, KernelOption, PointsOption


def predict(
    book: BookArgument,
    card: Annotated[str, typer.Option("--card", help="Name of the card, such as H200; a wrong name lists them.")],
    points: PointsOption = 1_000_000,
    distribution: DistributionOption = "sphere",
    kernel: KernelOption = "laplace",
    digits: Annotated[float | None, typer.Option("--digits", help="Wanted correct digits. Default: 6.")] = None,
    order: Annotated[
        int | None, typer.Option("--order", "-p", help="Points per edge of the surfaces, instead of --digits.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="double, mixed, reduced or single. Default: what digits allow.")
    ] = None,
    ncrit: Annotated[
        int | None, typer.Option("--ncrit", help="Most points of a leaf. Default: predicted to be the fastest.")
    ] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="Compute gradients too.")] = False,
    json: JsonOption = False,
) -> None:
    """Predict an evaluation on a GPU that need not be there, from the machine code of its kernels.

    Times are those of the units of the card or of its memory, whichever take longer, if nothing ever waits. They are
    predicted, not measured.
    """
    from rich.text import Text

    from fmmloopy.recipes.load import load_recipes
    from fmmloopy.showing.card_model import predict_evaluation
    from fmmloopy.showing.gpu_code import find_card

    recipes, chosen = load_recipes(book), find_card(card)
    with telling() as tell:
        found = predict_evaluation(
            *(chosen, recipes, points, distribution, kernel, digits),
            order=order,
            precision=precision,
            ncrit=ncrit,
            gradient=gradient,
            tell=tell,
        )
    if json:
        print_json({"ok": True, **found.as_dict()})
    else:
        console().print(Text(str(found)), soft_wrap=True)
