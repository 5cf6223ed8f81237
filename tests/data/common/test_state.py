"""Files that appear whole, documents and logs whose damage is noticed."""

import json
import os
import resource

import pytest

from data.common import files, state
from data.common.errors import UserError
from data.download import open_images
from data.input import image_source
from data.lists import class_files, cooccurrence, hierarchy, rows
from data.tfrecords import conversion

SCHEMA = {"rows": state.is_count, "name": state.is_name, "parts?": [{"*": state.is_number}]}
CONTENT = {"rows": 3, "name": "a.txt", "parts": [{"x": 0.5}]}
REMEDY = "delete it and start again"


def test_files_appear_whole(tmp_path):
    target = tmp_path / "new" / "folder" / "page.html"
    files.atomic_write(target, b"one")
    files.atomic_write(target, "tw\udcff")
    assert target.read_bytes() == b"tw\xff"
    with pytest.raises(ZeroDivisionError), files.rewritten(target) as file:
        file.write(b"half of " + bytes(1 // 0))
    assert target.read_bytes() == b"tw\xff"
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*report\.html"):
            files.atomic_write(tmp_path / "report.html", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def test_texts_lose_their_byte_order_mark_and_must_be_utf_8(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a\nß\n".encode("utf-8-sig"))
    assert files.read_text(path) == "a\nß\n"
    path.write_bytes("a\nß\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"list\.txt: UTF-16 text; save it as UTF-8"):
        files.read_text(path)
    for encoding in ("utf-16-le", "utf-16-be"):  # without a mark
        path.write_bytes("a\nß\n".encode(encoding))
        with pytest.raises(UserError, match=r"list\.txt: UTF-16 text, it seems"):
            files.read_text(path)
    path.write_bytes("a\nß\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"list\.txt:2: not UTF-8"):
        files.read_text(path)


def test_utf_16_is_told_wherever_a_list_or_a_table_is_read(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a.jpg\t1:1\n".encode("utf-16"))
    readers = {
        "ids": lambda: list(open_images.read_ids(path)),
        "images": lambda: list(image_source.images([str(path)])),
        "rows": lambda: list(rows.read_rows(path)),
        "conversion": lambda: list(conversion.plan([path], 4)),
        "thresholds": lambda: class_files.read_thresholds(path, 4, 0.5),
        "classes": lambda: class_files.read_class_mask(path, 4),
        "dictionary": lambda: hierarchy.Hierarchy.read(path),
        "cooccurrence": lambda: cooccurrence.Cooccurrence.read(path, 4),
    }
    for name, reader in readers.items():
        with pytest.raises(UserError, match=r"list\.txt: UTF-16 text"):
            pytest.fail(f"{name}: {reader()}")


def read(path, **options):
    return state.read_document(path, "example", SCHEMA, REMEDY, **options)


def test_a_document_is_read_as_it_was_written(tmp_path):
    state.write_document(tmp_path / "x.json", "example", CONTENT)
    assert read(tmp_path / "x.json") == CONTENT
    (tmp_path / "old.json").write_text(json.dumps(CONTENT))
    assert read(tmp_path / "old.json") == CONTENT
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["checksum", "format", "version", "rows", "name"])
def test_a_document_without_one_of_its_keys_is_refused(tmp_path, name):
    path = tmp_path / "x.json"
    state.write_document(path, "example", CONTENT)
    document = json.loads(path.read_text())
    del document[name]
    path.write_text(json.dumps(document))
    with pytest.raises(state.StateError, match=rf"x\.json is damaged .*: {REMEDY}$"):
        read(path)


def test_other_formats_and_newer_versions_are_refused(tmp_path):
    state.write_document(tmp_path / "x.json", "recipe", CONTENT)
    with pytest.raises(state.StateError, match="it is a recipe, not a example"):
        read(tmp_path / "x.json")
    state.write_document(tmp_path / "x.json", "example", CONTENT, version=2)
    with pytest.raises(state.StateError, match="version 2; this program supports 1"):
        read(tmp_path / "x.json")
    assert read(tmp_path / "x.json", version=2) == CONTENT


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rows": -1}, "rows should be a whole number from 0, not -1"),
        ({"rows": True}, "rows should be a whole number from 0, not True"),
        ({"rows": 1 << 70}, "rows should be a whole number from 0"),
        ({"name": "../a"}, "name should be the name of a file of the folder"),
        ({"parts": [{"x": "1"}]}, r"parts\[0\].x should be a number, not '1'"),
        ({"parts": {}}, "parts should be a list"),
        ({"more": 1}, "has an unknown 'more'"),
    ],
)
def test_old_documents_are_checked_by_their_schema(tmp_path, change, problem):
    (tmp_path / "x.json").write_text(json.dumps(CONTENT | change))
    with pytest.raises(state.StateError, match=problem):
        read(tmp_path / "x.json")


def test_names_that_leave_the_folder_are_refused():
    outside = [
        "",
        ".",
        "..",
        "/a",
        "a/../b",
        "../a",
        "a//b",
        "a/",
        "C:a",
        "c:\\a",
        "a\\b",
        "a\0",
        1,
    ]
    assert not any(map(state.is_inside, outside))
    assert state.is_inside("n01/..a.jpg") and not state.is_name("n01/a.jpg")
    assert state.is_name("a b:c.jpg")


def test_a_log_notices_lines_that_are_altered_lost_repeated_or_displaced():
    seal = state.Seal()
    lines = [seal.sealed(text) for text in (b"one", b"two", b"three")]

    def read_back(lines):
        seal = state.Seal()
        return [seal.opened(line) for line in lines]

    assert read_back(lines) == [b"one", b"two", b"three"]
    first, second, third = lines
    altered = second.replace(b"w", b"o")
    for wrong in ([first, third], [first, first], [second, first], [first, altered], [b"one\n"]):
        with pytest.raises(ValueError, match="checksum"):
            read_back(wrong)


def test_a_folder_in_place_of_a_document_is_an_error(tmp_path):
    os.mkdir(tmp_path / "x.json")
    with pytest.raises(state.StateError, match=r"x\.json cannot be read"):
        read(tmp_path / "x.json")
