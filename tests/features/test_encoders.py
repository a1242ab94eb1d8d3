"""Encoders of timm, of transformers and of video networks: features, preprocessing, refusals and use by commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from conftest import CONFIGS, ROOT, failed, read_data_module, shared_data
from helpers.hub_server import Hub, Repository, local_hub
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from videomem.cli.config_options import config_parser, parse
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features import hf_models
from videomem.features.backbone import Backbone, BackboneSettings, blueprint_of, layer_dims, load_backbone
from videomem.features.encoders.by_torchvision import preset
from videomem.features.hf_models import config_from_plain, preprocessing_of
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings
from videomem.inference.exported_folder import CONFIG
from videomem.inference.model import load
from videomem.training.checkpoint import read_checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import write_catalog
from videomem.video.sampling import FixedRate, Uniform

PX = 28
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": PX,
                         "patch_size": 14}  # fmt: skip
SMALL_TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
              "vocab_size": 9, "projection_dim": 8}  # fmt: skip
INNER = {"intermediate_size": 24}


def models() -> dict[str, Callable[[], Any]]:
    """A tiny model of each kind, whose weights are random."""
    t = transformers
    vision = {**SMALL, **INNER}
    return {
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**vision)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**SMALL)),
        "dinov2_with_registers": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**SMALL)),
        "dinov3_vit": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**vision)),
        "clip": lambda: t.CLIPModel(
            t.CLIPConfig(projection_dim=10, vision_config={**vision, "projection_dim": 10}, text_config=SMALL_TEXT)
        ),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=SMALL_TEXT)),
        "videomae": lambda: t.VideoMAEModel(t.VideoMAEConfig(**vision, num_frames=4)),
        "timesformer": lambda: t.TimesformerModel(t.TimesformerConfig(**vision, num_frames=4)),
    }


def processors() -> dict[str, Any]:
    """The image processor of each kind, for images of `PX`."""
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": PX, "width": PX}}
    square = {"size": {"height": PX, "width": PX}}
    t = transformers
    return {
        "vit": t.ViTImageProcessor(**square), "dinov2": t.BitImageProcessor(**crop),
        "dinov2_with_registers": t.BitImageProcessor(**crop), "dinov3_vit": t.DINOv3ViTImageProcessor(**square),
        "clip": t.CLIPImageProcessor(**crop), "siglip": t.SiglipImageProcessor(**square),
        "videomae": t.VideoMAEImageProcessor(**crop), "timesformer": t.VideoMAEImageProcessor(**crop),
    }  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of `save_pretrained` of a kind."""
    above = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        if not (path := above / kind).exists():
            torch.manual_seed(0)
            models()[kind]().save_pretrained(path)
            processors()[kind].save_pretrained(path)
        return path

    return folder


def hugging(name: object, layer: str, **changes: Any) -> BackboneSettings:
    return BackboneSettings(str(name), layer, **{"weights": "pretrained", "library": "transformers", **changes})


def images(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def of_library(folder: Path, kind: str, layer: str, pixels: torch.Tensor) -> torch.Tensor:
    """Features that the library itself computes."""
    model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
    if layer == "embedding":
        output = model.get_image_features(pixel_values=pixels)
        return output if isinstance(output, torch.Tensor) else output.pooler_output
    model = getattr(model, "vision_model", model)
    tokens = model(pixel_values=pixels).last_hidden_state
    first = {"siglip": 0, "videomae": 0, "dinov2_with_registers": 5, "dinov3_vit": 1 + 0}.get(kind, 1)
    first += getattr(model.config, "num_register_tokens", 0) if kind == "dinov3_vit" else 0
    return tokens[:, 0] if layer == "class_token" else tokens[:, first:].mean(1)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("vit", "class_token"), ("dinov2", "class_token"), ("dinov2", "patch_mean"),
        ("dinov2_with_registers", "patch_mean"), ("dinov3_vit", "class_token"), ("dinov3_vit", "patch_mean"),
        ("clip", "embedding"), ("clip", "patch_mean"), ("siglip", "embedding"), ("siglip", "patch_mean"),
        ("videomae", "patch_mean"), ("timesformer", "class_token"),
    ],
)  # fmt: skip
def test_features_are_those_of_transformers_bit_for_bit(
    saved: Callable[[str], Path], kind: str, layer: str
) -> None:  # fmt: skip
    segment_frames = 4 if kind in ("videomae", "timesformer") else 1
    backbone = Backbone(hugging(saved(kind), layer, segment_frames=segment_frames))
    shape = (3, 4, 3, PX, PX) if segment_frames > 1 else (3, 3, PX, PX)
    frames = torch.from_numpy(images(*shape))
    features = backbone(frames)
    expected = of_library(saved(kind), kind, layer, backbone.preprocessing.normalize(frames))
    assert torch.equal(features, expected) and features.std() > 1e-3
    assert features.shape == (3, backbone.feature_dim) and layer_dims(backbone.settings)[layer] == backbone.feature_dim


