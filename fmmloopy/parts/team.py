"""A team: parts that check arguments, fail and decide together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from fmmloopy.common.messages import one_line
from fmmloopy.parts.transport import PartError, Transport, in_all_parts, is_in_all_parts

__all__ = ["PartError", "Team"]

Result = TypeVar("Result")


class Team:
    """The parts of a problem.

    Args:
        transport: how they talk to each other.

    Attributes:
        transport: as given.
        rank, size: number of this part, from 0, and of parts.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport, self.rank, self.size = transport, transport.rank, transport.size
        self._is_inside, self._failed = False, ""

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Enter what all parts call: if it fails in one of them, all others raise an error, and none waits for it.

        Most errors are found by `together`, and leave all parts as they were. After others, which come from anywhere,
        parts may be in different states: the team cannot be used any more.

        Raises:
            PartError: another part has failed, or any has before.
        """
        if self._is_inside:
            yield
            return
        if self._failed:
            raise PartError(f"an earlier call has failed: {self._failed}; build it anew")
        self._is_inside = True
        try:
            self.transport.look()
            yield
            self.together(lambda: None)  # all have come so far
        except BaseException as error:
            if not is_in_all_parts(error):
                self._failed = self.transport.fail(error)
            raise
        finally:
            self._is_inside = False

    def together(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call that exchanges nothing.

        Raises:
            Exception: what the call raises. If it fails in another part, an error of the same type where this is
                ValueError or RuntimeError, with the same message; else `PartError`.
        """
        result, error = None, None
        try:
            result = call()
        except Exception as raised:
            error = raised
        if self.transport.reduce(np.array([int(error is not None)]), "max")[0]:
            agreed = in_all_parts(self._agreed(error))
            if agreed is error:
                raise agreed
            raise agreed from error
        return result  # type: ignore[return-value]

    def _agreed(self, error: Exception | None) -> Exception:
        """Return the error of the first part that has one, the same in all parts."""
        told = None if error is None else (isinstance(error, ValueError), one_line(error))
        rank, (is_value_error, text) = next((r, each) for r, each in enumerate(self.transport.gather(told)) if each)
        if rank == self.rank and error is not None:
            return error
        return (ValueError if is_value_error else PartError)(f"{text} (in part {rank} of {self.size})")

    def decide(self, weight: float, call: Callable[[], Result]) -> Result:
        """Return the result of the part with the most weight, the first of them, in all parts."""
        weights = self.transport.gather(weight)
        decides = int(np.argmax(weights))
        result = self.together(lambda: call() if self.rank == decides else None)
        found: Result = self.transport.gather(result)[decides]
        return found

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Make sure that all parts have the same arguments.

        Raises:
            ValueError: some differ, in all parts.
        """
        everywhere = self.transport.gather({name: repr(value) for name, value in values.items()})
        for name in values:
            given = [each[name] for each in everywhere]
            other = next((rank for rank, each in enumerate(given) if each != given[0]), None)
            if other is not None:
                raise in_all_parts(
                    ValueError(
                        f"{name} is {given[0]} in part 0 and {given[other]} in part {other}, expected the same in all "
                        "parts"
                    )
                )
