"""The dependency rule of ARCHITECTURE.md, held by reading the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, ROOT

PACKAGE = ROOT / "videomem"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A module may import what stands in the layers below its own, and in its own room.
LAYERS = [
    {"errors", "batch"},
    {"video", "heads", "plain", "whole_files", "statistics"},
    {"features", "classifier", "processes"},
    {"loading"},
    {"data"},
    {"checkpoint"},
    {"model", "evaluation"},
    {"order", "tracking"},
    {"horizon"},
    {"report"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

# Each outside library that needs care is touched in one place.
ONLY_IN = {
    "decord": {"video/decoders/by_decord.py"},
    "torchcodec": {"video/decoders/by_torchcodec.py"},
    "av": {f"video/{name}.py" for name in ("decoders/stream", "decoders/by_pyav", "decoders/overhearing", "writing")},
    "PIL": {"video/decoders/frame_folder.py", "report/strips.py"},
    "wandb": {f"tracking/{name}.py" for name in ("runs", "artifacts", "results")},
    "sqlite3": {"features/keys.py"},
    "safetensors": {"features/store.py", "features/arrays.py", "model/folder.py", "model/stream.py"},
    "h5py": {"features/arrays.py"},
    "pyarrow": {"video/catalog.py"},
    "onnx": {"model/onnx_export.py"},
    "onnxruntime": {"model/onnx_export.py"},
    "onnxscript": {"model/onnx_export.py"},
    "matplotlib": {
        "evaluation/plots.py",
        "report/drawing.py",
        "report/figures.py",
        "report/figures_by_class.py",
        "report/memory_figures.py",
        "report/inside_figure.py",
        "report/tour_figures.py",
    },
    "jinja2": {"report/page.py"},
    "scipy": {f"statistics/{name}.py" for name in ("variance", "classes", "planning", "horizons")},
    "sklearn": {"horizon/probe.py"},
    "statsmodels": {f"statistics/{name}.py" for name in ("randomization", "classes")},
}


def imports(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in it, but for type checkers only."""
    tree = ast.parse(path.read_text())
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    return module.removeprefix("videomem").lstrip(".").split(".")[0]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    own = relative(path).removesuffix(".py").split("/")[0]
    for module in imports(path):
        other = room(module)
        if not module.startswith("videomem.") or other == own or other not in LEVEL:
            continue
        assert LEVEL[other] < LEVEL[own], f"{relative(path)} ({own}) imports {module} ({other})"


@pytest.mark.parametrize(
    ("who", "never"),
    [
        ("heads", "video"),
        ("heads", "features"),
        ("classifier", "video"),
        ("classifier", "features"),
        ("video", "heads"),
    ],
)
def test_rooms_that_must_not_know_each_other(who: str, never: str) -> None:
    for path in SOURCES:
        if relative(path).removesuffix(".py").split("/")[0] == who:
            assert not any(room(module) == never for module in imports(path) if module.startswith("videomem."))


def test_videos_are_read_without_torch() -> None:
    for path in (PACKAGE / "video").rglob("*.py"):
        assert not any(module.split(".")[0] in ("torch", "torchvision") for module in imports(path)), path


@pytest.mark.parametrize("library", ONLY_IN)
def test_an_outside_library_is_touched_in_one_room(library: str) -> None:
    users = {relative(path) for path in SOURCES if any(m.split(".")[0] == library for m in imports(path))}
    assert users == ONLY_IN[library]


def test_every_room_has_its_layer() -> None:
    assert {relative(path).removesuffix(".py").split("/")[0] for path in SOURCES} == set(LEVEL)


def test_documents_name_files_that_are_there() -> None:
    for document in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for word in (ROOT / document).read_text().replace("`", " ").replace("(", " ").replace(")", " ").split():
            word = word.rstrip(".,;:")
            if (
                word.startswith(("videomem/", "configs/", "tests/", "scripts/", "benchmarks/", "docs/"))
                and "<" not in word
            ):
                assert (ROOT / word).exists() or list(ROOT.glob(word)), f"{document} names {word}"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_configs_have_only_sections_of_the_command_line(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if path.name == "sweep.yaml":  # Of `wandb sweep`: its parameters are the command line's.
        content = {name.split(".")[0] for name in content["parameters"]}
    assert set(content) <= {"seed_everything", "data", "model", "trainer", "order"}
