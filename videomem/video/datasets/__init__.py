"""Layouts of public data sets: functions that list the clips of a data set on disk, one module per layout."""

from videomem.video.datasets import diving48, hmdb51, kinetics, lists, own, something, ucf101
from videomem.video.datasets.common import Found, Layout

# Each layout is a subcommand of `videomem catalog build`.
LAYOUTS: dict[str, Layout] = {
    "folder": own.FOLDER,
    "csv": own.CSV,
    "list": lists.LAYOUT,
    "ucf101": ucf101.LAYOUT,
    "hmdb51": hmdb51.LAYOUT,
    "kinetics": kinetics.LAYOUT,
    "ssv1": something.SSV1,
    "ssv2": something.SSV2,
    "jester": something.JESTER,
    "diving48": diving48.LAYOUT,
}

__all__ = ["LAYOUTS", "Found", "Layout"]
