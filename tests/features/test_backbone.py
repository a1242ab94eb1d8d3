from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import CONFIGS, ROOT, shared_data
from PIL import Image

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_arrays, projected
from videomem.experiments.memory_horizon.gradients import untrained
from videomem.experiments.model_sensitivity.video_networks import load_video_network
from videomem.features.backbone import (
    Backbone,
    BackboneSettings,
    backbone_identity,
    exact_float32,
    extract_features,
    layer_dims,
    load_backbone,
    pooled,
)
from videomem.features.encoders.by_torchvision import ALEXNET_LAYERS, preset
from videomem.heads import NoMemory
from videomem.training.lit_classifier import LitClassifier


def frames(num: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, 224, 224), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def settings(**changes: object) -> BackboneSettings:
    return BackboneSettings(**{"weights": "random", **changes})  # type: ignore[arg-type]


def alexnet(seed: int = 0) -> torchvision.models.AlexNet:
    torch.manual_seed(seed)
    return torchvision.models.alexnet(weights=None).eval()


@pytest.mark.parametrize(("layer", "width"), [("pool5", 9 * 256), ("fc6", 4096), ("fc7", 4096), ("logits", 1000)])
def test_layers_are_those_of_alexnet(layer: str, width: int) -> None:
    backbone, net = load_backbone(settings(layer=layer)), alexnet()
    images = backbone.preprocessing.normalize(frames())
    with torch.no_grad():
        maps = net.features(images)
        flat = net.avgpool(maps).flatten(1)
        expected = {
            "pool5": torch.nn.functional.adaptive_avg_pool2d(maps, 3).flatten(1),
            "fc6": net.classifier[:3](flat),
            "fc7": net.classifier[:6](flat),
            "logits": net.classifier(flat),
        }[layer]
    assert backbone.feature_dim == width
    assert torch.allclose(backbone(frames()), expected, atol=1e-6)


def test_a_layer_before_an_in_place_operation_keeps_its_value() -> None:
    before = Backbone(settings(layer="classifier.1"))(frames())
    after = Backbone(settings(layer="classifier.2"))(frames())
    assert (before < 0).any()
    assert torch.equal(before.clamp(min=0), after)


def test_the_backbone_is_frozen() -> None:
    backbone = Backbone(settings())
    backbone.train()
    assert not backbone.training and not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone(frames()).requires_grad


def test_random_weights_come_from_their_seed_and_leave_the_global_one() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = Backbone(settings(seed=1))
    assert torch.equal(torch.rand(2), expected)
    assert one.weights_hash() == Backbone(settings(seed=1)).weights_hash()
    assert one.weights_hash() != Backbone(settings(seed=2)).weights_hash()


def test_seeds_of_parts_leave_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeds the GPUs' generators"))
    Backbone(settings())
    load_video_network("r3d_18", "random", ["a", "b"], 16)
    clips = clips_of_arrays([np.eye(4, 6, dtype=np.float32)] * 3, ["a", "b", "a"], ["1", "2", "3"])
    projected(clips, np.arange(2), 2)
    untrained(LitClassifier(NoMemory, 6, ["a", "b"], [1, 1]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])  # noqa: S301
def test_a_copied_backbone_gives_the_same_features(copied: Callable[[Backbone], Backbone]) -> None:
    backbone = load_backbone(settings())
    there = copied(backbone)
    assert not any(module.training for module in there.modules())
    assert torch.equal(there(frames()), backbone(frames()))


def test_a_backbone_on_another_device_is_a_copy() -> None:
    here, there = load_backbone(settings()), load_backbone(settings(), torch.device("meta"))
    assert {p.device.type for p in there.parameters()} == {"meta"}
    assert {p.device.type for p in here.parameters()} == {"cpu"}
    assert load_backbone(settings()) is here and load_backbone(settings(), "meta") is there
    assert backbone_identity(settings()) == here.identity()


