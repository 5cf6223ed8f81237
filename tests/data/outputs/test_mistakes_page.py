"""data/outputs/mistakes_page.py: which images are chosen, and the page in a browser."""

import itertools

import numpy as np
import pytest

from data.outputs.evaluated_images import EvaluatedImage, ScoredLabel
from data.outputs.evaluation_report import Evaluation
from data.outputs.mistakes_page import MistakeChooser, MistakesPage

NAMES = ["cat", "</script><script>document.title = 'taken'</script>", "<b>'\"&amp;", "bird"]
CLASSES = len(NAMES)
THRESHOLD = 0.5
PRESENT, ABSENT = np.array([0.9, 0.8, 0.7, np.nan]), np.array([0.1, 0.2, 0.3, 0.05])


def image(number, scores, positive, name=None):
    """An image with scores of all classes, of which `positive` are labels."""
    labels = [ScoredLabel(c, s, c in positive, s >= THRESHOLD) for c, s in enumerate(scores)]
    ordered = tuple(sorted(labels, key=lambda label: -label.score))
    return EvaluatedImage(number, name or f"{number:03d}.jpg", float(number % 7), ordered)


def some_images(count=60):
    rng = np.random.default_rng(3)
    scores = rng.random((count, CLASSES)).round(3)
    labels = rng.random((count, CLASSES)) < 0.3
    found = [image(n, scores[n].tolist(), np.flatnonzero(labels[n])) for n in range(count)]
    names = {7: '"><img src=x onerror=alert(1)>.jpg', 8: "</script><script>alert(1)</script>"}
    return [i._replace(name=names.get(i.number, i.name)) for i in found]


class Thumbnails:
    """In place of `EvaluationImages`."""

    def crops_of(self, numbers, prepare):
        return ((n, np.full((1, 16, 16, 3), n / 60, "f4")) for n in sorted(numbers))


