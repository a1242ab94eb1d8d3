"""List or download the wheels for `benchmarks/gpu.py --wheels`, for a machine with torch but without a package index.

    python benchmarks/gpu_wheels.py                                   # list them
    python benchmarks/gpu_wheels.py --download wheels --limit-mib 60  # download as many as fit, required ones first
    pip freeze > there.txt                                            # on that machine; then copy the file here
    python benchmarks/gpu_wheels.py --present there.txt ...           # leave out installed packages

Run it in an environment where videomem is installed with its tests (`make test` creates one in .venv). The list has the
packages required by videomem and its tests, in the versions of this environment, without those present on the other
machine and their requirements. Without --present, PyTorch, Lightning and common scientific packages are assumed to be
present. Packages that do not fit are listed, with the parts of `benchmarks/gpu.py` that are skipped without them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRESENT = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "safetensors", "scipy", "numpy", "h5py",
           "matplotlib", "jinja2", "onnx")  # fmt: skip
# In order of importance, with the parts that are skipped without them. Their requirements are added.
NEEDED = {
    "av": "storage, fit, video, order, graphs, streams, extraction, epochs: all that use the data module",
    "jsonargparse[signatures]": "the same",
    "rich": "the same",
    "pytest": "tests",
    "pytest-xdist": "tests",
    "pytest-timeout": "tests",
    "hypothesis": "tests",
    "statsmodels": "tests of the order test",
    "wandb": "tests of the command line of fit",
    "scikit-learn": "nothing that needs a GPU",
    "pyarrow": "nothing that needs a GPU",
    "decord": "nothing that needs a GPU",
    "onnxscript": "ONNX graphs in graphs",
    "onnxruntime": "ONNX graphs in graphs; the usual wheel has no CUDA",
}
GLIBC = (5, 12, 17, 24, 27, 28, 31, 34, 35, 39)  # pip matches platform tags only exactly.


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--present", type=Path, help="`pip freeze` or `pip list --format freeze` of the other machine")
    options.add_argument("--python", default="3.12", help="Python version of the other machine")
    options.add_argument("--download", type=Path, metavar="FOLDER", help="download the wheels into this folder")
    options.add_argument("--limit-mib", type=float, default=60.0, help="maximum total size of the wheels")
    given = options.parse_args()
    lines = given.present.read_text().splitlines() if given.present else PRESENT
    present = {canonicalize_name(re.split(r"[=<>@ ;\[]", line.strip())[0]) for line in lines if line.strip()}
    listed: set[str] = set()
    left, left_out = given.limit_mib * 2**20, []
    for name, without in NEEDED.items():
        wanted = [pin for pin in closure(Requirement(name), present, given.python) if pin not in listed]
        if given.download is None:
            print(*wanted, sep="\n", end="\n" if wanted else "")
            listed |= set(wanted)
            continue
        files = [download(pin, given.python, given.download) for pin in wanted]
        size = sum(file.stat().st_size for file in files)
        if size > left:
            for file in files:
                file.unlink()
            left_out.append(f"left out: {name} ({size / 2**20:.1f} MiB with what it requires); skipped: {without}")
            continue
        left -= size
        listed |= set(wanted)
    if given.download:
        used = given.limit_mib - left / 2**20
        print(f"{len(listed)} wheels, {used:.1f} of at most {given.limit_mib:g} MiB, in {given.download}")
        print(*left_out, sep="\n", end="\n" if left_out else "")
    return 0


def closure(requirement: Requirement, present: set[str], python: str) -> list[str]:
    """A package and its requirements as `name==version`, without present ones; requirements come last."""
    found: dict[str, str] = {}

    def visit(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        if name in present:
            return
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(
                f"gpu_wheels.py: {name} is not installed here; run `make test` and then .venv/bin/python"
            ) from None
        for line in installed.requires or []:
            needed = Requirement(line)
            known = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
            extras = [known | {"extra": extra} for extra in ("", *requirement.extras)]
            inner = canonicalize_name(needed.name)
            if (
                inner not in found
                and inner != name
                and (needed.marker is None or any(needed.marker.evaluate(each) for each in extras))
            ):
                visit(needed)
        found[name] = f"{name}=={installed.version}"

    visit(requirement)
    return list(found.values())


def download(pin: str, python: str, folder: Path) -> Path:
    """The wheel of a package for Linux on x86-64."""
    folder.mkdir(parents=True, exist_ok=True)
    name = canonicalize_name(pin.split("==")[0])
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += [f"--platform=manylinux{old}_x86_64" for old in ("1", "2010", "2014")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               f"--python-version={python}", "--implementation=cp", *platforms, "--dest", str(folder), pin]  # fmt: skip
    if subprocess.run(command, stderr=subprocess.PIPE, text=True).returncode:
        raise SystemExit(f"gpu_wheels.py: no wheel of {pin} for Python {python} on Linux x86-64")
    return next(file for file in folder.glob("*.whl") if canonicalize_name(file.name.split("-")[0]) == name)


if __name__ == "__main__":
    sys.exit(main())
