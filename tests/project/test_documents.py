"""The documents: generated parts are up to date, links lead somewhere, named scripts exist."""

import re
from pathlib import Path

import pytest

from docs import refresh

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


def test_generated_parts_are_up_to_date(capsys):
    assert refresh.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_exist(page):
    """`python X.py` and `./X.sh` in code blocks and code spans."""
    named = re.findall(
        r"(?:python |\./)([\w/]+\.(?:py|sh|sbatch))", page.read_text(encoding="utf-8")
    )
    assert sorted({name for name in named if not (ROOT / name).exists()}) == []
