from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import logged_by, varied_heads
from helpers.order_results import order_result
from helpers.signed_folder import sign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import videomem
import videomem.inference.model_card
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.order_test.result import to_json
from videomem.inference import exported_folder
from videomem.inference.exported_folder import FILES
from videomem.inference.model import model_of
from videomem.training.checkpoint import read_checkpoint


@pytest.fixture
def exported(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


@varied_heads
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
        raise AssertionError("must not be called")

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
    sign(folder)


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def spoil(tensors: dict[str, Tensor], value: float) -> None:
    tensors["head.classify.bias"][0] = value


def config(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda content: change(content) and None)


def preprocessor(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "preprocessor_config.json", lambda content: change(content) and None)


# Changes that make a folder invalid, and a part of the error message.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks preprocessor_config"),
    "a file is a folder": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        "lacks config.json",
    ),
    "a file is a pipe, on which a read would block": (
        lambda folder: ((folder / "config.json").unlink(), os.mkfifo(folder / "config.json")),
        "lacks config.json",
    ),
    "JSON is broken": (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
    "JSON is not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "not readable as JSON"),
    "JSON is nested too deeply": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "not readable as JSON",
    ),
    "JSON is too large": (lambda folder: os.truncate(folder / "config.json", 10**9), "above the limit"),
    "JSON is a list": (lambda folder: (folder / "config.json").write_text("[1]"), "is not a JSON object"),
    "JSON is of another library": (
        config(lambda c: c.update(model_type="videomae")),
        "not a model of videomem (model_type 'videomae')",
    ),
    "a later format": (config(lambda c: c.update(format=99)), "format 99"),
    "weights are truncated": (
        lambda folder: os.truncate(folder / "model.safetensors", 5000),
        "damaged, or not a safetensors",
    ),
    "weights are oversized": (
        lambda folder: (folder / "model.safetensors").open("ab").write(b"x" * 100),
        "damaged, or not a safetensors",
    ),
    "weights declare a huge header": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        "damaged, or not a safetensors",
    ),
    "weights are a pickle": (
        lambda folder: torch.save({}, folder / "model.safetensors"),
        "damaged, or not a safetensors",
    ),
    "weights are not finite": (
        lambda folder: change_weights(folder, lambda t: spoil(t, float("nan"))),
        "head.classify.bias has values that are not finite",
    ),
    "weights are infinite": (lambda folder: change_weights(folder, lambda t: spoil(t, float("inf"))), "not finite"),
    "an extra tensor": (
        lambda folder: change_weights(folder, lambda t: t.update({"head.../../x": torch.zeros(1)})),
        "tensor 'head.../../x' is F32 (1,) in model.safetensors, but absent according to config.json",
    ),
    "a missing tensor": (lambda folder: change_weights(folder, lambda t: t.pop("head.norm.mean")), "is absent in"),
    "a tensor of another type": (
        lambda folder: change_weights(folder, lambda t: t.update({"head.norm.mean": t["head.norm.mean"].double()})),
        "is F64",
    ),
    "an extra label": (config(lambda c: c["id2label"].update({"10": "more"})), "according to config.json"),
    "a duplicate label": (config(lambda c: c["id2label"].update({"0": c["id2label"]["1"]})), "of which 9 differ"),
    "labels that skip a number": (config(lambda c: c["id2label"].pop("3")), "KeyError"),
    "a label that writes to the terminal": (config(lambda c: c["id2label"].update({"0": "\x1b[2J"})), "be printed"),
    "another memory": (config(lambda c: c["memory"].update(name="LSTM")), "according to config.json"),
    "an unknown memory": (config(lambda c: c["memory"].update(name="os.system")), "do not fit together"),
    "an unknown readout": (config(lambda c: c["readout"].update(name="os.system")), "do not fit together"),
    "another readout": (config(lambda c: c["readout"].update(name="AttentionReadout")), "according to config.json"),
    "a readout that is text": (config(lambda c: c.update(readout="MeanReadout")), "do not fit together"),
    "a readout with an argument that it lacks": (
        config(lambda c: c["readout"]["arguments"].update(hidden_dim=8)),
        "invalid settings of MeanReadout",
    ),
    "a readout with a size beyond all memory": (
        config(lambda c: c.update(readout={"name": "SetReadout", "arguments": {"hidden_dim": 10**12}})),
        "do not fit together",
    ),
    "an unknown argument": (
        config(lambda c: c["memory"]["arguments"].update(path="/etc/passwd")),
        "invalid settings of GRU: it has no argument 'path'",
    ),
    "arguments in another file": (config(lambda c: c["memory"].update(arguments="/etc/passwd")), "is not a dictionary"),
    "a class where a number is needed": (
        config(lambda c: c["memory"]["arguments"].update(hidden_dim={"class_path": "os.system"})),
        "GRU.hidden_dim is {'class_path': 'os.system'}, but must be of type int",
    ),
    "a size beyond all memory": (
        config(lambda c: c["memory"]["arguments"].update(hidden_dim=10**12)),
        "do not fit together",
    ),
    "a huge number of layers": (config(lambda c: c.update(num_layers=10**9)), "layers, but"),
    "a number of layers that is text": (config(lambda c: c.update(num_layers="2")), "must be an integer"),
    "another width": (config(lambda c: c.update(feature_dim=3)), "according to config.json"),
    "an unknown network": (
        config(lambda c: c["backbone"].update(name="../../evil")),
        "backbone.name is '../../evil', but torchvision does not have it",
    ),
    "weights of the network elsewhere": (
        config(lambda c: c["backbone"].update(weights="/etc/passwd")),
        "do not fit together",
    ),
    "a network that is left out": (config(lambda c: c["backbone"].update(weights="exported")), "is absent in"),
    "an unknown sampling": (preprocessor(lambda c: c["sampling"].update(name="x")), "do not fit together"),
    "a huge number of frames": (preprocessor(lambda c: c["sampling"].update(num_frames=10**12)), "sampling.num_frames"),
    "another preprocessing": (preprocessor(lambda c: c.update(crop_px=10)), "another preprocessing: crop_px differs"),
    "a type that is a function": (
        preprocessor(lambda c: c.update(feature_dtype="load")),
        "FeatureSettings.dtype is 'load'",
    ),
    "an unknown decoder": (preprocessor(lambda c: c.update(decoder="evil")), "FeatureSettings.decoder is 'evil'"),
    "a section that is missing": (config(lambda c: c.pop("imported")), "KeyError"),
    "evidence that is a list": (config(lambda c: c.update(evidence=[1])), "is not an object"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_inconsistent_folder_is_a_one_line_error(small: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(small, tmp_path / "folder")
    harm, words = DAMAGE[damage]
    harm(folder)
    with pytest.raises(VideomemError) as caught:
        videomem.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert words in str(caught.value)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_an_arbitrary_config_is_refused_or_loads(small: Path, data: st.DataObject) -> None:
    """Any change of one value in a config gives a `VideomemError` or a model."""
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json"]))
    before = (small / name).read_text()
    content = json.loads(before)
    place = data.draw(st.sampled_from(list(places_in(content))))
    anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]),
                         st.just({}), st.just({"class_path": "os.system"}), st.just(10**30))  # fmt: skip
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = data.draw(anything)
    config_before = (small / "config.json").read_text()
    (small / name).write_text(json.dumps(content))
    sign(small)
    try:
        videomem.load(small)
    except VideomemError as error:
        assert "\n" not in str(error)
    finally:
        (small / "config.json").write_text(config_before)
        (small / name).write_text(before)