@pytest.mark.parametrize("size", [(61, 47), (40, 97), (20, 24), (64, 64)])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3_vit", "clip", "siglip", "videomae"])
def test_frames_are_preprocessed_as_by_the_processor_of_transformers(
    saved: Callable[[str], Path], kind: str, size: tuple[int, int]
) -> None:
    """To the bit but for the normalization, which transformers fuses. For DINOv3 it resizes floats, not integers."""
    (image,), processor = images(1, *size, 3), transformers.AutoImageProcessor.from_pretrained(saved(kind))
    segment = {"segment_frames": 4} if kind == "videomae" else {}
    ours = blueprint_of(hugging(saved(kind), "patch_mean", **segment)).preprocessing
    theirs = processor(image, return_tensors="pt")["pixel_values"].reshape(3, PX, PX)
    levels = (ours.normalize(ours.shape_frames(image[None]))[0] - theirs).abs() * 255 * min(ours.std)
    assert levels.max() < (1.5 if kind == "dinov3_vit" else 1e-3)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k", "vit_base_patch16_siglip_224.webli"])
@pytest.mark.parametrize("size", [(240, 320), (320, 181)])
def test_frames_are_preprocessed_as_timm_evaluates_pillow_images(name: str, size: tuple[int, int]) -> None:
    """Pillow rounds a few pixels to another level than torch's resize of integers."""
    (image,) = images(1, *size, 3)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config)(Image.fromarray(image))
    ours = blueprint_of(BackboneSettings(name, "pooled", "random", "timm")).preprocessing
    levels = (ours.normalize(ours.shape_frames(image[None]))[0] - theirs).abs() * 255 * min(ours.std)
    assert levels.max() < 2.1 and (levels > 0.1).float().mean() < 0.01


@pytest.mark.parametrize("name", ["r3d_18", "s3d"])
def test_frames_are_preprocessed_as_by_the_preset_of_a_video_network(name: str) -> None:
    frames, ours = images(2, 90, 130, 3), preset(name)
    theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()(torch.from_numpy(frames).movedim(3, 1))
    levels = (ours.normalize(ours.shape_frames(frames)) - theirs.transpose(0, 1)).abs() * 255 * min(ours.std)
    assert levels.max() < 1e-3


@pytest.mark.parametrize(
    ("name", "layer"),
    [("test_vit", "pooled"), ("test_vit", "class_token"), ("test_vit", "patch_mean"), ("test_resnet", "pooled")],
)
def test_features_are_those_of_timm_bit_for_bit(tmp_path: Path, name: str, layer: str) -> None:
    torch.manual_seed(3)
    model = timm.create_model(name).eval()  # With its classifier, which is left out.
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = Backbone(BackboneSettings(name, layer, str(tmp_path / "model.safetensors"), "timm"))
    frames = torch.from_numpy(images(2, 3, 160, 160))
    with torch.no_grad():
        tokens = model.forward_features(backbone.preprocessing.normalize(frames))
        expected = {
            "pooled": model.forward_head(tokens, pre_logits=True), "class_token": tokens[:, 0],
            "patch_mean": tokens[:, 1:].mean(1),
        }[layer]  # fmt: skip
    assert torch.equal(backbone(frames), expected)
    assert layer_dims(backbone.settings)[layer] == backbone.feature_dim


