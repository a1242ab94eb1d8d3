"""What determines the features of a clip; its hash is the key of a feature store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

from videomem.errors import VideomemError
from videomem.features.backbone import BackboneSettings, backbone_identity, blueprint_of, load_backbone
from videomem.features.preprocessing import Preprocessing
from videomem.video.decoding import Decoder, OnDamage, decoder_versions
from videomem.video.sampling import FixedRate, Sampling, Uniform

SCHEMA = 4
FeatureDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class ImportedFeatures:
    """Features imported by `videomem import-features`, used instead of those of a backbone.

    Args:
        name: The name given to them at import, such as `clip-vit-b32`.
        feature_dim: D, features per frame.
    """

    name: str
    feature_dim: int

    def __post_init__(self) -> None:
        if not self.name or self.name != " ".join(self.name.split()):
            raise VideomemError(
                f"imported.name is {self.name!r}, but must be a name without leading, trailing or repeated spaces"
            )
        if self.feature_dim < 1:
            raise VideomemError(f"imported.feature_dim is {self.feature_dim}, but must be at least 1")


@dataclass(frozen=True)
class FeatureSettings:
    """Everything that determines the features of a clip except the clip itself.

    Args:
        backbone: The frozen network that computes the features.
        sampling: How frames of a clip are sampled.
        decoder: Video decoder. `auto` selects the fastest decoder that is exact for a file.
        dtype: Data type of stored features.
        on_damage: `exclude` leaves out damaged videos; `prefix` uses the frames before the damage.
        imported: Features imported by `videomem import-features`, used instead of the backbone's. Backbone and decoder
            then have no effect.
    """

    backbone: BackboneSettings
    sampling: Sampling
    decoder: Decoder = "auto"
    dtype: FeatureDtype = "float16"
    on_damage: OnDamage = "exclude"
    imported: ImportedFeatures | None = None

    def __post_init__(self) -> None:
        segment, sampling = self.backbone.segment_frames, self.sampling
        most = getattr(sampling, "num_frames", getattr(sampling, "max_frames", None))
        if segment == 1 or self.imported is not None or most is None:
            return
        if most < 2 * segment or (isinstance(sampling, Uniform) and most % segment):
            name = "max_frames" if isinstance(sampling, FixedRate) else "num_frames"
            raise VideomemError(
                f"sampling.{name} is {most}, but a clip must have at least 2 whole segments of "
                f"backbone.segment_frames {segment}; set it to a multiple such as {4 * segment}"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """How frames become the input of the backbone."""
        return blueprint_of(self.backbone).preprocessing

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings as plain data. The store's key is its hash."""
        sampling = {"name": type(self.sampling).__name__, **asdict(self.sampling)}  # type: ignore[call-overload]
        causes = {"schema": SCHEMA, "sampling": sampling, "dtype": self.dtype}
        if self.imported is not None:
            causes["imported"] = asdict(self.imported)
        else:
            causes |= {
                "backbone": backbone_identity(self.backbone),
                "decoder": {"choice": self.decoder, **decoder_versions(self.decoder)},
                "on_damage": self.on_damage,
            }
        return dict(json.loads(json.dumps(causes)))  # As it is read back: with lists instead of tuples.

    @property
    def key(self) -> str:
        return sha256(self.content).hexdigest()[:16]

    @property
    def content(self) -> bytes:
        """Of the file `settings.json` of a store."""
        return (json.dumps(self.identity, sort_keys=True, indent=1) + "\n").encode()

    @property
    def feature_dim(self) -> int:
        """D, features per frame or segment of frames."""
        return load_backbone(self.backbone).feature_dim if self.imported is None else self.imported.feature_dim

    @property
    def made_by(self) -> str:
        """The command that creates these features, for error messages."""
        return "`videomem extract` with the same --config" if self.imported is None else "`videomem import-features`"
