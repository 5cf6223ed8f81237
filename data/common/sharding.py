"""`Shard`: shard `index` of `count`, the one form in which work is divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from data.common.errors import UserError

Items = TypeVar("Items", bound=Sequence)


class Shard(NamedTuple):
    """Shard `index`, from 0, of `count`: of a list's rows, of an output's files, of a batch."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `i/n` names.

        Raises:
            UserError: `text` is not of that form.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"part {text!r}: expected i/n with i in 0..n-1, such as 0/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """What its files have in their names: `-00001-of-00008`; "" of the only one."""
        return f"-{self.index:05d}-of-{self.count:05d}" if self.count > 1 else ""

    def span(self, items: int) -> range:
        """The consecutive ones of `items` items; the first shards have one more than the others."""
        size, more = divmod(items, self.count)
        start = self.index * size + min(self.index, more)
        return range(start, start + size + (self.index < more))

    def every(self, items: Items) -> Items:
        """Every `count`-th of the items, from the `index`-th on."""
        return items[self.index :: self.count]


WHOLE = Shard()
"""The only shard."""
