"""data/common/html_report.py and data/plot_training.py: images and pages for people."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from data import plot_training
from data.common import html_report
from data.common.errors import UserError


def tile(color, size=(4, 4), caption="", good=None):
    return html_report.Tile(Image.new("RGB", size, color), caption, good)


def test_contact_sheet_places_each_image():
    sheet = html_report.contact_sheet([tile("red"), tile("lime"), tile("blue")], columns=2, side=20)
    margin, cell = html_report.SHEET_MARGIN, 20 + html_report.SHEET_MARGIN
    second_row = (sheet.height - margin) // 2 + margin
    assert sheet.width == 2 * cell + margin
    assert sheet.getpixel((margin + 10, margin + 10)) == (255, 0, 0)
    assert sheet.getpixel((margin + cell + 10, margin + 10)) == (0, 255, 0)
    assert sheet.getpixel((margin + 10, second_row + 10)) == (0, 0, 255)
    assert sheet.getpixel((margin + cell + 10, second_row + 10)) == (255, 255, 255)


def test_contact_sheet_keeps_proportions():
    wide = html_report.contact_sheet([tile("red", size=(200, 100))], columns=1, side=100)
    top = html_report.SHEET_MARGIN
    assert wide.getpixel((58, top + 10)) == (255, 255, 255)
    assert wide.getpixel((58, top + 50)) == (255, 0, 0)


def test_captions_say_right_or_wrong_by_color():
    tiles = [tile("white", caption="a", good=good) for good in (True, False, None)]
    seen = [{c for _, c in html_report.contact_sheet([t], 1, 80).getcolors(256)} for t in tiles]
    expected = [(26, 127, 55), (179, 38, 30), (34, 34, 34)]
    assert [color in colors for color, colors in zip(expected, seen, strict=True)] == [True] * 3


@pytest.mark.slow
def test_long_captions_are_cut():
    short = html_report.contact_sheet([tile("white", caption="an end")], 1, 90)
    long = html_report.contact_sheet([tile("white", caption="without an end " * 50)], 1, 90)
    assert long.size == short.size
    assert {long.getpixel((long.width - 4, y)) for y in range(long.height)} == {(255, 255, 255)}


def test_a_sheet_of_nothing_is_an_error():
    with pytest.raises(UserError, match="at least one image"):
        html_report.contact_sheet([], 4, 100)


def test_a_page_escapes_what_it_shows():
    rows = [("<b>", 12345, 0.123456)]
    text = html_report.page(
        "a & b", [("one < two", html_report.table(["name", "n", "share"], rows))]
    )
    assert "<title>a &amp; b</title>" in text
    assert "<h2>one &lt; two</h2>" in text
    assert '<td>&lt;b&gt;</td><td class="number">12,345</td><td class="number">0.1235</td>' in text
    assert 'src="a&quot;.jpg"' in html_report.figure('a".jpg', "caption")


def test_a_heat_map_is_darkest_where_the_number_is_largest():
    text = html_report.heat_map(
        ["<a>", "b"], ["c", "d"], [[0, 4], [2, 1000]], lambda i, j: f"p?{i}&{j}" if i else None
    )
    assert "<th>&lt;a&gt;</th><td></td>" in text
    assert '<td style="background: rgb(179 38 30 / 0%)">4</td>' in text
    assert 'rgb(179 38 30 / 70%)"><a href="p?1&amp;1">1,000</a></td>' in text


def test_cells_of_a_table_may_lead_somewhere():
    rows = [(html_report.Link("a<b", 'x"y'), html_report.Link("c&d", None))]
    cells = '<td><a href="x&quot;y">a&lt;b</a></td><td>c&amp;d</td>'
    assert cells in html_report.table(["one", "two"], rows)


@pytest.fixture
def log_dir(tmp_path):
    records = [
        {"step": 10, "kind": "train", "loss": 3.0, "rate": 0.1, "images_per_second": 50.0},
        {"step": 20, "kind": "train", "loss": 2.0, "rate": 0.1, "images_per_second": 60.0},
        {"step": 20, "kind": "val", "map_macro": 0.5, "images": 9},
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / plot_training.RECORD).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_curves_are_read(log_dir):
    curves = plot_training.read_curves(log_dir / plot_training.RECORD)
    assert curves["train"]["loss"] == ([10, 20], [3.0, 2.0])
    assert curves["val"] == {"map_macro": ([20], [0.5]), "images": ([20], [9])}


@pytest.mark.slow
def test_curves_are_drawn(log_dir, capsys):
    output = log_dir / "curves.png"
    assert plot_training.main(["--log_dir", str(log_dir), "--output", str(output)]) == 0
    reported = capsys.readouterr().out.splitlines()
    assert reported[0] == "training loss: 2 at step 20"
    assert reported[-1] == "held-out mAP (mean over classes): 0.5 at step 20"
    with Image.open(output) as image:
        assert image.format == "PNG"
        assert image.height / image.width == pytest.approx(2 * 4.0 / (2 * 5.5), abs=0.01)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.slow
def test_several_runs_are_compared(log_dir, tmp_path, capsys):
    for name, loss in (("a", 1.5), ("b", 0.5)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        record = {"step": 30, "kind": "train", "loss": loss}
        (folder / plot_training.RECORD).write_text(json.dumps(record) + "\n")
    output = tmp_path / "compared.png"
    folders = tmp_path / "runs/a", tmp_path / "runs/b", log_dir
    assert plot_training.main(["--log_dir", *map(str, folders), "--output", str(output)]) == 0
    reported = capsys.readouterr().out.splitlines()
    assert reported[:3] == [
        "training loss of a: 1.5 at step 30",
        "training loss of b: 0.5 at step 30",
        f"training loss of {log_dir.name}: 2 at step 20",
    ]
    assert len(reported) == 6  # only the last has a learning rate, images/s and an mAP
    with Image.open(output) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colors
    same = [tmp_path / "x/log", tmp_path / "y/log"]
    assert plot_training.names_of(same) == list(map(str, same))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "nothing yet"), ("no json\n", "jsonl:1: not a record"), (None, "no such")],
)
def test_no_curves(tmp_path, text, reason, capsys):
    if text is not None:
        (tmp_path / plot_training.RECORD).write_text(text)
    arguments = ["--log_dir", str(tmp_path), "--output", str(tmp_path / "curves.png")]
    assert plot_training.main(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and reason in message and message.count("\n") == 1


def test_line_plots_are_inline_svg_with_the_names_as_text():
    curve = np.linspace(0, 1, 10_000)
    lines = {"a & b": (curve, curve**2), "_$x$ 猫": ([0.5], [0.5])}
    svg = html_report.line_plot(lines, "recall", "precision", (0.0, 1.0))
    assert svg.startswith("<svg")
    for name in ("a &amp; b", "_$x$ 猫", "recall", "precision"):
        assert f">{name}</text>" in svg
    assert len(svg) < 50_000  # points that look the same are left out


def test_reports_without_matplotlib_say_how_to_get_plots(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = html_report.line_plot({"a": ([1], [2])}, "x", "y")
    assert text == "<p>plots need Matplotlib: pip install matplotlib</p>"


def test_a_page_reads_its_data_and_no_name_becomes_code(tmp_path, open_page):
    names = ["</script><script>document.title = 'taken'</script>", "<b>&amp;", "\u2028 ü 猫"]
    (tmp_path / "show.js").write_text(
        "const names = JSON.parse(document.getElementById('names').textContent);\n"
        "document.querySelector('p').textContent = names.join('|');\n"
    )
    show = html_report.script(tmp_path / "show.js")
    content = html_report.page(
        "A page", [("", f"<p></p>{html_report.data_block('names', names)}{show}")]
    )
    (tmp_path / "page.html").write_text(content, "utf-8")
    browser = open_page(tmp_path / "page.html")
    assert browser.find_element("tag name", "p").get_property("textContent") == "|".join(names)
    assert browser.title == "A page"