def rename_class(content: dict[str, Any]) -> None:
    content["id2label"]["0"] = "another"
    content["label2id"] = {name: int(number) for number, name in content["id2label"].items()}


def test_a_changed_value_of_the_json_files_is_noticed(small: Path, tmp_path: Path) -> None:
    """Each of these folders would load as another model."""
    for number, (name, change) in enumerate((
        ("config.json", lambda c: c["training"].update(epochs=1000)),
        ("config.json", rename_class),
        ("preprocessor_config.json", lambda c: c["sampling"].update(num_frames=9)),
        ("preprocessor_config.json", lambda c: c.update(feature_dtype="float32")),
    )):  # fmt: skip
        folder = shutil.copytree(small, tmp_path / str(number))
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(VideomemError, match=r"config.json or preprocessor_config.json was changed or damaged; exp"):
            videomem.load(folder)


def places_in(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value of a JSON document."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places_in(value, (*above, key))


@pytest.fixture(scope="module")
def small(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without the backbone, which is fast to load."""
    folder = tmp_path_factory.mktemp("small") / "folder"
    model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(folder, with_backbone=False)
    return folder


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.ckpt", "evil.pkl"):
        for command in (["export", "--out", str(tmp_path / "out")], ["predict", "x.mp4", "--model"]):
            arguments = [command[0], str(tmp_path / name), *command[1:]] if command[0] == "export" else [
                *command, str(tmp_path / name)
            ]  # fmt: skip
            assert main(arguments) == 2
            assert "not a checkpoint of plain data" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


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


def test_a_folder_with_other_content_is_not_changed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(VideomemError, match="is not empty"):
        model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path)


def test_a_flipped_bit_of_the_weights_is_noticed(exported: Path) -> None:
    path = exported / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(VideomemError, match=r"the checksum of the tensors in model\.safetensors is not that in config"):
        videomem.load(exported)


@pytest.mark.parametrize("function", ["save", "write_json", "write_model_card"])
def test_an_export_that_is_interrupted_leaves_nothing_and_can_be_repeated(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    arguments = ["export", str(checkpoints["gru"]), "--out", str(out), "--without-backbone", "--no-evaluation"]
    with monkeypatch.context() as patch:
        patch.setattr(exported_folder, function, interrupted)
        assert main([*arguments, "--wandb", "disabled"]) == 130
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--wandb", "disabled"]) == 0
    assert {path.name for path in out.iterdir()} == {*FILES, "README.md"}


def test_a_saved_model_is_saved_again_with_the_same_files(exported: Path, tmp_path: Path) -> None:
    videomem.Classifier.from_pretrained(exported).save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_the_model_card_has_front_matter_and_what_was_measured(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoints["none"]), "--out", str(tmp_path / "out"), "--permutations", "3"]) == 0
    printed, model_card = capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()
    _, front, text = model_card.split("---\n", 2)
    matter = yaml.safe_load(front)
    found = videomem.load(tmp_path / "out").evidence["evaluation"]
    assert matter["library_name"] == "videomem" and matter["pipeline_tag"] == "video-classification"
    metrics = matter["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == round(found["accuracy"], 4) and f"{found['accuracy']:.3f} ordered" in printed
    assert (
        found["accuracy"] == pytest.approx(found["shuffled"])
        and found["max_logit_change"] == 0
        and found["num_clips"] == 20
    )
    assert "and logits by at most 0" in text and "random weights" in text and "`videos`" in text
    assert str(tmp_path) not in model_card and str(checkpoints["none"].parent) not in model_card


NASTY = [
    "*bold* _it_ **",
    "<img src=x onerror=alert(1)>",
    "[link](http://a.b)",
    "a | b",
    "`code`",
    "# x",
    "&lt;",
    "\\",
    "~~d~~",
]


def test_names_in_a_model_card_are_no_markdown(exported: Path) -> None:
    markdown = pytest.importorskip("markdown_it")
    preprocessor, config = (json.loads((exported / f"{name}config.json").read_text()) for name in ("preprocessor_", ""))
    config |= {"id2label": dict(enumerate(NASTY)), "label": "`a` <b>", "imported": {"name": "[x](y) | <i>"}}
    config["training"] |= {"data": "`data` | <b>", "class_counts": [1] * len(NASTY)}
    _, _, text = videomem.inference.model_card.model_card(config, preprocessor).split("---\n", 2)
    tokens = markdown.MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    inline = [child for token in tokens if token.type == "inline" for child in token.children]
    assert not {token.type for token in (*tokens, *inline)} & {"html_inline", "html_block", "link_open", "em_open",
                                                               "strong_open", "s_open", "image"}  # fmt: skip
    shown = "".join(child.content for child in inline)
    assert shown.count(", ".join(NASTY)) == 2 and "[x](y) | <i>" in shown
    assert all(len(row) == 2 for row in rows_of(tokens))


def rows_of(tokens: list[Any]) -> list[list[Any]]:
    """The cells of each row of the tables."""
    rows: list[list[Any]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            rows[-1].append(token)
    return rows


def test_a_model_card_without_data_says_so_and_names_no_path(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--store", str(tmp_path / "nowhere")]
    assert main(["export", str(checkpoints["gru"]), "--out", str(tmp_path / "out"), *elsewhere]) == 0
    assert "not evaluated" in capsys.readouterr().err
    model_card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Not measured: its test clips were not available at the time of export" in model_card
        and str(tmp_path) not in model_card
    )


def test_the_verdict_of_an_order_test_is_in_the_model_card(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = videomem.load(checkpoints["gru"]).class_names
    whole = order_result()
    result = replace(whole.heads[-1], label="gru")
    (tmp_path / "order.json").write_text(to_json(replace(whole, heads=(result,))))
    command = ["export", str(checkpoints["gru"]), "--out", str(tmp_path / "out"), "--order"]
    assert main([*command, str(tmp_path / "order.json")]) == 2
    assert "a test on other classes" in capsys.readouterr().err
    data = replace(whole.data, class_names=tuple(names))
    (tmp_path / "order.json").write_text(to_json(replace(whole, heads=(result,), data=data)))
    assert main([*command, str(tmp_path / "order.json")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"order is worth {100 * result.value_of_order.value:.1f} points" in text
    assert "verdict on this learner *" in text and f"Verdict on the data: {whole.verdict.sentence[:20]}" in text
    assert main([*command, str(tmp_path / "gone.json")]) == 2


def test_an_export_can_be_an_artifact_that_was_made_of_its_checkpoint(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    trained = checkpoints["gru"].parent.parent
    run_dir = shutil.copytree(trained, tmp_path / "a run", ignore=shutil.ignore_patterns("wandb"))
    command = ["export", str(run_dir / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "out")]
    assert main([*command, "--without-backbone", "--wandb", "offline"]) == 0
    records = logged_by(run_dir)
    artifacts = {record["artifact"]["name"]: record["artifact"] for record in records if "artifact" in record}
    made = artifacts.pop("export-a-run")
    ((used, checkpoint),) = artifacts.items()
    assert used.startswith("model-") and checkpoint["use_after_commit"] and not made.get("use_after_commit")
    names = {entry["path"] for entry in made["manifest"]["contents"]}
    assert names == {*FILES, "README.md"}
    accuracy = videomem.load(tmp_path / "out").evidence["evaluation"]["accuracy"]
    assert json.loads(made["metadata"])["accuracy"] == accuracy
    assert str(tmp_path) not in json.dumps(made["metadata"])
