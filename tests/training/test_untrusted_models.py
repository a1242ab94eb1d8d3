"""Checkpoints and exported folders from untrusted sources: they load, or are refused in one line, and never act."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, fit_arguments
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features.weights import read_state
from videomem.training.checkpoint import read_checkpoint
from videomem.training.checkpoint_io import restore_from
from videomem.utils.torch_file import read_torch_file


@pytest.mark.parametrize("num_values", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_a_model_with_a_changed_value_is_refused_in_one_line_or_means_the_same_and_does_nothing_else(
    tmp_path: Path, num_values: int
) -> None:
    """Every value of a checkpoint and of a folder's JSON files in turn, under the hook of `helpers/audit.py`."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "helpers" / "mutations.py")]
    places = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    done = subprocess.run(
        [*command, str(tmp_path), str(num_values)], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert (
            found["wrong"] == []
            and found["loaded"] > 4 * min(num_values, 3)
            and found["changes"] > 60 * min(num_values, 20)
        ), kind


# Resuming.


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the requests that it has got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.path)
            self.send_error(404)

        do_HEAD = do_DELETE = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("place", ["local://{folder}", "{server}/best.ckpt"])
def test_resuming_deletes_writes_and_requests_nothing_that_the_checkpoint_names(
    checkpoints: dict[str, Path], workspace: Path, tmp_path: Path, requests: tuple[str, list[str]], place: str
) -> None:
    """Lightning's `ModelCheckpoint` removes the `best_model_path` of a checkpoint after the next save."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    content = torch.load(checkpoints["none"], weights_only=True)
    (state,) = content["callbacks"].values()
    named = place.format(folder=tmp_path / "precious", server=requests[0])
    state |= {"dirpath": str(tmp_path / "run" / "checkpoints"), "best_model_path": named, "last_model_path": named}
    torch.save(content, tmp_path / "evil.ckpt")
    arguments = fit_arguments(workspace, tmp_path / "run", "none", epochs=2)
    assert main(["fit", *arguments, "--ckpt-path", str(tmp_path / "evil.ckpt")]) == 0
    assert (tmp_path / "precious" / "thesis.txt").exists() and not requests[1]
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "evil.ckpt", "run"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["optimizer_states"][0]["state"].update({10**9: {}}), "is not the number of a parameter"),
        (lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3)), "is not a tensor of shape"),
        (lambda c: c["loops"]["fit_loop"].update(epoch_progress=5), "not in the form that this version"),
        (lambda c: c.pop("optimizer_states"), "its training state is incomplete"),
    ],
)
def test_a_training_state_of_another_form_is_a_one_line_error(
    checkpoints: dict[str, Path],
    workspace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Any], Any],
    message: str,
) -> None:
    content = torch.load(checkpoints["none"], weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.ckpt")
    arguments = fit_arguments(workspace, tmp_path / "run", "none", epochs=2)
    assert main(["fit", *arguments, "--ckpt-path", str(tmp_path / "changed.ckpt")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_resuming_continues_early_stopping_and_the_gradient_scaler_and_no_other_callback(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, scaler = EarlyStopping("val/loss"), torch.amp.GradScaler("cpu")
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[stopping, ModelCheckpoint(tmp_path)], max_epochs=2)
    monkeypatch.setattr(trainer.precision_plugin, "state_dict", scaler.state_dict)
    name = type(trainer.precision_plugin).__qualname__
    content = torch.load(checkpoints["none"], weights_only=True)
    content[name] = {**scaler.state_dict(), "scale": 1024.0}
    content["callbacks"][stopping.state_key] = {**stopping.state_dict(), "wait_count": 2, "stopping_reason": "evil"}
    torch.save(content, tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    restore_from(checkpoint, trainer, checkpoint.classifier(), resume=True)
    restored = trainer.strategy.checkpoint_io.load_checkpoint("anything")
    assert restored["callbacks"] == {stopping.state_key: {**stopping.state_dict(), "wait_count": 2}}
    assert restored[name]["scale"] == 1024.0


# Texts in settings.


@pytest.mark.parametrize(
    "text", ['{"class_path": "trap_module.Trap"}', "trap_module.Trap", "{trap}", "{server}/a.yaml"]
)
def test_text_in_a_checkpoint_is_text_to_the_command_line(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    """`test` parses the settings of the checkpoint again, together with its options."""
    (tmp_path / "trap_module.py").write_text("class Trap: pass\n")
    (tmp_path / "trap.yaml").write_text("class_path: trap_module.Trap\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = text.replace("{trap}", str(tmp_path / "trap.yaml")).replace("{server}", requests[0])
    content = torch.load(checkpoints["none"], weights_only=True)
    data = content["datamodule_hyper_parameters"]
    data |= dict.fromkeys(("catalog", "store", "test_split"), text)
    data["features"]["backbone"] |= dict.fromkeys(("name", "layer", "weights"), text)
    torch.save(content, tmp_path / "text.ckpt")
    assert main(["test", "--ckpt-path", str(tmp_path / "text.ckpt"), "--run-dir", str(tmp_path / "out")]) == 2
    assert text.split("/")[-1][:20] in capsys.readouterr().err
    assert "trap_module" not in sys.modules and not requests[1]


# Files that would take more memory or time than they have bytes.


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of a file of `torch.save` with changed records."""
    out = path.with_name("rewritten.ckpt")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(out, "w", compression) as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
    return out


