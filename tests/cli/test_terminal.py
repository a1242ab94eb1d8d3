"""What commands write to the terminal: nothing in it acts on the terminal, and any terminal can show it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from rich.table import Table

from videomem.cli import terminal
from videomem.cli.main import main
from videomem.cli.terminal import console, say

CLEAR, MARKUP = "\x1b[2J\x1b]0;title\x07", "[red]clip[/red] [/] :smile: [link=x]"


def test_lines_have_no_control_characters_and_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{CLEAR}\nb", MARKUP)
    say(CLEAR, to_stderr=True)
    table = Table("label", title=f"of {CLEAR}")
    table.add_row(MARKUP)
    table.add_row(f"x{CLEAR}")
    console().print(table)
    console(to_stderr=True).print(f"{MARKUP} {CLEAR}")
    captured = capsys.readouterr()
    assert not {c for c in captured.out + captured.err if not c.isprintable()} - {"\n"}
    assert captured.out.startswith("a\\x1b[2J\\x1b]0;title\\x07\\nb\n") and captured.out.count(MARKUP) == 2
    assert MARKUP in captured.err


@pytest.mark.parametrize("command", ["inspect", "predict", "stream", "catalog check", "test", "extract"])
def test_errors_on_a_file_do_not_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    odd = str(tmp_path / f"a{CLEAR}\n{MARKUP}")
    arguments = {
        "inspect": [odd, "--model", odd],
        "predict": [odd, "--model", odd],
        "stream": [odd, "--model", odd],
        "catalog check": [odd],
        "test": ["--ckpt-path", odd],
        "extract": ["--config", odd],
    }[command]
    assert main([*command.split(), *arguments]) == 2
    error = capsys.readouterr().err
    assert "\\x1b[2J" in error and not {c for c in error if not c.isprintable()} - {"\n"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_written_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    terminal.encode_anything()
    table = Table("value")
    table.add_row("\N{MINUS SIGN}1.0")
    console().print(table)
    say("\N{MINUS SIGN}1.0", "“ä” 视", "\udcff")
    sys.stdout.flush()
    lines = sys.stdout.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    expected = {
        "ascii": ["-1.0", '"\\xe4" \\u89c6'],
        "latin-1": ["-1.0", '"ä" \\u89c6'],
        "utf-8": ["\N{MINUS SIGN}1.0", "“ä” 视"],
    }[encoding]
    assert lines[-3:] == [*expected, "\\udcff"]
    assert any(expected[0] in line for line in lines[:-3])


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_command_with_typographic_characters_ends_well_on_an_ascii_terminal(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    rows = [f"{number}.mp4,{label},train,{number},,\n" for number, label in enumerate(("näh", "\N{MINUS SIGN}"))]
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(b"some bytes")
    (tmp_path / "out.csv").write_text("path,label,split,group,start_s,end_s\n" + "".join(rows), encoding="utf-8")
    command = [sys.executable, "-m", "videomem", "catalog", "check", "out.csv", "--no-decode"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0", **settings}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"n\\xe4h" in ended.stdout and ended.stdout.isascii()
