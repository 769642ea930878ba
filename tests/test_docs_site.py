"""The site of the docs: nothing comes from elsewhere, and no page is wider than a narrow window."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from browser import chromium, visit

REPOSITORY = Path(__file__).parents[1]
ASSET = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True)
    build(config)
    yield folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    assert not [page for page in pages if ASSET.search(page.read_text(encoding="utf-8"))]
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:", style.read_text(encoding="utf-8")), style


def test_links_to_files_of_the_repository_are_pages(site: Path) -> None:
    recipe = (site / "recipes" / "own-judge.html").read_text(encoding="utf-8")
    assert 'href="../repository/configs/own-judge.yaml.html"' in recipe
    shown = (site / "repository" / "configs" / "own-judge.yaml.html").read_text(encoding="utf-8")
    assert "run_dir" in shown and "runs/own-judge" in shown
    readme = (site / "repository" / "index.html").read_text(encoding="utf-8")
    assert 'href="../index.html"' in readme, "a page beside docs/ links into the site"


def test_no_page_is_wider_than_a_narrow_window(site: Path) -> None:
    pages = [path for path in sorted(site.glob("*.html")) if path.name != "404.html"]
    with chromium() as context:
        for page in pages:
            with visit(context, page, width=420, scheme="dark") as seen:
                wide = seen.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, page.name
                assert not seen.complaints, page.name
                assert all(request.startswith("file:") for request in seen.requests), page.name
                background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert sum(map(int, re.findall(r"\d+", background)[:3])) < 200, "dark"
