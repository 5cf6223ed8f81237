"""Record files of the demo data set, for the tests that train on them."""

from pathlib import Path

from data.lists.rows import read_rows
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter


def write_records(digits_folder: Path, folder: Path, count: int, kind: str = "sparse") -> Path:
    """Writes the first `count` training digits into two files of a new folder."""
    rows = list(read_rows(digits_folder / "train_im_list.txt"))[:count]
    folder.mkdir()
    for part in range(2):
        with RecordWriter(folder / f"part-{part}") as writer:
            for row in rows[part::2]:
                classes, confidences = row.classes, row.confidences
                if kind == "single":
                    classes, confidences = classes[:1], None
                jpeg = (digits_folder / row.image).read_bytes()
                writer.write(
                    encode_example(kind, jpeg, row.image, 40, 40, classes, confidences, 14)
                )
    return folder
