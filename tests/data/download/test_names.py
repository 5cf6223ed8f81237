"""Names of downloaded files: unique, stable, safe; Flickr's and Open Images' own where they are."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.download.names import Naming, flickr_name, host_of

FLICKR = "https://c4.staticflickr.com/8/7239/6997334729_e5fb3938b1_o.jpg"
SAFE = re.compile(r"(?:[0-9a-f]{2}/)?[A-Za-z0-9_][A-Za-z0-9_-]*\.[a-z0-9]+")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (FLICKR, "6997334729_e5fb3938b1_o.jpg"),
        ("http://farm1.static.flickr.com/27/47471518_2f5d2b7f2c.jpg", "47471518_2f5d2b7f2c.jpg"),
        ("http://x.org/a/cat%20one.JPG?size=1", "cat_one-[0-9a-f]{16}.jpg"),
        ("http://x.org/show.php?id=7", "show_php-[0-9a-f]{16}.jpg"),
        ("http://x.org/", "image-[0-9a-f]{16}.jpg"),
        ("http://x.org/..%2F..%2Fetc/passwd", "passwd-[0-9a-f]{16}.jpg"),
        ("http://x.org/%2e%2e", "image-[0-9a-f]{16}.jpg"),
        ("http://x.org/.htaccess", "htaccess-[0-9a-f]{16}.jpg"),
        ("http://x.org/-rf.png", "rf-[0-9a-f]{16}.png"),
        ("http://evil.org/6997334729_e5fb3938b1_o.jpg", "6997334729_e5fb3938b1_o-[0-9a-f]{16}.jpg"),
        ("http://[broken/a.jpg", "a-[0-9a-f]{16}.jpg"),
        ("http://x.org/" + "a" * 500 + ".gif", "a{80}-[0-9a-f]{16}.gif"),
        ("http://x.org/a.JP2", "a-[0-9a-f]{16}.jp2"),
    ],
)
def test_names(url: str, name: str) -> None:
    assert re.fullmatch(name, Naming().file(url))


def test_same_last_part_of_two_urls() -> None:
    assert Naming().file("http://a.org/1.jpg") != Naming().file("http://b.org/1.jpg")
    assert Naming().file("http://a.org/1.jpg") == Naming().file("http://a.org/1.jpg")


def test_folders_and_suffix() -> None:
    assert re.fullmatch(r"[0-9a-f]{2}/6997334729_\w+\.jpg", Naming(in_folders=True).file(FLICKR))
    assert Naming(suffix=".jpg").file("http://x.org/a.png").endswith(".jpg")


def test_ids() -> None:
    naming = Naming("https://bucket/{subset}/{id}.jpg")
    assert naming.url("train/000a1249af2bc5f0") == "https://bucket/train/000a1249af2bc5f0.jpg"
    assert naming.file("train/000a1249af2bc5f0") == "000a1249af2bc5f0.jpg"
    plain = Naming("https://bucket/{id}")
    assert plain.url("a b/c") == "https://bucket/a%20b/c"
    assert re.fullmatch("c-[0-9a-f]{16}.jpg", plain.file("a b/c"))
    with pytest.raises(ValueError, match=r"no \{id\}"):
        Naming("https://bucket/x.jpg")


def test_flickr_name_joins_hosts_and_schemes() -> None:
    other = "http://farm8.staticflickr.com/7239/6997334729_e5fb3938b1_o.jpg"
    assert flickr_name(FLICKR) == flickr_name(other) == "6997334729_e5fb3938b1_o.jpg"
    assert flickr_name("http://x.org/6997334729_e5fb3938b1_o.jpg") is None


@pytest.mark.slow
@given(st.text(min_size=1), st.booleans())
def test_any_text_gives_a_safe_name(text: str, in_folders: bool) -> None:
    for image in (text, f"http://x.org/{text}", f"http://c1.staticflickr.com/{text}"):
        host_of(image)
        for template in (None, "http://bucket/{id}"):
            name = Naming(template, in_folders).file(image)
            assert SAFE.fullmatch(name) and ".." not in PurePosixPath(name).parts
            assert len(name) < 128
