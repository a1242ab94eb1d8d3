"""The documentation site: it builds without warnings, and every page is near the front page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from conftest import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

import videomem
from videomem.cli.main import COMMANDS
from videomem.heads import MEMORIES, READOUTS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


class Page(HTMLParser):
    """Links, anchors, title and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.links, self.anchors, self.images = path, set[str](), set[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and not re.match(r"\w+:", named.get("href", "https:")):
            self.links.add(unquote(named["href"]))
        if tag == "img":
            self.images.add(unquote(named["src"]))

    def linked(self) -> set[Path]:
        """The files that the page links to."""
        return {(self.path.parent / urldefrag(link).url).resolve() for link in self.links if urldefrag(link).url}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, built as `make docs` does, but without running the notebooks."""
    out, warnings = tmp_path_factory.mktemp("site").resolve(), StringIO()
    with patch_docutils(), docutils_namespace():
        Sphinx(
            ROOT, ROOT / "docs", out / "html", out / "doctrees", "html",
            confoverrides={"nb_execution_mode": "off"}, status=None, warning=warnings, verbosity=0,
        ).build()  # fmt: skip
    assert not warnings.getvalue()
    return {path: Page(path) for path in (out / "html").rglob("*.html") if "_static" not in path.parts}


def front(site: dict[Path, Page]) -> Page:
    return next(page for path, page in site.items() if path.name == "index.html")


def test_every_page_is_two_clicks_from_the_front_page(site: dict[Path, Page]) -> None:
    first = front(site).linked()
    second = {path for page in first & site.keys() for path in site[page].linked()}
    pages = {path for path in site if path.name not in ("index.html", "search.html")}  # The search is a form.
    assert len(pages) > 30 and pages <= first | second


def test_links_and_images_of_the_site_lead_to_what_exists(site: dict[Path, Page]) -> None:
    for page in site.values():
        for link in page.links - {"#"}:
            url, anchor = urldefrag(link)
            target = (page.path.parent / url).resolve() if url else page.path
            assert target.is_file(), f"{page.path.name}: {link}"
            assert not anchor or target not in site or anchor in site[target].anchors, f"{page.path.name}: {link}"
        for image in page.images:
            assert image.startswith("data:") or (page.path.parent / image).is_file(), f"{page.path.name}: {image}"


def test_the_first_screen_says_what_it_is_how_to_install_it_and_what_to_type(site: dict[Path, Page]) -> None:
    text = front(site).path.read_text()
    places = [text.find(part) for part in ("measures whether frame order matters", "demo.png", "pip install videomem")]
    assert -1 < places[0] < places[1] < places[2] and "<title>videomem" in text


def test_the_reference_has_every_public_name_and_extension_point(site: dict[Path, Page]) -> None:
    anchors = next(page.anchors for path, page in site.items() if path.name == "reference.html")
    assert {f"videomem.{name}" for name in videomem.__all__} - {"videomem.__version__"} <= anchors
    heads = {"Memory", "ParallelMemory", "Readout", *MEMORIES, *READOUTS}
    assert {f"videomem.heads.{name}" for name in heads} <= anchors
    assert {"videomem.experiments.permutations.Perturbation", "videomem.video.datasets.Layout"} <= anchors


def test_the_command_reference_is_the_help_of_every_command(site: dict[Path, Page]) -> None:
    text = next(path for path in site if path.name == "commands.html").read_text()
    text = re.sub(r"<[^>]*>", "", text)
    assert all(f"usage: videomem {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("link", ["(order_test.md#no-such-section)", "(no_such_page.md)"])
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    for name in ("README.md", "order_test.md"):
        (tmp_path / name).write_text("# Title\n\nText.\n")
    (tmp_path / "README.md").write_text(f"# Title\n\n[text]{link}\n\n```{{toctree}}\norder_test\n```\n")
    warnings, out = StringIO(), tmp_path / "out"
    with patch_docutils(), docutils_namespace():
        Sphinx(
            tmp_path, ROOT / "docs", out, out / "doctrees", "dummy",
            confoverrides={"extensions": ["myst_nb"], "include_patterns": ["*.md"]}, status=None, warning=warnings,
        ).build()  # fmt: skip
    assert "myst.xref_missing" in warnings.getvalue()