def test_features_are_computed_in_float32_whatever_the_precision_of_products_is() -> None:
    def precisions() -> tuple[str, str, bool]:
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic

    seen, backbone = [], load_backbone(settings(layer="pool5"))
    hook = backbone.encoder.register_forward_hook(lambda *_: seen.append(precisions()))
    try:
        torch.set_float32_matmul_precision("high")
        relaxed = precisions()
        extract_features(backbone, frames(1))
        assert seen == [("ieee", "ieee", True)] and precisions() == relaxed != seen[0]
        with pytest.raises(ZeroDivisionError), exact_float32():
            1 / 0  # noqa: B018 - raises
        assert precisions() == relaxed
    finally:
        torch.set_float32_matmul_precision("highest")
        hook.remove()


@pytest.mark.parametrize("size", [(300, 400), (480, 270), (64, 64), (256, 256)])
@pytest.mark.parametrize("name", ["alexnet", "efficientnet_b0"])
def test_preprocessing_is_the_weights_own_on_pillow_images(name: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    ours = preset(name)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    levels = (ours.normalize(ours.shape_frames(images)) - expected).abs() * 255 * min(ours.std)
    assert levels.max() < 2.1 and (levels > 0.1).float().mean() < 0.01


def shaped_digest() -> str:
    images = np.random.default_rng(0).integers(0, 256, (1, 120, 90, 3), dtype=np.uint8)
    shaped = [preset(name).shape_frames(images) for name in ("alexnet", "efficientnet_b0")]
    return sha256(torch.cat([frames.flatten() for frames in shaped]).numpy().tobytes()).hexdigest()


def test_frames_are_resized_to_the_same_bits_on_a_processor_without_vector_instructions() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from features import test_backbone; "
    plain = subprocess.run(
        [sys.executable, "-c", f"{code}print(test_backbone.shaped_digest())"], text=True, check=True,
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert plain.stdout.strip() == shaped_digest()


def test_bfloat16_gives_the_features_but_for_rounding_under_a_key_of_its_own() -> None:
    exact, rounded = (load_backbone(settings(layer="fc6", precision=name)) for name in ("float32", "bfloat16"))
    expected, found = (extract_features(backbone, frames(5)) for backbone in (exact, rounded))
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).norm() / expected.norm() < 2e-2
    assert exact.identity() != rounded.identity()


def test_features_of_a_frame_do_not_depend_on_the_rest_of_the_batch() -> None:
    backbone = load_backbone(settings(layer="pool5"))
    ours, others = frames(5), frames(20, seed=1)
    alone = extract_features(backbone, ours)
    among = extract_features(backbone, torch.cat([others, ours]))[20:]
    assert torch.allclose(alone, among, atol=1e-6)


def test_another_network_serves_by_name_and_node() -> None:
    backbone = Backbone(settings(name="squeezenet1_0", layer="features.12", grid=2))
    assert backbone.feature_dim == 512 * 4
    assert backbone(frames()).shape == (3, 2048)


def saved(tmp_path: Path, content: object) -> str:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return str(path)


def test_weights_from_a_file_are_those_of_the_file(tmp_path: Path) -> None:
    net = alexnet(seed=5)
    path = saved(tmp_path, net.state_dict())
    assert Backbone(settings(weights=path)).weights_hash() == Backbone(settings(seed=5)).weights_hash()


def test_real_weights_load() -> None:
    path = shared_data("weights/squeezenet1_0_imagenet.pth")
    backbone = Backbone(settings(name="squeezenet1_0", layer="features.12", weights=str(path)))
    assert torch.isfinite(backbone(frames())).all()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path("/nonexistent").joinpath, ("ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torchvision.models.squeezenet1_0(weights=None).state_dict(), "not the weights of alexnet"),
        ({"a": torch.zeros(3)}, "not the weights of alexnet"),
        ([1, 2], "not a state_dict"),
        ({"a": Evil()}, "not a saved state_dict"),
    ],
)
def test_a_file_of_other_weights_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        Backbone(settings(weights=saved(tmp_path, content)))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = alexnet().state_dict()
    state["features.0.bias"][0] = torch.nan
    with pytest.raises(VideomemError, match=r"features\.0\.bias has values that are not finite"):
        Backbone(settings(weights=saved(tmp_path, state)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "fc9"}, "try " + ", ".join(ALEXNET_LAYERS)),
        ({"name": "alexnett"}, "it has, for example, alexnet"),
        ({"name": "squeezenet1_0", "layer": "features.99"}, "which squeezenet1_0 does not have"),
        ({"weights": "nowhere.pth"}, "no such file"),
        ({"grid": 0}, r"backbone\.grid is 0"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        Backbone(settings(**changes))


def test_imagenet_weights_are_never_replaced_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(VideomemError, match="cannot be downloaded"):
        Backbone(settings(weights="imagenet"))


def test_feature_maps_are_not_pooled_to_more_cells_than_they_have() -> None:
    maps = torch.arange(8.0).view(1, 8, 1, 1)
    assert torch.equal(pooled(maps, 3), torch.arange(8.0).view(1, 8))
    assert pooled(torch.zeros(2, 5, 2, 7), 3).shape == (2, 5 * 2 * 3)


def test_maps_with_the_channels_last_are_pooled_over_height_and_width() -> None:
    maps = torch.rand(2, 5, 7, 7)
    assert torch.equal(pooled(maps.permute(0, 2, 3, 1), 3), pooled(maps, 3))


@pytest.mark.parametrize(
    ("name", "layer", "num_channels"), [("swin_t", "features.1", 96), ("convnext_tiny", "features.1.0.block.3", 384)]
)
def test_layers_with_the_channels_last_give_the_means_of_each_channel(name: str, layer: str, num_channels: int) -> None:
    backbone = Backbone(BackboneSettings(name, layer, weights="random", grid=1))
    frames = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        maps = backbone.encoder(backbone.preprocessing.normalize(frames))
    assert maps.shape[1:3] == (56, 56) and backbone.feature_dim == num_channels
    assert torch.allclose(backbone(frames), maps.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("swin_t", "features.1.0.attn._get_relative_position_bias"),
        ("maxvit_t", "blocks.0.layers.0.layers.window_attention.mlp_layer"),
    ],
)
def test_a_layer_without_features_of_each_frame_is_refused(name: str, layer: str) -> None:
    with pytest.raises(VideomemError, match="but must give a vector or square maps"):
        Backbone(BackboneSettings(name, layer, weights="random"))


@pytest.mark.parametrize(
    ("name", "layer"), [("alexnet", "classifier.2"), ("alexnet", "features.12"), ("resnet18", "flatten")]
)
def test_the_listed_numbers_of_features_are_those_of_the_backbone(name: str, layer: str) -> None:
    settings = BackboneSettings(name, layer, weights="random")
    assert layer_dims(settings)[layer] == Backbone(settings).feature_dim


def test_the_table_of_layers_in_the_documentation_is_right() -> None:
    page = (ROOT / "docs" / "extraction.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| ([\d,]+) \|", page, re.MULTILINE)
    assert len(rows) >= 8
    for name, layer, dim in rows:
        layer = ALEXNET_LAYERS.get(layer, layer)
        assert f"{layer_dims(BackboneSettings(name))[layer]:,}" == dim, (name, layer)


def test_extract_prints_the_layers_of_a_backbone_without_its_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads weights"))
    configs = [str(CONFIGS / name) for name in ("base.yaml", "data/my_videos.yaml")]
    options = [word for config in configs for word in ("--config", config)]
    assert main(["extract", *options, "--data.features.backbone.name", "resnet18", "--layers"]) == 0
    said = capsys.readouterr().out
    assert "flatten" in said and "512" in said
