"""Replaying recorded random draws, and recording the calls of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
from torch import Tensor

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.scalar_attention import Draws


@contextmanager
def recorded(draws: Iterable[Tensor]) -> Iterator[None]:
    """Dropout (that of attention weights, too), ``torch.rand``, ``torch.randn`` and ``torch.randperm`` take ``draws``.

    Each call takes the next one. A draw of dropout is the mask that multiplies its argument, 0 or 1/(1-rate).

    Raises:
        UserError: the model makes more or fewer draws than were recorded, or one of another shape or dropout rate.
    """
    waiting = [torch.as_tensor(draw) for draw in draws]
    used = 0

    def take(shape: torch.Size) -> Tensor:
        nonlocal used
        if used == len(waiting):
            raise UserError(f"the model draws more often than the {len(waiting)} times that were recorded")
        draw = waiting[used]
        used += 1
        if draw.shape != shape:
            raise UserError(f"draw {used} was recorded with shape {tuple(draw.shape)}, the model draws {tuple(shape)}")
        return draw

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * mask_of_dropout(x.shape, p) if training and p else x

    def mask_of_dropout(shape: torch.Size, p: float) -> Tensor:
        mask = take(shape)
        if abs(mask.max().item() * (1 - p) - 1) > 1e-5:
            raise UserError(f"draw {used} is no mask of dropout at rate {p:g}, which the model uses")
        return mask

    class RecordedDraws(Draws):
        """Of attention weights, all blocks of which are one draw."""

        def __init__(self, rate: float, shape: Sequence[int]) -> None:
            super().__init__(rate, shape)
            self._mask = mask_of_dropout(self.shape, rate)

        def block(self, rows: slice, like: Tensor) -> Tensor:
            return self._mask[rows].ne(0)

    def rand(*size: int | torch.Size, dtype: torch.dtype | None = None, **_: object) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return take(torch.Size(cast("tuple[int, ...]", shape))).to(dtype or torch.get_default_dtype())

    def randperm(count: int, **_: object) -> Tensor:
        return take(torch.Size([count]))

    replaced: dict[str, Callable] = {
        "torch.nn.functional.dropout": dropout,
        "torch.rand": rand,
        "torch.randn": rand,
        "torch.randperm": randperm,
        "recbole_mambarec.layers.scalar_attention.Draws": RecordedDraws,
    }
    with ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(mock.patch(name, function))
        yield
    if used < len(waiting):
        raise UserError(f"{len(waiting)} draws were recorded, the model made {used}")


class Call(NamedTuple):
    """Positional arguments and result of one call of a function."""

    args: tuple
    result: Any


@contextmanager
def calls_of(names: Iterable[str]) -> Iterator[dict[str, list[Call]]]:
    """The calls of functions, in the order in which they return.

    Args:
        names: ``module.function``, where the module is the one that looks the function up.
    """
    made: dict[str, list[Call]] = {}

    def watched(name: str, function):
        made[name] = []

        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            made[name].append(Call(args, result))
            return result

        return call

    with ExitStack() as stack:
        for name in names:
            module, _, attribute = name.rpartition(".")
            function = getattr(__import__(module, fromlist=[attribute]), attribute)
            stack.enter_context(mock.patch(name, watched(name, function)))
        yield made