def test_a_video_network_of_torchvision_gives_the_features_of_each_segment() -> None:
    backbone = load_backbone(BackboneSettings("r3d_18", "flatten", "random", segment_frames=4))
    torch.manual_seed(0)
    network = torchvision.models.video.r3d_18(weights=None).eval()
    network.fc = torch.nn.Identity()
    segments = torch.from_numpy(images(1, 4, 3, 112, 112))
    with torch.no_grad():
        expected = network(backbone.preprocessing.normalize(segments).transpose(1, 2))
    assert torch.equal(backbone(segments), expected) and backbone.feature_dim == 512
    assert not torch.equal(backbone(segments.flip(1)), expected)  # The order of frames within a segment counts.


def test_bfloat16_gives_the_features_but_for_rounding(saved: Callable[[str], Path]) -> None:
    for kind, shape in (("siglip", (2, 3, PX, PX)), ("videomae", (2, 4, 3, PX, PX))):
        changes = {"segment_frames": 4} if kind == "videomae" else {}
        exact, rounded = (Backbone(hugging(saved(kind), "patch_mean", precision=one, **changes))
                          for one in ("float32", "bfloat16"))  # fmt: skip
        expected, found = (backbone(torch.from_numpy(images(*shape))) for backbone in (exact, rounded))
        assert 1e-5 < (found - expected).norm() / expected.norm() < 3e-2


def test_the_key_has_the_weights_and_the_preprocessing_but_not_the_place(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(saved("dinov2"), moved)
    shutil.copytree(saved("dinov2"), other)
    plain = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**plain, "resample": 2}))
    here, there, changed = (
        FeatureSettings(hugging(folder, "class_token"), Uniform(8)) for folder in (saved("dinov2"), moved, other)
    )
    assert here.key == there.key != changed.key
    torch.manual_seed(1)
    models()["dinov2"]().save_pretrained(other)
    settings = hugging(other, "class_token", precision="float32", seed=1)  # Another seed: not the cached backbone.
    assert Backbone(settings).weights_hash() != Backbone(here.backbone).weights_hash()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache", monkeypatch) as served:
        yield served


def files_got(hub: Hub) -> set[str]:
    return {request.rsplit("/", 1)[1] for request in hub.requests if "resolve" in request}


