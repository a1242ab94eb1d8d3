from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import failed
from helpers.hub_server import TOKEN, Hub, local_hub
from helpers.signed_folder import sign

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features import hub as hub_module
from videomem.features.backbone import BackboneSettings
from videomem.features.hub import HubModel, named_model
from videomem.features.settings import FeatureSettings
from videomem.heads import GRU, Head
from videomem.inference import exported_folder
from videomem.inference.exported_folder import FILES
from videomem.video.sampling import Uniform

D = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported folder."""
    path = tmp_path_factory.mktemp("hub") / "folder"
    memory = {"class_path": "videomem.heads.recurrent.GRU", "init_args": {"hidden_dim": 4}}
    arguments = {"memory": memory, "readout": None, "num_layers": 1, "projection_dim": None, "feature_dim": D}
    settings = FeatureSettings(BackboneSettings(weights="random"), Uniform(6))
    head = Head(partial(GRU, hidden_dim=4), D, 3)
    videomem.Classifier(head, ["left", "right", "up"], settings, None, arguments).save_pretrained(path)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache", monkeypatch) as served:
        yield served


def logits(model: videomem.Classifier) -> torch.Tensor:
    return model.classify(torch.linspace(-1, 1, 4 * D).reshape(1, 4, D), torch.tensor([4]))


@pytest.mark.parametrize("name", ["user/model", "hf://user/model"])
def test_a_model_on_the_hub_is_that_of_its_folder(hub: Hub, folder: Path, name: str) -> None:
    hub.add("user/model", folder)
    assert torch.equal(logits(videomem.load(name)), logits(videomem.load(folder)))
    assert torch.equal(logits(videomem.Classifier.from_pretrained(name)), logits(videomem.load(folder)))


def test_only_the_files_of_the_format_are_downloaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    more = shutil.copytree(folder, tmp_path / "more")
    (more / "model.py").write_text("raise SystemExit")
    (more / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("user/model", more)
    videomem.load("hf://user/model")
    got = {request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("GET") and "resolve" in request}
    assert got == set(FILES)
    assert {path.name for path in (tmp_path / "cache").rglob("*.*") if path.is_symlink()} == set(FILES)


def test_a_revision_is_a_branch_or_a_commit_and_a_commit_does_not_change(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    first = hub.add("user/model", folder)
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["training"] = {"epochs": 7}
    (other / "config.json").write_text(json.dumps(config))
    sign(other)
    files = {path.name: path.read_bytes() for path in other.iterdir()}
    hub.repositories["user/model"].commit("main", files)
    assert videomem.load("hf://user/model").training_facts == {"epochs": 7}
    for name, revision in (("user/model", first), (f"hf://user/model@{first}", None), (f"user/model@{first}", first)):
        assert videomem.load(name, revision=revision).training_facts == {}
    hub.repositories["user/model"].branches["old"] = first
    assert videomem.load("hf://user/model@old").training_facts == {}


def test_a_commit_in_the_cache_needs_no_network_and_offline_the_cache_is_used(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = hub.add("user/model", folder)
    videomem.load("hf://user/model")
    hub.requests.clear()
    videomem.load(f"hf://user/model@{sha}")
    assert hub.requests == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    videomem.load("hf://user/model")
    assert hub.requests == []
    with pytest.raises(VideomemError, match="hf://user/another: not in the cache, and HF_HUB_OFFLINE is set"):
        videomem.load("hf://user/another")


def test_a_path_is_a_repository_only_where_nothing_local_has_its_name(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("runs/gru", folder)
    (tmp_path / "runs").mkdir()
    for path in ("runs/gru", Path("other/gru"), Path("runs/gru"), "./runs/gru", "other", "a/b/c"):
        with pytest.raises(VideomemError, match="no such model"):
            videomem.load(path)
    assert "no such model" in failed(capsys, "predict", "x.mp4", "--model", "other/gru")  # No repository without hf://.
    assert hub.requests == []
    shutil.copytree(folder, tmp_path / "runs" / "gru")
    videomem.load("runs/gru")
    assert hub.requests == [] and named_model("hf://runs/gru") == HubModel("runs/gru")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("hf://user/nothing", None, "hf://user/nothing: no such repository, or a private one"),
        ("hf://user/private", None, "or a private one; check the name, and log in with `hf auth login`"),
        ("hf://user/gated", None, "hf://user/gated: access is restricted"),
        ("hf://user/model@v9", None, "hf://user/model@v9: the repository has no such revision"),
        ("hf://user/other", None, "hf://user/other: the repository lacks config.json"),
        ("hf://user/damaged", None, "hf://user/damaged: config.json or preprocessor_config.json was changed"),
        ("hf://user", None, "'hf://user' is no repository"),
        ("hf://user/model@../x", None, "is no repository"),
        ("hf://user/a--b", None, "check the name"),
        ("hf://user/model@main", "v1", "names another revision than 'v1'"),
        ("folder", "v1", "folder: a local path, which has no revision"),
    ],
)
def test_a_model_that_cannot_be_downloaded_is_a_one_line_error(
    hub: Hub, folder: Path, tmp_path: Path, name: str, revision: str | None, message: str
) -> None:
    for repository in ("user/model", "user/damaged"):
        hub.add(repository, folder)
    hub.add("user/private", folder, private=True)
    hub.add("user/gated", folder, gated=True)
    (tmp_path / "empty").mkdir()
    hub.add("user/other", tmp_path / "empty")
    files = next(iter(hub.repositories["user/damaged"].commits.values()))
    files["config.json"] = files["config.json"].replace(b"left", b"LEFT")
    with pytest.raises(VideomemError) as caught:
        videomem.load(name, revision=revision)
    assert message in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_above_the_limit_is_not_downloaded(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/model", folder)
    monkeypatch.setitem(exported_folder._MOST_BYTES, "model.safetensors", 100)
    with pytest.raises(VideomemError, match=r"model\.safetensors has \d+ bytes, above the limit of 100"):
        videomem.load("hf://user/model")
    assert not any("resolve" in request for request in hub.requests)


def test_a_hub_that_does_not_answer_and_a_missing_library_are_a_one_line_error(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "hf://user/model: the transfer failed (" in failed(capsys, "predict", "x.mp4", "--model", "hf://user/model")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    error = failed(capsys, "stream", "x.mp4", "--model", "hf://user/model")
    assert "pip install 'videomem[hub]'" in error


def export(checkpoints: dict[str, Path], out: Path, *more: str) -> list[str]:
    command = ["export", str(checkpoints["gru"]), "--out", str(out), "--without-backbone", "--wandb", "disabled"]
    return [*command, "--push-to-hub", "user/new", *more]


def test_a_pushed_folder_is_loaded_from_the_hub_and_its_model_card_is_one_of_the_hub(
    hub: Hub, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(export(checkpoints, tmp_path / "out", "--private", "--license", "mit", "--permutations", "2")) == 0
    repository, sha = hub.repositories["user/new"], hub.repositories["user/new"].branches["main"]
    assert repository.private and f'videomem.load("hf://user/new@{sha}")' in capsys.readouterr().out
    stored = repository.commits[sha]
    assert {*FILES, "README.md"} | {".gitattributes"} == stored.keys() and len(hub.uploaded) == 1
    assert all((tmp_path / "out" / name).read_bytes() == stored[name] for name in FILES)
    about = huggingface_hub.ModelCard(stored["README.md"].decode()).data
    assert (about.license, about.library_name, about.pipeline_tag) == ("mit", "videomem", "video-classification")
    assert about.metrics == ["accuracy"] and about.eval_results[0].metric_type == "accuracy"
    assert 'videomem.load("hf://user/new")' in stored["README.md"].decode()
    assert torch.equal(*(videomem.load(name).head.classify.weight for name in ("user/new", tmp_path / "out")))
    # A later export without graphs deletes those of the earlier one, and nothing else.
    repository.commit("main", {**stored, "onnx/clip.onnx": b"old", "checks.json": b"{}", "notes.md": b"kept"})
    assert main(export(checkpoints, tmp_path / "again", "--no-evaluation")) == 0
    assert repository.commits[repository.branches["main"]].keys() == {*stored, "notes.md"}
    assert main(export(checkpoints, tmp_path / "branch", "--no-evaluation", "--revision", "v2")) == 0
    assert set(repository.branches) == {"main", "v2"}


def test_a_public_repository_does_not_get_what_was_to_be_private(
    hub: Hub, folder: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sha = hub.add("user/new", folder)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = failed(capsys, *export(checkpoints, tmp_path / "out", "--private", "--no-evaluation"))
    assert "is complete, but was not uploaded: hf://user/new: exists and is public" in error
    assert hub.repositories["user/new"].branches == {"main": sha} and (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("token", "arguments", "message"),
    [
        (None, [], "hf://user/new: no access token; run `hf auth login`"),
        ("hf_wrong", ["--no-evaluation"], "hf://user/new: the Hub answers 401 (Invalid user token); log in"),
        (TOKEN, ["--push-to-hub", "new"], "'new' is no repository"),
        (TOKEN, ["--push-to-hub", "hf://user/new@a", "--revision", "b"], "names another revision"),
    ],
)
def test_an_upload_that_is_refused_is_a_one_line_error(
    hub: Hub, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], token: str | None, arguments: list[str], message: str,
) -> None:  # fmt: skip
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert message in failed(capsys, *export(checkpoints, tmp_path / "out", *arguments))
    assert hub.repositories == {} and (tmp_path / "out" / "config.json").exists() == (token == "hf_wrong")


def test_options_of_an_upload_need_one(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    error = failed(capsys, "export", checkpoints["gru"], "--out", "out", "--private")
    assert "--private has no effect without --push-to-hub" in error and hub_module.PREFIX == "hf://"
