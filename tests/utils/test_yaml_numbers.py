from __future__ import annotations

import pytest
import yaml

from videomem.utils.yaml_numbers import load_yaml


@pytest.mark.parametrize("text", ["1_0", "010", "0x10", "0b1", "1:30", "2024_01_05", "1_0.5", "-1_0", "1:30.5"])
def test_numbers_in_other_forms_than_decimal_digits_are_text(text: str) -> None:
    assert load_yaml(f"value: {text}") == {"value": text}


@pytest.mark.parametrize("text", ["0", "10", "-3", "+7", "0.5", "-2.5e+3", "null", "true", "[1, 2.5]", "a_1", ".inf"])
def test_other_values_are_those_of_plain_yaml(text: str) -> None:
    assert load_yaml(f"value: {text}") == yaml.safe_load(f"value: {text}")
