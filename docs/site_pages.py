"""Sphinx extension: the navigation from docs/README.md, the help of every command, and the front page as index.html."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from unittest.mock import patch

from sphinx.application import Sphinx

from videomem.cli.main import GROUPS, main

INDEX = "docs/README"


def navigation(index: str) -> str:
    """A toctree for each section of the index, which starts with a bold title, with the pages that it links to."""
    trees = [_toctree("", [INDEX])]
    for section in re.split(r"^(?=\*\*)", index, flags=re.MULTILINE)[1:]:
        title, links = section.split("\n", 1)
        pages = re.findall(r"\[([^]]+)\]\(([^):#]+)\.(?:md|ipynb)\)", links)
        entries = [f"{_sentence(name)} <{os.path.normpath(f'docs/{page}')}>" for name, page in pages]
        trees.append(_toctree(title.strip("*"), entries))
    return "\n".join(trees)


def _sentence(name: str) -> str:
    return name[0].upper() + name[1:].replace("`", "")


def _toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}" * bool(caption), "", *pages, "```", ""])


def command_help(command: str) -> str:
    """What `videomem COMMAND --help` prints on a terminal of 80 columns."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS="80"), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return printed.getvalue().rstrip()


def commands_reference() -> str:
    parts = []
    for title, commands in GROUPS.items():
        parts.append(f"\n## {title.capitalize()}\n")
        parts += [f"### {name}\n\n```text\n{command_help(name)}\n```\n" for name in commands]
    return "\n".join(parts)


def add_generated_parts(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] += navigation((app.srcdir / f"{INDEX}.md").read_text(encoding="utf-8"))
    if page == "docs/commands":
        source[0] += commands_reference()


def quote_letters(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A description that is one letter, such as `D.`, would become a list."""
    lines[:] = [re.sub(r"^(\s+\w+: )([A-Z])\.$", r"\1`\2`.", line) for line in lines]


def add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        shutil.copy(app.outdir / f"{app.config.root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_generated_parts)
    app.connect("autodoc-process-docstring", quote_letters, priority=400)  # before napoleon
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True}
