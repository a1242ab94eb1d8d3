"""The distributions: what they contain, what they require, and the container image."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT
from hatchling.build import build_sdist, build_wheel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from twine.commands.check import check

from videomem.errors import VideomemError
from videomem.features.arrays import open_source
from videomem.inference.onnx_graphs import onnx_libraries
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import read_catalog, write_catalog

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SDIST = SETTINGS["project"], SETTINGS["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
    if name not in ("docs", "dev")
}
DECLARED = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]
REPOSITORY = PROJECT["urls"]["Repository"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        sdist = folder / build_sdist(str(folder))
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        patch.chdir(folder / sdist.name.removesuffix(".tar.gz"))
        yield sdist, folder / build_wheel(str(folder))


def files(folder: Path) -> set[str]:
    """Files of the source tree below a folder, or the file itself, relative to the root; without ignored ones."""
    found = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else [folder]
    names = {path.relative_to(ROOT).as_posix() for path in found if path.suffix != ".pyc" and path.exists()}
    if names and (ROOT / ".git").exists():
        ask = ["git", "check-ignore", "--stdin", "-z"]
        answer = subprocess.run(ask, cwd=ROOT, input="\0".join(names), capture_output=True, text=True, check=False)
        names -= set(answer.stdout.split("\0"))
    return names


def test_the_source_distribution_has_what_the_tests_need_and_nothing_else(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    made_while_building = {"PKG-INFO", "pyproject.toml", "LICENSE", ".gitignore"}
    assert names == made_while_building.union(*(files(ROOT / name) for name in SDIST))
    read_by_tests = {"README.md", "constraints.txt", "Makefile", "Dockerfile", "docs/api.md", "benchmarks/README.md"}
    assert read_by_tests <= names and not any(name.startswith((".ci", "shared", "runs")) for name in names)


def test_the_wheel_has_every_file_of_the_package_and_the_configs(built: tuple[Path, Path]) -> None:
    names = {name for name in ZipFile(built[1]).namelist() if ".dist-info/" not in name}
    assert names == files(ROOT / "videomem") | {f"videomem/{name}" for name in files(ROOT / "configs")}
    assert {"videomem/py.typed", "videomem/configs/base.yaml", "videomem/experiments/page.css"} <= names
    assert any(name.endswith(".jinja") for name in names)


def test_the_distributions_pass_the_check_of_the_package_index(built: tuple[Path, Path]) -> None:
    assert not check(list(map(str, built)), strict=True), "twine's `check` returns whether it failed"


def test_links_of_the_index_page_lead_to_files_of_the_repository(built: tuple[Path, Path]) -> None:
    metadata = next(name for name in ZipFile(built[1]).namelist() if name.endswith(".dist-info/METADATA"))
    page = message_from_bytes(ZipFile(built[1]).read(metadata)).get_payload()
    targets = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", page)
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com") + "/main/"
    for is_image, target in targets:
        start = raw if is_image else f"{REPOSITORY}/blob/main/"
        assert target.startswith(start) and (ROOT / target.removeprefix(start).split("#")[0]).is_file(), target
    assert len(targets) == len(re.findall(r"\]\(", (ROOT / "README.md").read_text())) > 10


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in DECLARED:
        if requirement.name != PROJECT["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


def test_libraries_of_extras_are_imported_only_where_they_are_used() -> None:
    """At the top of a module, only within `requires_extra`, which says what to install."""
    always = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    optional = {canonicalize_name(one.name) for extra in EXTRAS.values() for one in extra} - always
    modules = {
        module
        for module, owners in packages_distributions().items()
        if optional.intersection(map(canonicalize_name, owners))
    }
    assert {"pyarrow", "h5py", "onnx", "ray"} <= modules
    for path in (ROOT / "videomem").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {name.split(".")[0] for name in names} & modules, path


def test_every_extra_that_code_or_documents_name_exists() -> None:
    for path in (*(ROOT / "videomem").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for names in re.findall(r"(?:videomem\[|requires_extra\(\")([\w,]+)", path.read_text()):
            assert set(names.split(",")) <= PROJECT["optional-dependencies"].keys(), f"{path}: {names}"


def test_a_missing_extra_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for suffix in ("h5", "parquet", "arrow"):
        (tmp_path / f"made.{suffix}").touch()
    for module in ("arrow_catalog", "parquet_table"):
        monkeypatch.delitem(sys.modules, f"videomem.video.{module}", raising=False)
    for library in ("h5py", "pyarrow", "onnx"):
        monkeypatch.setitem(sys.modules, library, None)

    def missing(library: str, extra: str) -> pytest.RaisesExc[VideomemError]:
        return pytest.raises(VideomemError, match=rf"^.+ needs {library}; run `pip install 'videomem\[{extra}\]'`$")

    with missing("h5py", "hdf5"), open_source(tmp_path / "made.h5"):
        pass
    for suffix in ("parquet", "arrow"):
        with missing("pyarrow", "parquet"):
            read_catalog(tmp_path / f"made.{suffix}")
        with missing("pyarrow", "parquet"):
            write_catalog(Catalog((), ""), tmp_path / f"out.{suffix}")
        assert not (tmp_path / f"out.{suffix}").exists()
    with missing("onnx", "onnx"):
        onnx_libraries()


def test_the_image_has_the_pinned_versions_and_a_declared_python() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", text, re.MULTILINE))
    assert "FROM python:${PYTHON}-" in text and arguments["PYTHON"] in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {arguments['PYTHON']}" in PROJECT["classifiers"]
    assert set(arguments["EXTRAS"].split(",")) <= EXTRAS.keys()
    installs = re.findall(r"pip install [^&\n]+", text)
    assert len(installs) == 2 and all("--constraint constraints.txt" in install for install in installs)
    assert re.findall(r"^(?:USER|ENTRYPOINT) .+$", text, re.MULTILINE) == ["USER 1000", 'ENTRYPOINT ["videomem"]']


def test_what_the_image_copies_builds_the_same_wheel(
    built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert names == set(allowed)
    for name in names:
        for file in files(ROOT / name):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    again = ZipFile(tmp_path / build_wheel(str(tmp_path)))
    assert set(again.namelist()) == set(ZipFile(built[1]).namelist())