def evaluation():
    curve = np.linspace(0.01, 1, 100), np.linspace(1, 0.5, 100)
    return Evaluation(
        checkpoint="run/model.ckpt-5",
        step=5,
        metrics={},
        classes={"threshold": np.full(CLASSES, THRESHOLD, "f4")},
        quality=np.array([0.9, 0.8, 0.7, np.nan]),
        positives=np.array([18, 17, 16, 15]),
        hardest={},
        unreadable=0,
        confusions=np.array([[0, 2, 5], [0, 1, 3], [2, 0, 1]]),
        mean_if_present=PRESENT,
        mean_if_absent=ABSENT,
        reliability=None,
        curve=lambda c: ([], []) if c == 3 else curve,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "images.html"
    whole = MistakesPage(evaluation(), NAMES, Thumbnails(), None, 1000)
    whole.write(path, lambda: iter(some_images()))
    return path


def expected(test):
    """Names of the images with a mistake that `test(label)` holds for."""
    mistaken = (
        (i.name, label) for i in some_images() for label in i.labels if label.missed or label.wrong
    )
    return {name for name, label in mistaken if test(label)}


def is_suspect(label):
    if label.wrong:
        return label.score >= PRESENT[label.index]
    return label.missed and label.score <= ABSENT[label.index]


def shown(browser):
    names = "return [...document.querySelectorAll('#cards .name')].map((e) => e.innerText)"
    return browser.execute_script(names)


def wait_until_shown(browser, names):
    """The page draws after another address is there, a while after the click that sets it."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: set(shown(browser)) == names)


def visit(browser, address):
    """Loads the page anew; another hash alone would not."""
    browser.get("about:blank")
    browser.get(address)


def choose(browser, menu, value):
    browser.find_element("css selector", f"#{menu} option[value={value}]").click()


def choose_class(browser, index):
    wanted = f"#list a[href*='class={index}']"
    browser.find_element("css selector", wanted).click()


TESTS = {
    "any": lambda label: True,
    "missed": lambda label: label.missed,
    "wrong": lambda label: label.wrong,
    "suspect": is_suspect,
}


@pytest.mark.slow
def test_filters_show_exactly_the_right_images(page, open_page):
    browser = open_page(page)
    whole = expected(TESTS["any"])
    assert set(shown(browser)) == whole
    for kind, test in TESTS.items():
        choose(browser, "kind", kind)
        assert set(shown(browser)) == expected(test), kind
    for c, (kind, test) in itertools.product(range(CLASSES), TESTS.items()):
        visit(browser, f"{page.as_uri()}#class={c}&kind={kind}")
        wanted = expected(lambda label, c=c, test=test: label.index == c and test(label))
        assert set(shown(browser)) == wanted, (c, kind)
        count = browser.find_element("id", "count").text
        assert count == f"{len(wanted)} of {len(whole)} images"


@pytest.mark.slow
def test_clicks_have_addresses_that_can_be_linked(page, open_page):
    browser = open_page(page)
    choose_class(browser, 1)
    choose(browser, "kind", "missed")
    browser.find_element("id", "find").send_keys("2")
    address = browser.current_url
    found = shown(browser)
    test = lambda label: label.index == 1 and label.missed  # noqa: E731
    assert set(found) == {name for name in expected(test) if "2" in name} != set()
    visit(browser, address)
    assert shown(browser) == found
    browser.find_element("id", "reset").click()
    wait_until_shown(browser, expected(TESTS["any"]))
    browser.back()
    wait_until_shown(browser, set(found))
    assert shown(browser) == found


def test_confused_classes_lead_to_their_images(page, open_page):
    browser = open_page(page)
    choose_class(browser, 0)
    about = browser.find_element("id", "class")
    assert "a label of 18 images, AP 0.9" in about.text
    assert about.find_elements("css selector", "svg polyline")
    pair = about.find_element("css selector", "a")
    assert pair.text == f"{NAMES[2]} (5)"
    pair.click()
    both = {
        i.name
        for i in some_images()
        if any(x.index == 0 and x.missed for x in i.labels)
        and any(x.index == 2 and x.wrong for x in i.labels)
    }
    assert set(shown(browser)) == both != set()


def test_images_are_sorted(page, open_page):
    browser = open_page(page)
    by_name = {i.name: i for i in some_images()}
    worst = {
        name: max(x.score if x.wrong else 1 - x.score for x in i.labels if x.missed or x.wrong)
        for name, i in by_name.items()
        if i.name in expected(TESTS["any"])
    }
    confidence = [worst[name] for name in shown(browser)]
    assert confidence == sorted(confidence, reverse=True)
    choose(browser, "sort", "loss")
    losses = [by_name[name].loss for name in shown(browser)]
    assert losses == sorted(losses, reverse=True)
    choose(browser, "sort", "name")
    assert shown(browser) == sorted(worst)


def test_names_do_not_become_code(page, open_page):
    browser = open_page(page)
    names = shown(browser)
    assert '"><img src=x onerror=alert(1)>.jpg' in names
    assert "</script><script>alert(1)</script>" in names
    assert browser.title == "Mistakes of run/model.ckpt-5"
    listed = [cell.text for cell in browser.find_elements("css selector", "#list td a")]
    assert sorted(listed) == sorted(NAMES)
    assert all(
        i.get_attribute("src").startswith("data:") for i in browser.find_elements("tag name", "img")
    )


def test_classes_are_found_and_sorted(page, open_page):
    browser = open_page(page)
    browser.find_elements("css selector", "#list th")[1].click()
    counts = browser.find_elements("css selector", "#list td:nth-child(2)")
    assert [cell.text for cell in counts] == ["18", "17", "16", "15"]
    browser.find_element("id", "find-class").send_keys("BIRD")
    (row,) = browser.find_elements("css selector", "#list tr")[1:]
    assert row.text.startswith("bird 15")  # and no AP


@pytest.mark.parametrize(
    "wrong", ["class=99", "class=length", "class=x&kind=none&sort=none&with=7", "&&=%E0%A4"]
)
def test_wrong_addresses_do_no_harm(page, open_page, wrong):
    browser = open_page(page)
    visit(browser, f"{page.as_uri()}#{wrong}")
    assert set(shown(browser)) == expected(TESTS["any"])


def test_the_worst_of_every_class_are_chosen_first():
    images = [image(n, [0.5 + n / 1000, 0, 0, 0], []) for n in range(100)]
    images += [image(100, [0, 0.4, 0, 0], [1]), image(101, [0, 0, 0.6, 0], [])]
    images += [image(102, [0, 0, 0, 0.9], [3])]  # no mistake
    chooser = MistakeChooser(CLASSES, 4, is_suspect)
    for one in images:
        chooser.add(one)
    assert chooser.chosen() == {99, 100, 101, 98}
    assert (chooser.images, chooser.images_with_mistake) == (103, 102)
    assert chooser.counts.tolist() == [[0, 1, 0, 0], [100, 0, 1, 0], [0, 0, 0, 0]]


def test_a_page_without_mistakes(tmp_path, open_page):
    page = MistakesPage(evaluation(), NAMES, Thumbnails(), None, 1000)
    page.write(tmp_path / "images.html", lambda: iter([image(0, [1, 0, 0, 0], [0])]))
    browser = open_page(tmp_path / "images.html")
    assert browser.find_element("id", "count").text == "0 of 0 images"
    assert "0 of 0 images with a mistake are here; 1 images" in browser.page_source