@pytest.mark.parametrize("prefix", ["", "hf://"])
def test_only_configs_and_safetensors_of_a_revision_are_downloaded_from_the_hub(
    hub: Hub, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    more = shutil.copytree(saved("dinov2"), tmp_path / "more")
    (more / "modeling.py").write_text("raise SystemExit")
    (more / "pytorch_model.bin").write_bytes(b"pickle")
    name = f"some/dinov2{len(prefix)}"
    hub.repositories[name] = Repository()
    commit = hub.repositories[name].commit("v1", {path.name: path.read_bytes() for path in more.iterdir()})
    settings = hugging(f"{prefix}{name}@v1", "class_token")
    layer_dims(settings)
    assert files_got(hub) == {"config.json", "preprocessor_config.json"}
    hub.repositories[name].commit("v1", {"config.json": b"{}"})  # Config and weights are of one commit.
    backbone = Backbone(settings)
    assert backbone.weights_hash() == Backbone(hugging(saved("dinov2"), "class_token")).weights_hash()
    assert files_got(hub) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    settings = hugging(f"{prefix}{name}@{commit}", "class_token")
    hf_models._snapshot.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert Backbone(settings).weights_hash() == backbone.weights_hash() and not hub.requests


def test_a_model_that_cannot_be_downloaded_is_a_one_line_error(
    hub: Hub, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("some/gated", saved("dinov2"), gated=True)
    hub.add("some/large", saved("dinov2"))
    (tmp_path / "pickled").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(saved("dinov2") / name, tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("some/pickled", tmp_path / "pickled")
    monkeypatch.setitem(hf_models._WEIGHTS, "model.safetensors", 100)
    for name, message in (
        ("some/gated", "hf://some/gated: access is restricted; request it on the page of the model, and log in with"),
        ("some/large", r"hf://some/large@\w+: model\.safetensors has \d+ bytes, above the limit of 100"),
        ("some/pickled", r"has no model\.safetensors, and pickled weights such as pytorch_model\.bin are not read"),
        ("some/nothing", "hf://some/nothing: no such repository"),
        ("hf://some", "'hf://some' is no repository on the Hugging Face Hub"),
    ):
        with pytest.raises(VideomemError, match=message):
            Backbone(hugging(name, "class_token"))
    assert files_got(hub) == {"config.json", "preprocessor_config.json"}
    hf_models._snapshot.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(VideomemError, match="hf://some/large: its weights are not in the cache, and HF_HUB_OFFLINE"):
        Backbone(hugging("some/large", "class_token"))


def test_a_name_is_a_repository_only_where_nothing_local_has_its_name(
    hub: Hub, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved("dinov2"), "models/dinov2")
    Backbone(hugging("models/dinov2", "class_token"))
    for name in ("models/dinov3", "./models/dinov3", "a/b/c"):
        with pytest.raises(VideomemError, match="no folder, no repository on the Hub"):
            Backbone(hugging(name, "class_token"))
    assert hub.requests == []


def test_published_weights_of_timm_are_those_in_safetensors_and_pickles_are_not_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("timm/test_vit.r160_in1k", tmp_path)
    ours, local = (
        Backbone(BackboneSettings("test_vit", "pooled", weights, "timm")).weights_hash()
        for weights in ("pretrained", str(tmp_path / "model.safetensors"))
    )
    assert ours == local
    (tmp_path / "model.safetensors").unlink()
    hub.add("timm/test_vit2.r160_in1k", tmp_path)
    for name, message in (
        ("test_vit2", r"hf://timm/test_vit2\.r160_in1k: the repository lacks model\.safetensors; or name a file"),
        ("gcvit_tiny", "timm has no safetensors of gcvit_tiny; name a file of weights, or `random`"),
    ):
        with pytest.raises(VideomemError, match=message):
            Backbone(BackboneSettings(name, "pooled", "pretrained", "timm"))
    assert files_got(hub) == {"model.safetensors"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"blocks.0.attn.proj.weight": torch.zeros(3, 5)},
            r"proj\.weight has shape \(3, 5\), but \(64, 64\) is expected",
        ),
        ({"blocks.1.mlp.fc1.weight": None}, r"blocks\.1\.mlp\.fc1\.weight is absent"),
        (None, "not a state_dict of tensors"),
    ],
)
def test_weights_of_another_model_of_timm_are_refused(
    tmp_path: Path, changes: dict[str, Any] | None, message: str
) -> None:
    state = {} if changes is None else {**timm.create_model("test_vit").state_dict(), **changes}
    path = tmp_path / "model.safetensors"
    save_file({name: value for name, value in state.items() if value is not None}, path)
    with pytest.raises(VideomemError, match=message):
        Backbone(BackboneSettings("test_vit", "pooled", str(path), "timm"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "dinov22", "weights": "random"}, "near it are dinov2"),
        ({"name": "dinov2"}, "a model type without weights of its own"),
        ({"name": "dinov2", "layer": "embedding", "weights": "random"}, "it has class_token, patch_mean"),
        ({"name": "videomae", "layer": "patch_mean", "weights": "random"}, "a video network.*set it to 16"),
        ({"name": "vit", "weights": "random", "segment_frames": 4}, "a network of single images; set it to 1"),
        ({"name": "vit", "weights": "imagenet"}, "only torchvision has.*pretrained or random"),
        ({"name": "vit", "weights": "a.bin"}, "must be pretrained or random"),
        ({"name": "vit", "weights": "random", "grid": 2}, "pools maps of torchvision only"),
        ({"name": "resnett50", "library": "timm"}, "timm does not have it; it has, for example, resnet50"),
        ({"name": "hf-hub:a/b", "library": "timm"}, "timm does not have it"),
        ({"name": "resnet18.no_such", "library": "timm"}, "has no such weights; it has resnet18.a1_in1k"),
        ({"name": "test_resnet", "library": "timm", "weights": "random", "layer": "patch_mean"}, "it has pooled"),
        ({"name": "test_vit", "library": "timm", "weights": "nowhere.safetensors"}, "no such file"),
        ({"name": "test_vit", "library": "timm", "weights": "random", "segment_frames": 2}, "single images"),
        ({"name": "r3d_18", "library": "torchvision", "weights": "random"}, "a video network.*set it to 16"),
        ({"name": "s3d", "library": "torchvision", "segment_frames": 4, "weights": "random"}, "needs at least 14"),
        ({"name": "alexnet", "library": "torchvision", "segment_frames": 4, "weights": "random"}, "single images"),
        ({"name": "alexnet", "library": "torchvision", "weights": "pretrained"}, "called imagenet or.*kinetics400"),
        ({"name": "r3d_18", "library": "torchvision", "segment_frames": 4, "layer": "flatten", "weights": "imagenet"},
         "was trained on kinetics400"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        Backbone(hugging(**{"layer": "class_token", **settings}))


def test_folders_without_safetensors_processor_or_support_are_refused(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(saved("dinov2"), tmp_path / name)

    folder = copy("pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(VideomemError, match=r"no model\.safetensors, and pickled weights such as pytorch_model\.bin"):
        Backbone(hugging(folder, "class_token"))
    folder = copy("no_processor")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(VideomemError, match="has no preprocessor_config"):
        Backbone(hugging(folder, "class_token"))
    folder = copy("other")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(VideomemError, match="a model of type 'bert', but supported types are"):
        Backbone(hugging(folder, "class_token"))
    folder = copy("mismatched")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "num_hidden_layers": 3}))
    absent = r"whose weights are not those of Dinov2Model with its config\.json: encoder\.layer\.2\.\S+ is absent"
    with pytest.raises(VideomemError, match=absent):
        Backbone(hugging(folder, "class_token"))
    folder = copy("narrow")
    (folder / "config.json").write_text(json.dumps({**plain, "hidden_size": 32}))
    shapes = r"embeddings\.cls_token has shape \(1, 1, 16\), but \(1, 1, 32\) is expected; save both again with"
    with pytest.raises(VideomemError, match=shapes):
        Backbone(hugging(folder, "class_token"))


