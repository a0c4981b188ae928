"""torch's containers of modules, with the class of their members known to a type checker.

At run time they are torch's own classes, so that a printed model, its checkpoint and ``isinstance`` know no difference.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

if TYPE_CHECKING:
    Member = TypeVar("Member", bound=nn.Module)

    class ModuleDict(nn.ModuleDict, Generic[Member]):
        """``nn.ModuleDict`` whose members are all of one class."""

        def __init__(self, modules: Mapping[str, Member] | None = None) -> None: ...
        def __getitem__(self, key: str) -> Member: ...
        def items(self) -> ItemsView[str, Member]: ...
        def values(self) -> ValuesView[Member]: ...

    class ModuleList(nn.ModuleList, Generic[Member]):
        """``nn.ModuleList`` whose members are all of one class."""

        def __init__(self, modules: Iterable[Member] | None = None) -> None: ...
        @overload
        def __getitem__(self, idx: slice) -> ModuleList[Member]: ...
        @overload
        def __getitem__(self, idx: int) -> Member: ...
        def __getitem__(self, idx): ...
        def __iter__(self) -> Iterator[Member]: ...

else:
    ModuleDict, ModuleList = nn.ModuleDict, nn.ModuleList
