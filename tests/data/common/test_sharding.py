"""Shards: every item in exactly one, and names that are refused."""

import pytest

from data.common.errors import UserError
from data.common.sharding import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_share_all_items(count):
    shards = [Shard(index, count) for index in range(count)]
    runs = [shard.span(11) for shard in shards]
    assert [item for run in runs for item in run] == list(range(11))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert runs == sorted(runs, key=lambda run: (-len(run), run.start))
    every = [shard.every(range(11)) for shard in shards]
    assert sorted(item for items in every for item in items) == list(range(11))
    assert all(items[1] - items[0] == count for items in every if len(items) > 1)


def test_names():
    assert str(Shard(1, 8)) == "1/8"
    assert Shard.parse("1/8") == Shard(1, 8)
    assert Shard(1, 8).suffix == "-00001-of-00008"
    assert Shard().suffix == ""


@pytest.mark.parametrize("text", ["4/4", "1", "1/", "a/b", "-1/4", "1/0"])
def test_names_that_are_refused(text):
    with pytest.raises(UserError, match="expected i/n"):
        Shard.parse(text)