def test_a_config_cannot_name_code_or_ask_for_any_size(saved: Callable[[str], Path], tmp_path: Path) -> None:
    evil = {"auto_map": {"AutoModel": "code.Evil"}, "attn_implementation": "some/kernel",
            "_attn_implementation": "some/kernel", "quantization_config": {"quant_method": "evil"}}  # fmt: skip
    folder = shutil.copytree(saved("dinov2"), tmp_path / "evil")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, **evil}))
    backbone = Backbone(hugging(folder, "class_token"))
    assert not evil.keys() & backbone.blueprint.config.keys()
    assert backbone.encoder.network.config._attn_implementation == "sdpa"
    nested = config_from_plain("clip", {"vision_config": {**SMALL, **evil}})
    assert nested.vision_config._attn_implementation_internal != "some/kernel"
    for huge in ({"num_hidden_layers": 10**9}, {"image_size": 10**7}, {"hidden_size": 10**9}):
        (folder / "config.json").write_text(json.dumps({**plain, **huge}))
        with pytest.raises(VideomemError, match="must be within"):
            Backbone(hugging(folder, "class_token", weights="random", seed=len(str(huge))))


def test_a_processor_with_other_steps_is_refused() -> None:
    plain = processors()["clip"].to_dict()
    for changes, message in (
        ({"do_pad": True}, "do_pad is a step"),
        ({"do_resize": False}, "must be resized, and scaled by 1/255"),
        ({"rescale_factor": 1 / 127.5}, "must be resized, and scaled by 1/255"),
        ({"crop_size": {"height": 20, "width": 28}}, "not a square"),
        ({"resample": 0}, "method 0 of Pillow"),
    ):
        with pytest.raises(VideomemError, match=message):
            preprocessing_of({**plain, **changes})
    without = preprocessing_of({**plain, "do_normalize": False})
    assert without.mean == (0.0,) * 3 and without.std == (1.0,) * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "must be within"), ((8, 10**6), "must be within"), (((8, 8, 8), 8), "must be within"),
        ((8, 8, "lanczos"), "bilinear or bicubic"), ((8, 8, "bilinear", (0.0,) * 3, (0.0,) * 3), "std above 0"),
    ],
)  # fmt: skip
def test_a_preprocessing_out_of_range_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    usual = (8, 8, "bilinear", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(VideomemError, match=message):
        Preprocessing(*arguments, *usual[len(arguments) :])


@pytest.mark.parametrize(
    ("sampling", "fits"), [(Uniform(8), True), (Uniform(10), False), (Uniform(4), False), (FixedRate(5, 7), False)]
)
def test_clips_have_at_least_two_whole_segments(sampling: Any, fits: bool) -> None:
    backbone = hugging("videomae", "patch_mean", weights="random", segment_frames=4)
    if fits:
        FeatureSettings(backbone, sampling)
    else:
        with pytest.raises(VideomemError, match="set it to a multiple such as 16"):
            FeatureSettings(backbone, sampling)


# The commands.


@pytest.fixture(scope="module")
def few(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two classes."""
    path = tmp_path_factory.mktemp("few") / "catalog.csv"
    write_catalog(Catalog(tuple(clip for clip in catalog.clips if clip.label in catalog.classes[:2])), path)
    return path


def options_of(few: Path, folder: Path, layer: str, num_frames: int, *more: str) -> list[str]:
    backbone = {"library": "transformers", "name": str(folder), "layer": layer, "weights": "pretrained"}
    return [
        *("--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "data" / "my_videos.yaml")),
        *("--data.catalog", str(few), "--data.store", str(few.parent / "features")),
        *(word for name, value in backbone.items() for word in (f"--data.features.backbone.{name}", value)),
        *("--data.features.sampling.num_frames", str(num_frames), *more),
    ]


def trained(data: list[str], run_dir: Path) -> Path:
    quiet = ["--config", str(CONFIGS / "head" / "gru.yaml"), "--config", str(CONFIGS / "quiet.yaml")]
    short = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert main(["fit", *data, *quiet, *short, "--run-dir", str(run_dir)]) == 0
    return run_dir / "checkpoints" / "last.ckpt"


def predicted(capsys: pytest.CaptureFixture[str], video: str, model: Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["predict", video, "--model", str(model), "--format", "jsonl", "--over-time"]) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[0]))


def test_an_exported_folder_has_the_encoder_and_needs_no_other_folder(
    few: Path, saved: Callable[[str], Path], catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = shutil.copytree(saved("clip"), tmp_path / "secret" / "clip"), tmp_path / "out"
    data = options_of(few, model, "embedding", 8)
    assert main(["extract", *data, "--workers", "0"]) == 0
    checkpoint = trained(data, tmp_path / "run")
    assert main(["export", str(checkpoint), "--out", str(out), "--no-evaluation", "--wandb", "disabled"]) == 0
    before = predicted(capsys, catalog.clips[0].path, checkpoint)
    model.rename(tmp_path / "gone")
    assert predicted(capsys, catalog.clips[0].path, out) == before
    assert str(tmp_path) not in (out / CONFIG).read_text() + (out / "README.md").read_text()
    again = tmp_path / "again"
    load(out).save_pretrained(again, with_backbone=False)
    assert load(again).read(catalog.clips[0].path).shape == (8, 3, PX, PX)


def test_heads_over_segments_train_predict_and_export(
    few: Path, saved: Callable[[str], Path], catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments = ["--data.features.backbone.segment_frames", "4"]
    data, video = options_of(few, saved("videomae"), "patch_mean", 12, *segments), catalog.clips[0].path
    assert main(["extract", *data, "--workers", "1"]) == 0
    stored = read_data_module(data)
    assert {len(stored.features(row)) for row in range(len(stored.clips))} == {3}
    order = ["--config", str(CONFIGS / "order.yaml"), "--order.heads", "[none,gru]", "--order.runs", "2",
             "--order.split", "fixed", "--order.training_conditions", "[ordered,fixed_permutation]",
             "--order.num_permutations", "2", "--trainer.max_epochs", "1", "--processes", "1"]  # fmt: skip
    assert main(["order", *data, *order, "--wandb", "disabled", "--out", str(tmp_path / "order")]) == 0
    checks = json.loads((tmp_path / "order" / "order.json").read_text())["checks"]
    (told,) = [check["sentence"] for check in checks if check["name"] == "segments"]
    assert "the order of frames within a segment is in the features" in told
    assert told in capsys.readouterr().out.replace("\n", " ")
    checkpoint, out = trained(data, tmp_path / "run"), tmp_path / "out"
    answer = predicted(capsys, video, checkpoint)
    frames = load(checkpoint).decode(catalog.clips[0])[1].indices_T.tolist()
    assert [one["frame"] for one in answer["over_time"]] == frames[3::4]
    assert main(["export", str(checkpoint), "--out", str(out), "--no-evaluation", "--wandb", "disabled"]) == 0
    assert predicted(capsys, video, out) == answer
    model_card = (out / "README.md").read_text()
    assert "each segment of 4 frames" in model_card and "videomem stream" not in model_card
    live = read_checkpoint(checkpoint).data_module(source="video")
    assert torch.allclose(live.features(0), stored.features(0).float(), atol=1e-2)
    onnx = ["export", checkpoint, "--out", tmp_path / "graphs", "--torch-export"]
    for command in (["stream", video, "--model", out], ["inspect", video, "--model", out], onnx):
        assert "needs a network of single images" in failed(capsys, *command)
    reversed_pairs = ["fit", *data, "--data.reversed_pairs", "true", "--config", CONFIGS / "head" / "gru.yaml"]
    assert "needs a network of single images" in failed(capsys, *reversed_pairs)


def test_a_clip_too_short_for_two_segments_fails_with_the_reason(
    few: Path, saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = options_of(few, saved("videomae"), "patch_mean", 8, "--data.features.backbone.segment_frames", "4")
    sampling = ["--data.features.sampling", "FixedRate", "--data.features.sampling.fps", "4",
                "--data.features.sampling.max_frames", "8"]  # fmt: skip
    place = data.index("--data.features.sampling.num_frames")
    assert main(["extract", *data[:place], *data[place + 2 :], *sampling, "--workers", "0"]) == 1
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "frames are sampled, but order needs at least 2 segments of 4 frames" in said


BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))
TYPES = {"dinov2": "dinov2", "dinov3": "dinov3_vit", "clip": "clip", "siglip": "siglip", "videomae": "videomae"}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_config_of_a_backbone_has_a_network_and_a_layer_that_exist(name: str) -> None:
    config = CONFIGS / "backbone" / f"{name}.yaml"
    parts = ("base.yaml", "data/my_videos.yaml", f"backbone/{name}.yaml")
    options = config_parser()
    options.add_class_arguments(VideoDataModule, "data")
    given = parse(options, [word for one in parts for word in ("--config", str(CONFIGS / one))]).data.features
    settings = BackboneSettings(**given.backbone.as_dict())
    FeatureSettings(settings, Uniform(**given.sampling.init_args.as_dict()))  # Segments fit its number of frames.
    fields = {"layer": settings.layer, "library": settings.library, "segment_frames": settings.segment_frames}
    dims = layer_dims(BackboneSettings(TYPES.get(name, settings.name), weights="random", **fields))
    stated = re.search(r"([\d,]+) features", config.read_text())
    assert stated is not None and settings.layer in dims
    if name != "dinov2":  # The default of its type is larger than the network of the config.
        assert f"{dims[settings.layer]:,}" == stated[1]
    page = (ROOT / "docs" / "encoders.md").read_text()
    assert f"configs/backbone/{name}.yaml" in page


def test_layers_are_printed_without_weights(few: Path, saved: Callable[[str], Path], capsys: Any) -> None:
    assert main(["extract", *options_of(few, saved("clip"), "embedding", 8), "--layers"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("class_token", "patch_mean", "embedding", "10", "16"))


def test_real_weights_in_safetensors_load(tmp_path: Path) -> None:
    state = torch.load(shared_data("weights/squeezenet1_0_imagenet.pth"), weights_only=True)
    save_file(state, tmp_path / "squeezenet.safetensors")
    settings = BackboneSettings("squeezenet1_0", "features.12", str(tmp_path / "squeezenet.safetensors"))
    pickled = BackboneSettings("squeezenet1_0", "features.12", str(shared_data("weights/squeezenet1_0_imagenet.pth")))
    assert Backbone(settings).weights_hash() == Backbone(pickled).weights_hash()
