"""How far a check is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from fmmloopy.checking.request import LAYERS
from fmmloopy.common.progress import Progress

Notify = Callable[[Progress], None]
"""Called when a layer of an operator begins, and when it is done."""

EFFORT = {"static": 6, "symbolic": 3, "exact": 6, "hostile": 1, "numerical": 6, "sanitized": 3, "fmm": 20}
"""Relative durations of the layers, for the progress display."""


def layers(sanitizes: bool) -> tuple[str, ...]:
    """Return the layers that run."""
    return LAYERS if sanitizes else LAYERS[:-1]


class Meter:
    """Adds up the progress of a check over several threads.

    Args:
        notify: called after every change.
        requests, wholes: numbers of operators and of whole evaluations, each in one precision.
        sanitizes: whether the sanitized layer runs.
    """

    def __init__(self, notify: Notify, requests: int, wholes: int, sanitizes: bool) -> None:
        self._notify, self._lock = notify, threading.Lock()
        each = sum(EFFORT[layer] for layer in layers(sanitizes))
        self._all = requests * each + wholes * EFFORT["fmm"]
        self._done = 0
        self._begun: dict[str, list[str]] = {}

    def begin(self, what: str, layer: str) -> None:
        """Record that a layer of an item begins; its earlier layers are done."""
        with self._lock:
            layers = self._begun.setdefault(what, [])
            if layer not in layers:
                layers.append(layer)
                self._tell(f"{what}, {layer}")

    def end(self, what: str, layers: Sequence[str]) -> None:
        """Record that an item has passed all its layers, or has failed in one."""
        with self._lock:
            self._begun.pop(what, None)
            self._done += sum(EFFORT[layer] for layer in layers)
            self._tell(f"{what}, done")

    def _tell(self, what: str) -> None:
        begun = sum(EFFORT.get(layer, 0) for layers in self._begun.values() for layer in layers[:-1])
        self._notify(Progress(what, min(1.0, (self._done + begun) / self._all)))
