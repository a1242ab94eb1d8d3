"""JSON with an identity and a checksum: no damage and no exchange goes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videomem.errors import VideomemError
from videomem.utils.checked_json import dump_checked, parse_checked

IDENTITY = {"kind": "plan", "number": 3}
CONTENT = {"names": ["a", "é"], "value": 0.5, "none": None}


def read(text: str | bytes) -> object:
    return parse_checked(text, Path("plan.json"), IDENTITY, "make it again")


def test_content_is_read_as_written() -> None:
    assert read(dump_checked(IDENTITY, CONTENT)) == CONTENT


def test_every_changed_bit_is_noticed_or_changes_nothing() -> None:
    whole = dump_checked(IDENTITY, CONTENT).encode()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            try:
                found = read(bytes(changed))
            except VideomemError as error:
                assert str(error).startswith("plan.json: damaged (") and str(error).endswith("; make it again")
                assert "\n" not in str(error)
            else:  # White space between tokens.
                assert found == CONTENT


def test_the_file_of_another_is_named() -> None:
    other = dump_checked({"kind": "plan", "number": 4}, CONTENT)
    with pytest.raises(VideomemError, match=r"^plan.json: the file of another number \(4, but must be 3\); make it"):
        read(other)


def test_an_identity_with_more_entries_is_that_of_another_file() -> None:
    with pytest.raises(
        VideomemError, match=r"^plan.json: the file of another more \(None, but must be absent\); make it"
    ):
        read(dump_checked({**IDENTITY, "more": None}, CONTENT))


@pytest.mark.parametrize(
    "content", [[], {}, {"checksum": 0}, None, {"checksum": 0, "identity": 1, "content": 2}, {"content": CONTENT}]
)
def test_other_json_is_one_line(content: object) -> None:
    with pytest.raises(VideomemError, match=r"^plan.json: damaged \(.*\); make it again$"):
        read(json.dumps(content))


@pytest.mark.parametrize("text", [b"", b"\xff", b"{", b"[" * 100_000])
def test_what_is_not_json_is_one_line(text: bytes) -> None:
    with pytest.raises(VideomemError, match=r"^plan.json: damaged \(.*\); make it again$"):
        read(text)
