"""One term for each thing, the field's own: words that the vocabulary has replaced do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

# Each retired word with the term that is used for it.
RETIRED = {
    "verb": "command",
    "film": "video or clip",
    "valve": "forget gate",
    "fired": "activation",
    "mend": "fix",
    "mended": "fixed",
    "ledger": "failures, failure table",
    "rung": "perturbation",
    "ladder": "perturbation suite",
    "echo": "previous state or recurrent term",
    "amnesic": "memoryless",
    "anew": "again",
    "overheard": "what FFmpeg printed",
    "arrangement": "frame order or permutation",
    "shelter": "isolate",
    "side by side": "in parallel, beside each other",
    "whole file": "atomic write",
    "arm": "training condition",
    "outcome": "training result",
    "mirror image": "time reversal",
    "card": "result; a model card stays",
}
TEXT = {".py", ".md", ".yaml", ".toml", ".jinja", ".css", ".cff", ".ipynb"}
PLACES = ("videomem", "configs", "scripts", "benchmarks", "docs", "data", "examples", "tests")
FILES = [
    path
    for place in (*(ROOT / name for name in PLACES), *ROOT.glob("*.md"), ROOT / "pyproject.toml")
    for path in ([place] if place.is_file() else sorted(place.rglob("*")))
    if path.suffix in TEXT and path != Path(__file__)
]
# What the words may stand in for another reason.
ALLOWED = re.compile(
    r"model[ _-]?cards?|data[ _-]?cards?|graphics cards?|dis?card|echo state|wildcards?", re.IGNORECASE
)


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_does_not_come_back(word: str) -> None:
    """In identifiers too, where an underscore ends a word."""
    pattern = re.compile(rf"(?<![a-z]){re.escape(word).replace(' ', '[ _-]')}(?:s|es)?(?![a-z])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(ALLOWED.sub("", line))
    ]
    assert not found, f"{word!r} is written {RETIRED[word]!r} here:\n" + "\n".join(found)
