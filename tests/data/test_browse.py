"""data/browse.py: the page in a browser, its numbers, and what it passes over."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from data import browse
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter

NAMES = ["thing", "animal", "dog, canine", "cat <script>throw 1</script>", "plant", "dogwood"]
PARENTS = [-1, 0, 1, 1, -1, 4]
COLORS = {"dog": "red", "cat": "lime", "tree": "blue"}
LIST = """dog.png\t2:1\t4:1
cat.png\t3:1\t1:1
tree.png\t4:1
gone.png\t2:1
bad line\t9:1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (300, 200), color).save(tmp_path / "images" / f"{name}.png")
    lines = [f"{c}\tn{c}\t{p}\t{n}\n" for c, (p, n) in enumerate(zip(PARENTS, NAMES, strict=True))]
    (tmp_path / "dictionary.txt").write_text("".join(lines))
    (tmp_path / "list.txt").write_text(LIST)
    return tmp_path


def run(*arguments, output="out"):
    given = ["--dictionary", "dictionary.txt", "--output", output, "--processes", "1"]
    return browse.main([*given, *arguments])


FROM_LIST = "--list", "list.txt", "--images", "images"


def content(page):
    block = re.search(r'<script type="application/json" id="classes">(.*)</script>', page)
    return json.loads(block[1])


def shown(browser, selector):
    """What a reader sees of these elements."""
    texts = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)"
    visible = "return [...document.querySelectorAll(arguments[0])].map((e) => e.checkVisibility())"
    found = (browser.execute_script(script, selector) for script in (texts, visible))
    return [text.replace("\n", " ").strip() for text, seen in zip(*found, strict=True) if seen]


def click(browser, text):
    browser.find_element(By.LINK_TEXT, text).click()


def test_the_tree_opens_and_a_class_shows_its_images(folder, open_page, capsys):
    assert run(*FROM_LIST) == 0
    said = capsys.readouterr()
    assert "4 rows, 6 classes, 3 thumbnails, 1 images missing or unreadable: out/" in said.out
    assert "list.txt:5: class 9 is not in 0..5" in said.err
    browser = open_page(folder / "out/index.html")
    assert "4 images · 6 classes · 1.50 labels per image" in shown(browser, "main p")[0]
    assert shown(browser, "nav li") == ["▸thing3", "▸plant2"]
    for _ in range(2):
        browser.find_element(By.CSS_SELECTOR, "nav button[aria-expanded=false]").click()
    assert "dog" in "".join(shown(browser, "nav li"))
    click(browser, "animal")
    assert shown(browser, "main h2") == ["animal"]
    assert "1 images with this label · 3 with it or a class below it" in shown(browser, "main p")[1]
    assert sorted(shown(browser, "figcaption")) == ["cat.png", "dog.png"]
    width = "return [...document.querySelectorAll('main img')].map((i) => i.naturalWidth)"
    assert browser.execute_script(width) == [112, 112]


@pytest.mark.slow
def test_the_search_finds_names_ids_and_indices(folder, open_page):
    assert run(*FROM_LIST) == 0
    browser = open_page(folder / "out/index.html")
    box = browser.find_element(By.CSS_SELECTOR, "nav input")
    box.send_keys("DOG")
    assert shown(browser, "nav .list a") == ["dog, canine", "dogwood"]
    assert shown(browser, "nav .found") == ["2 classes"]
    box.send_keys(Keys.ENTER)
    assert shown(browser, "main h2") == ["dog, canine"]
    assert shown(browser, "main table tr") == ["plant\t50 %"]
    for text, found in (("n5", "dogwood"), ("4", "plant"), ("nobody", None)):
        box.clear()
        box.send_keys(text)
        assert shown(browser, "nav .list a")[:1] == ([found] if found else [])
    box.clear()
    box.send_keys("x", Keys.BACKSPACE)
    assert "dog" in shown(browser, "nav .chosen")[0]  # the tree again, open at the class


def test_a_name_cannot_become_code(folder, open_page):
    (folder / "images/<img src=x onerror=throw(1)>.png").write_bytes(
        (folder / "images/cat.png").read_bytes()
    )
    with open("list.txt", "a") as file:
        file.write("<img src=x onerror=throw(1)>.png\t3:1\n")
    assert run(*FROM_LIST, "--title", "<b>x", output="page.html") == 0
    browser = open_page(folder / "page.html")
    browser.execute_script("location.hash = '3'")
    assert shown(browser, "h1") == ["<b>x"]
    assert shown(browser, "main h2") == ["cat <script>throw 1</script>"]
    assert sorted(shown(browser, "figcaption")) == ["<img src=x onerror=throw(1)>.png", "cat.png"]


