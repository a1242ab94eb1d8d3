"""The dependency rule of ARCHITECTURE.md, held by reading the imports."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, ROOT

from videomem.cli.main import COMMANDS

PACKAGE = ROOT / "videomem"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A module may import what stands in the layers below its own, and in its own package.
LAYERS = [
    {"errors", "batch"},
    {"utils"},
    {"video", "heads", "statistics"},
    {"features"},
    {"training"},
    {"inference", "tracking"},
    {"experiments"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}

# Within `experiments`: modules that experiments share, and the experiments, each of which may use those before it.
EXPERIMENTS = ["", "shuffle", "model_sensitivity", "order_test", "inspect", "memory_horizon"]

# Each outside library that needs care is touched in one package.
ONLY_IN = {
    "decord": "video/decoders/",
    "torchcodec": "video/decoders/",
    "av": "video/",
    "PIL": "video/decoders/ experiments/",
    "wandb": "tracking/",
    "jsonargparse": "cli/",  # It imports, reads and fetches what text names, so data must not reach it unchecked.
    "sqlite3": "features/",
    "safetensors": "features/ inference/",
    "h5py": "features/",
    "fsspec": "features/",
    "ray": "features/ utils/",
    "timm": "features/",
    "transformers": "features/",
    "huggingface_hub": "features/",
    "pyarrow": "video/",
    "onnx": "inference/",
    "onnxruntime": "inference/",
    "onnxscript": "inference/",
    "matplotlib": "experiments/ utils/",
    "jinja2": "experiments/",
    "scipy": "statistics/",
    "sklearn": "experiments/memory_horizon/ experiments/order_test/",
    "statsmodels": "statistics/",
}


def imports(path: Path, guarded: bool = False) -> set[str]:
    """Names of all modules that a file imports, wherever in it; those for type checkers only where asked for."""
    tree = ast.parse(path.read_text())
    left_out = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
        if not guarded
    }
    found = set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def package(module: str) -> str:
    return module.removeprefix("videomem").lstrip(".").split(".")[0]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_follow_one_direction(path: Path) -> None:
    own = relative(path).removesuffix(".py").split("/")[0]
    for module in imports(path):
        other = package(module)
        if not module.startswith("videomem.") or other == own or other not in LEVEL:
            continue
        assert LEVEL[other] < LEVEL[own], f"{relative(path)} ({own}) imports {module} ({other})"


@pytest.mark.parametrize(
    ("who", "never"),
    [
        ("heads", "video"),
        ("heads", "features"),
        ("video", "heads"),
        ("statistics", "heads"),
    ],
)
def test_packages_that_must_not_know_each_other(who: str, never: str) -> None:
    for path in SOURCES:
        if relative(path).removesuffix(".py").split("/")[0] == who:
            assert not any(package(module) == never for module in imports(path) if module.startswith("videomem."))


def test_the_lightning_module_knows_neither_videos_nor_where_features_come_from() -> None:
    known = {package(module) for module in imports(PACKAGE / "training" / "lit_classifier.py")}
    assert not known & {"video", "features", "tracking", "experiments"}


def test_commands_write_to_the_terminal_through_one_module() -> None:
    for path in SOURCES:
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        names = {ast.unparse(function) for function in calls}
        if relative(path) not in ("cli/terminal.py", "utils/result_models.py"):  # The latter writes a schema.
            assert not names & {"print", "Console", "rich.print"}, relative(path)


def test_no_command_imports_another() -> None:
    commands = {f"videomem.cli.{command.module}" for command in COMMANDS.values()}
    for path in (PACKAGE / "cli").glob("*.py"):
        assert not imports(path, guarded=True) & commands, path


def experiment(path: Path) -> str:
    parts = path.relative_to(PACKAGE / "experiments").parts
    return parts[0] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", sorted((PACKAGE / "experiments").rglob("*.py")), ids=relative)
def test_experiments_use_what_they_share_and_those_before_them(path: Path) -> None:
    own = experiment(path)
    for module in imports(path):
        source = PACKAGE.parent / (module.replace(".", "/") + ".py")
        if module.startswith("videomem.experiments.") and source.is_file():
            other = experiment(source)
            assert other == own or EXPERIMENTS.index(other) < EXPERIMENTS.index(own), f"{relative(path)}: {module}"


def test_there_are_no_import_cycles() -> None:
    """Between modules, counting imports within functions and those for type checkers too."""
    names = {"videomem." + relative(path).removesuffix(".py").replace("/", "."): path for path in SOURCES}
    graph = {name: imports(path, guarded=True) & names.keys() - {name} for name, path in names.items()}
    TopologicalSorter(graph).prepare()  # Raises CycleError, which names the circle.


def test_base_names_of_modules_are_unique_but_for_commands() -> None:
    """A command's module has the command's name, whatever else has it."""
    names = Counter(path.name for path in SOURCES if path.name != "__init__.py" and path.parent.name != "cli")
    assert [name for name, count in names.items() if count > 1] == []


def test_videos_are_read_without_torch() -> None:
    for path in (PACKAGE / "video").rglob("*.py"):
        assert not any(module.split(".")[0] in ("torch", "torchvision") for module in imports(path)), path


@pytest.mark.parametrize("library", ONLY_IN)
def test_an_outside_library_is_touched_in_one_package(library: str) -> None:
    users = {relative(path) for path in SOURCES if any(m.split(".")[0] == library for m in imports(path))}
    assert users and all(user.startswith(tuple(ONLY_IN[library].split())) for user in users), users


def test_every_package_has_its_layer() -> None:
    assert {relative(path).removesuffix(".py").split("/")[0] for path in SOURCES} == set(LEVEL)


def test_documents_name_existing_files() -> None:
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
    assert set(content) <= {"seed", "data", "model", "trainer", "order"}


@pytest.mark.parametrize("folder", ["benchmarks", "scripts", "tests"])
def test_names_imported_from_the_package_exist(folder: str) -> None:
    """Imports within functions, too, which fail only when the function runs."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("videomem"):
                module = import_module(node.module or "")
                for alias in node.names:
                    is_module = find_spec(f"{node.module}.{alias.name}") if hasattr(module, "__path__") else None
                    assert hasattr(module, alias.name) or is_module, f"{path}: {node.module}.{alias.name}"


def test_names_that_benchmarks_share_exist() -> None:
    trees = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "benchmarks").glob("*.py")}
    defined = {
        name: {
            node.id
            if isinstance(node, ast.Name)
            else node.name
            if not isinstance(node, ast.alias)
            else node.asname or node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias)
            or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        }
        for name, tree in trees.items()
    }
    for path, tree in trees.items():
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in defined:
                missing = {alias.name for alias in node.names} - defined[node.module]
                assert not missing, f"{path}: {node.module} lacks {missing}"
            elif isinstance(node, ast.Import):
                modules |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in defined}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert node.attr in defined[modules[node.value.id]], f"{path}: {node.value.id}.{node.attr}"