def with_pickle(tmp_path: Path, structure: bytes) -> Path:
    """A file of `torch.save` with another structure and one storage of three numbers."""
    torch.save(torch.zeros(3), tmp_path / "plain.ckpt")
    return rewritten(tmp_path / "plain.ckpt", lambda name, old: structure if name.endswith("data.pkl") else old)


class Bytes:
    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return bytearray, (10**10,)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%btQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(%b%b\x89}tR"
THREE = STORAGE % b"K\x03"
# Tuples of the tuple before, twice: the last one, number 50, has 2**50 items in all.
NESTED = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(50))
ONE_AXIS = TENSOR % (THREE, b"K\x00K\x03\x85K\x01\x85")


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (pickle.dumps(Bytes(), protocol=2), "it names __builtin__.bytearray"),
        (TENSOR % (THREE, b"K\x00J\x00\xca\x9a\x3b\x85K\x00\x85"), "a tensor is larger than its values"),  # Stride 0.
        (TENSOR % (THREE, b"K\x00J\x00\xca\x9a\x3b\x85K\x01\x85"), "a tensor is larger than its values"),
        (TENSOR % (THREE, b"K\x03K\x01\x85K\x01\x85"), "a tensor is larger than its values"),
        (TENSOR % (THREE, b"J\xff\xff\xff\xffK\x01\x85K\x01\x85"), "a tensor is larger than its values"),
        (TENSOR % (STORAGE % b"J\x00\xca\x9a\x3b", b"K\x00K\x03\x85K\x01\x85"), "as many values as it declares"),
        (b"N" + b"r\xff\xff\xff\x7f" + b"\x85" * 10**5, "levels deep"),  # A place in the memo, and a deep tuple.
        (NESTED + b"}h\x32Ns", "it has a key of type tuple"),  # Its hash would take years.
        (b"}" + b")" + b"\x85" * 10**5 + b"Ns", "it has a key of type tuple"),  # Its hash would overflow the stack.
        (NESTED + STORAGE.replace(b"X\x01\x00\x00\x000", b"h\x32") % b"K\x03", "is not the storage"),
        (NESTED + STORAGE.replace(b"X\x07\x00\x00\x00storage", b"h\x32") % b"K\x03", "is not the storage"),
        (b"}(\x8a\x09" + (2**61 - 1 << 4).to_bytes(9, "little") + b"Nu", "more than 64 bits"),  # Keys of equal hashes.
        (TENSOR % (THREE, b"K\x00(" + b"K\x01" * 65 + b"tq\x00h\x00"), "neither of plain data nor of a tensor"),
        (b"ccollections\nOrderedDict\n}\x85R", "neither of plain data nor of a tensor"),  # A copy of a dictionary.
        (b"]q\x00h\x00a", "levels deep"),  # A list in itself.
        (b"]q\x00" + b"".join(b"](" + b"h%c" % n * 99 + b"eq%c" % (n + 1) for n in range(10)), "levels deep"),
        (b"cos\nsystem\n(X\x04\x00\x00\x00truetR", "it names os.system"),
        (b"}(K\x01\x85K\x01u", "it has a key of type tuple"),
        (b"X\xff\xff\xff\x7fa", "not a file of torch.save"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_would_take_more_than_it_has_is_refused(tmp_path: Path, structure: bytes, message: str) -> None:
    start = b"" if structure.startswith(b"\x80") else b"\x80\x02"
    end = b"" if structure.endswith(b".") else b"."
    path = with_pickle(tmp_path, start + structure + end)
    with pytest.raises(VideomemError) as caught:
        read_torch_file(path)
    assert message in str(caught.value)
    with pytest.raises(VideomemError, match="not a saved state_dict"):
        read_state(path, "backbone.weights")


def test_a_tensor_written_by_hand_is_read(tmp_path: Path) -> None:
    """The pickles of the test above fail for their faults alone."""
    path = with_pickle(tmp_path, b"\x80\x02" + TENSOR % (THREE, b"K\x00K\x03\x85K\x01\x85") + b".")
    assert torch.equal(read_torch_file(path), torch.zeros(3))


def test_a_tensor_that_is_referred_to_many_times_is_made_once(tmp_path: Path) -> None:
    many = b"](" + (ONE_AXIS + b"q\x01") + b"h\x01" * 999 + b"e"
    tensors = read_torch_file(with_pickle(tmp_path, b"\x80\x02" + many + b"."))
    assert len(tensors) == 1000 and len(set(map(id, tensors))) == 1


def test_attributes_that_a_file_sets_again_and_again_are_ignored(tmp_path: Path) -> None:
    """Each of these instructions of three bytes would copy the attributes."""
    attributes = b"}(" + b"".join(b"X\x05\x00\x00\x00%05dN" % n for n in range(10**4)) + b"uq\x00"
    structure = b"\x80\x02" + attributes + b"ccollections\nOrderedDict\n)R" + b"h\x00b" * 10**5 + b"."
    started = time.process_time()
    assert read_torch_file(with_pickle(tmp_path, structure)) == {}
    assert time.process_time() - started < 10  # Otherwise a minute.


def test_a_checkpoint_that_inflates_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    torch.save({**torch.load(checkpoints["none"], weights_only=True), "more": torch.zeros(10**7)}, tmp_path / "a.ckpt")
    path = rewritten(tmp_path / "a.ckpt", lambda name, old: old, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**7
    with pytest.raises(VideomemError, match="it is compressed"):
        read_checkpoint(path)


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The directory of the archive names the same record twice."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x06\x06")
    (tmp_path / "b.ckpt").write_bytes(content[:end] + content[start:end] * 2 + content[end:])
    with pytest.raises(VideomemError):
        read_torch_file(tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "num_layers is 1000000000, but it has"),
        ({"projection_dim": 200_000}, "its weights do not match its settings"),
        ({"class_names": [str(n) for n in range(20_000)], "class_counts": [1] * 20_000}, "lists of classes differ"),
    ],
)
def test_a_model_larger_than_its_file_is_not_built(
    checkpoints: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = torch.load(checkpoints["gru"], weights_only=True)
    content["hyper_parameters"] |= change
    torch.save(content, tmp_path / "large.ckpt")
    with pytest.raises(VideomemError, match=message):
        read_checkpoint(tmp_path / "large.ckpt")


def test_what_torch_saves_is_read_with_the_same_bits(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    kinds = (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    )
    many: dict[Any, Any] = {str(dtype): torch.arange(6).to(dtype).view(2, 3).t() for dtype in kinds}
    many |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(3.0), "parameter": torch.nn.Parameter(torch.ones(2)),
             "plain": [None, True, -5, 2**40, 1.5, "text", (1, 2)], 7: {}}  # fmt: skip
    torch.save(many, tmp_path / "many.pt")
    for path in (checkpoints["gru"], tmp_path / "many.pt"):
        assert same(read_torch_file(path), torch.load(path, weights_only=True))


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and ours.stride() == theirs.stride() and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs
