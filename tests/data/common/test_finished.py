"""Reports of finished shards: read by name or all, refused when damaged, cleared away."""

import pytest

from data.common import state
from data.common.finished import Reports
from data.common.state import StateError

SCHEMA = {"name": state.is_name, "rows": state.is_count}


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path / "reports", "test report", SCHEMA, "delete it")


def test_finished_shards_are_known_by_name_in_order(reports):
    assert reports.all() == {}
    for name in ("b.tfrecords", "a.tfrecords"):
        reports.add({"name": name, "rows": 3})
    assert list(reports.all()) == ["a.tfrecords", "b.tfrecords"]
    assert reports.read("b.tfrecords") == {"name": "b.tfrecords", "rows": 3}
    with pytest.raises(FileNotFoundError):
        reports.read("c.tfrecords")


def test_damaged_and_misplaced_reports_are_refused(reports):
    reports.add({"name": "a", "rows": 3})
    path = reports.folder / "a.json"
    path.rename(reports.folder / "b.json")
    with pytest.raises(StateError, match=r"b\.json is damaged \(it is the report of a\): delete"):
        reports.all()
    (reports.folder / "b.json").write_text("{}")
    with pytest.raises(StateError, match=r"b\.json is damaged"):
        reports.read("b")


def test_removing_leaves_what_other_runs_have(reports):
    reports.add({"name": "a", "rows": 3})
    reports.add({"name": "b", "rows": 3})
    for name in "ab":
        (reports.folder / f".{name}.json.123.tmp").write_text("half")
    reports.remove(["a", "gone"])
    left = sorted(path.name for path in reports.folder.iterdir())
    assert left == [".b.json.123.tmp", "b.json"]
    reports.remove(["b"])
    assert not reports.folder.exists()
