"""Records as dictionaries of lists, for the tests that look into them."""

from pathlib import Path

from data.tfrecords.examples import decode_example
from data.tfrecords.records import read_records


def plain(payload: bytes) -> dict[str, list]:
    """The features of a serialized example: name -> its bytes, floats or ints."""
    found = {}
    for name, feature in decode_example(payload).items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def read_plain(path: Path) -> list[dict[str, list]]:
    """The examples of a record file, in order."""
    return [plain(payload) for payload in read_records(path)]