def test_one_file_holds_the_thumbnails_and_a_folder_has_them_next_to_it(folder):
    assert run(*FROM_LIST, output="page.html") == 0
    assert run(*FROM_LIST) == 0
    alone, page = (content((folder / p).read_text()) for p in ("page.html", "out/index.html"))
    assert all(address.startswith("data:image/jpeg;base64,") for address in alone["images"])
    for address in page["images"]:
        assert Image.open(folder / "out" / address).size == (112, 75)
    assert page["images"][2] == "thumbnails/0/2.jpg"
    del alone["images"], page["images"]
    assert alone == page
    (folder / "out/thumbnails/0/mine.jpg").touch()
    assert run(*FROM_LIST, "--thumbnails", "2") == 0
    left = sorted(path.name for path in (folder / "out/thumbnails/0").iterdir())
    assert left == ["0.jpg", "1.jpg", "mine.jpg"]


def test_limits_give_each_class_one_image_first(folder):
    (folder / "list.txt").write_text("dog.png\t2\ntree.png\t2\ncat.png\t3\n")
    assert run(*FROM_LIST, "--thumbnails", "2", "--per_class", "2") == 0
    found = content((folder / "out/index.html").read_text())
    assert [len(numbers) for numbers in found["shown"]] == [2, 2, 1, 1, 0, 0]
    assert run(*FROM_LIST, "--per_class", "1") == 0
    found = content((folder / "out/index.html").read_text())
    assert [len(numbers) for numbers in found["shown"]] == [1, 1, 1, 1, 0, 0]


def test_another_row_takes_the_place_of_a_missing_image(folder, capsys):
    rows = [f"gone{n}.png\t5\n" for n in range(3)] + ["tree.png\t5\n"]
    (folder / "list.txt").write_text("".join(rows))
    assert run(*FROM_LIST, "--per_class", "1") == 0
    found = content((folder / "out/index.html").read_text())
    assert found["imageNames"] == ["tree.png"] and found["shown"][5] == [0]


def test_a_wrong_folder_of_images_is_a_warning(folder, capsys):
    (folder / "empty").mkdir()
    assert run(*FROM_LIST, "--images", "empty") == 0
    assert (
        "warning: no image was found: check that --images is their folder"
        in capsys.readouterr().err
    )


def test_records_give_the_page_of_their_list(folder, s3):
    with RecordWriter(s3.folder / "bucket/0.tfrecords") as writer:
        for line in LIST.splitlines()[:3]:
            name, *labels = line.split("\t")
            image = (folder / "images" / name).read_bytes()
            classes = [int(label.split(":")[0]) for label in labels]
            writer.write(encode_example("sparse", image, name, 300, 200, classes))
    (folder / "list.txt").write_text("".join(LIST.splitlines(keepends=True)[:3]))
    assert run(*FROM_LIST, output="list.html") == 0
    assert run("--records", str(s3.folder / "bucket"), output="records.html") == 0
    assert run("--records", "s3://bucket/", output="url.html") == 0
    first, *others = ((folder / f"{p}.html").read_text() for p in ("list", "records", "url"))
    assert content(first)["images"] and [content(page) for page in others] == 2 * [content(first)]


def test_a_dictionary_of_names_alone_is_a_flat_tree(folder, open_page):
    (folder / "dictionary.txt").write_text("0\tred\n1\tgreen\n2\tblue\n3\tx\n4\ty\n")
    assert run(*FROM_LIST) == 0
    browser = open_page(folder / "out/index.html")
    assert shown(browser, "nav li a")[:2] == ["blue", "y"]


@pytest.mark.slow
def test_many_classes_and_rows_are_searched_at_once(folder, open_page):
    """3,000 classes below one; the page draws 300 of them, and any one that is asked for."""
    lines = [f"{c}\tn{c}\t{-1 if c == 0 else 0}\tclass {c:04d}\n" for c in range(3000)]
    (folder / "dictionary.txt").write_text("".join(lines))
    rng = np.random.default_rng(0)
    rows = (f"gone{row}.jpg\t{c}\n" for row, c in enumerate(rng.integers(0, 2999, 30_000)))
    (folder / "list.txt").write_text("".join(rows))
    assert run("--list", "list.txt", "--thumbnails", "0") == 0
    browser = open_page(folder / "out/index.html")
    assert shown(browser, "nav li")[-1] == "2,699 more ..."
    browser.execute_script("location.hash = '2999'")
    assert shown(browser, "main h2") == ["class 2999"]
    assert shown(browser, "nav .chosen") == ["class 29990"]
    box = browser.find_element(By.CSS_SELECTOR, "nav input")
    box.send_keys("CLASS 29")
    assert shown(browser, "nav .found") == ["100 classes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "none.txt"], "none.txt"),
        (["--list", "list.txt", "--dictionary", "none.txt"], "none.txt"),
        (["--records", "images"], "images"),
        (["--list", "list.txt", "--output", "list.txt"], "name a folder, or a page"),
    ],
)
def test_mistakes_end_in_one_line(folder, capsys, arguments, message):
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
