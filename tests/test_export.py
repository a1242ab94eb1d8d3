from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HEADS

import videomem
from videomem.checkpoint import read_checkpoint
from videomem.cli import main
from videomem.errors import VideomemError
from videomem.model.classifier import model_of
from videomem.model.folder import FILES


@pytest.fixture
def exported(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


@pytest.mark.parametrize("head", HEADS)
def test_what_is_loaded_has_the_bits_of_the_checkpoint(checkpoints: dict[str, Path], tmp_path: Path, head: str) -> None:
    assert main(["export", str(checkpoints[head]), "--out", str(tmp_path / "out")]) == 0
    checkpoint, model = read_checkpoint(checkpoints[head]), videomem.load(tmp_path / "out")
    data = checkpoint.data_module()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    with torch.inference_mode():
        expected = checkpoint.classifier()(batch.x, batch.lengths)
    assert torch.equal(model.classify(batch.x, batch.lengths), expected)
    assert model.class_names == data.class_names and not model.training
    frames = torch.stack([model.read(data.clips[row].path) for row in data.rows("test")[:3]])
    assert torch.allclose(model(frames), expected[:3], atol=1e-4)
    assert torch.equal(model(frames).argmax(1), expected[:3].argmax(1))


def test_loading_needs_no_network_no_pickle_and_no_other_files(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("asked for what it must not need")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    moved = exported.rename(tmp_path / "moved elsewhere")
    assert videomem.load(moved).backbone is not None
    assert sorted(path.name for path in moved.iterdir()) == sorted([*FILES, "README.md"])


def test_the_backbone_can_be_left_out(checkpoints: dict[str, Path], tmp_path: Path, exported: Path) -> None:
    small = tmp_path / "small"
    assert main(["export", str(checkpoints["gru"]), "--out", str(small), "--without-backbone"]) == 0
    size = (small / "model.safetensors").stat().st_size
    assert size < (exported / "model.safetensors").stat().st_size / 2
    model = videomem.load(small)
    x = torch.randn(2, 8, model.head.feature_dim)
    lengths = torch.tensor([8, 8])
    assert torch.equal(model.classify(x, lengths), videomem.load(exported).classify(x, lengths))
    with pytest.raises(VideomemError, match="without its backbone"):
        model(torch.zeros(1, 8, 3, 224, 224, dtype=torch.uint8))


def test_lengths_leave_padding_out(exported: Path) -> None:
    model = videomem.load(exported)
    frames = torch.randint(0, 256, (2, 4, 3, 224, 224), dtype=torch.uint8)
    short = model(frames[:1, :2])
    assert torch.allclose(model(frames, torch.tensor([2, 4]))[:1], short, atol=1e-5)


def edit(folder: Path, name: str, change: Any) -> None:
    content = json.loads((folder / name).read_text())
    changed = change(content)
    (folder / name).write_text(json.dumps(content if changed is None else changed))


DAMAGE: dict[str, Any] = {
    "a file is missing": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "JSON is broken": lambda folder: (folder / "config.json").write_text("{"),
    "weights are truncated": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:5000]
    ),
    "weights are no weights": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 200),
    "a label too many": lambda folder: edit(folder, "config.json", lambda c: c["id2label"].update({"10": "more"})),
    "another memory": lambda folder: edit(folder, "config.json", lambda c: c["memory"].update(name="LSTM")),
    "an unknown memory": lambda folder: edit(folder, "config.json", lambda c: c["memory"].update(name="os.system")),
    "another width": lambda folder: edit(folder, "config.json", lambda c: c.update(feature_dim=3)),
    "a later format": lambda folder: edit(folder, "config.json", lambda c: c.update(format=99)),
    "an unknown network": lambda folder: edit(folder, "config.json", lambda c: c["backbone"].update(name="evil")),
    "not an object": lambda folder: edit(folder, "config.json", lambda c: [1]),
    "an unknown sampling": lambda folder: edit(
        folder, "preprocessor_config.json", lambda c: c["sampling"].update(name="x")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_does_not_fit_together_is_one_clear_error(exported: Path, damage: str) -> None:
    DAMAGE[damage](exported)
    with pytest.raises(VideomemError) as caught:
        videomem.load(exported)
    assert "\n" not in str(caught.value)


def test_nothing_that_a_folder_names_is_imported(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spy_of_export.py").write_text("class Spy: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("spy_of_export.Spy", "videomem.heads.GRU"):
        edit(exported, "config.json", lambda c, name=name: c["memory"].update(name=name, class_path=name))
        with pytest.raises(VideomemError, match="do not fit together"):
            videomem.load(exported)
    assert "spy_of_export" not in sys.modules


def test_a_folder_that_holds_something_is_left_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(VideomemError, match="is not empty"):
        model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path)
