"""Progress where there is no terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from IPython.display import HTML
from rich.console import Console
from rich.progress import TextColumn

from videomem.utils import progress
from videomem.utils.progress import LineProgress, tracked


def test_without_a_terminal_progress_is_a_line_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    written = StringIO()
    with LineProgress(TextColumn(""), console=Console(file=written, width=200)) as shown:
        task = shown.add_task("extracting clips", total=90)
        for _ in range(90):
            now[0] += 1.0
            shown.advance(task)
    lines = written.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines if line] == [
        f"videomem: extracting clips: {done} of 90" for done in (20, 40, 60, 80)
    ]


def test_items_are_counted_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    written = StringIO()
    for _ in tracked(range(50), "decoding clips", 50, Console(file=written, width=200)):
        now[0] += 1.0
    lines = [line.split(",")[0] for line in written.getvalue().splitlines() if line]
    assert lines == ["videomem: decoding clips: 20 of 50", "videomem: decoding clips: 40 of 50"]


def test_short_work_and_work_without_a_console_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    written = StringIO()
    for console in (Console(file=written), None):
        assert list(tracked(range(5), "decoding clips", 5, console)) == [0, 1, 2, 3, 4]
    assert not written.getvalue().strip()
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_a_bar_that_is_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, html: HTML) -> None:
            shown[-1] = html.data

    def display(html: HTML, display_id: bool) -> Handle:
        shown.append(html.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "NOTEBOOK_INTERVAL_S", 0.0)
    assert list(tracked(range(5), "decoding <clips>", 5, Console(force_jupyter=True))) == [0, 1, 2, 3, 4]
    (bar,) = shown
    assert '<progress value="5" max="5"></progress> decoding &lt;clips&gt;: 5 of 5' in bar
