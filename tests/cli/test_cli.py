"""The command line as a user meets it: help at once, one line for what is wrong, a status that says so."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, data_arguments, failed, fit_arguments
from pytorch_lightning import Trainer
from test_vocabulary import ALLOWED, RETIRED

import videomem
from videomem.cli.lightning_cli import UNUSED_BY
from videomem.cli.main import COMMANDS, main
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import write_catalog
from videomem.video.datasets import LAYOUTS


def test_help_names_every_command_there_is_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; started = time.perf_counter(); from videomem.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'av', 'decord', 'numpy', 'wandb', 'jsonargparse'} & set(sys.modules);"
        "assert not heavy, heavy; print('seconds', time.perf_counter() - started)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    for name, command in COMMANDS.items():
        assert f"  {name:<{max(map(len, COMMANDS))}}  {command.help}" in lines
        assert callable(import_module(f"videomem.cli.{command.module}").main)
    assert float(lines[-1].removeprefix("seconds ")) <= 0.6


SUBCOMMANDS = ["catalog build", "catalog check", *(f"catalog build {layout}" for layout in LAYOUTS)]
MOST_LINES = {"fit": 235, "order": 265, "validate": 155, "test": 155}  # on a terminal of 80 columns


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_help_is_plain(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Python's names of objects, defaults that say nothing, and words that the vocabulary has replaced."""
    monkeypatch.setenv("COLUMNS", "80")
    try:
        assert main([*command.split(), "--help"]) == 0
    except SystemExit as stop:
        assert not stop.code
    printed = capsys.readouterr().out
    assert f"videomem {command}" in printed and len(printed) > 200
    assert len(printed.splitlines()) <= MOST_LINES.get(command, 250)
    text = " ".join(printed.split())
    assert "--wandb" not in text or re.search(r"mode of the W&B run \(default: [\w ,]*offline", text)
    assert not re.findall(r"default: (?:None|null|<)|<(?:lambda>|function |class '|object )|\bat 0x|ignored here", text)
    assert not re.findall(rf"\b(?:{'|'.join(RETIRED)})(?:s|es)?\b", ALLOWED.sub("", text), re.IGNORECASE)


def test_help_of_fit_names_every_option_of_the_trainer_that_has_an_effect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    named = set(re.findall(r"--trainer\.(\w+)", capsys.readouterr().out))
    without_effect = {name.removeprefix("trainer.") for name in UNUSED_BY["fit"]}
    assert named == set(signature(Trainer).parameters) - without_effect


def test_the_installed_script_prints_its_version() -> None:
    script = Path(sys.executable).parent / "videomem"
    printed = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert printed == f"videomem {videomem.__version__}\n"


def test_an_error_is_one_line_on_stderr_and_a_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videomem", "catalog", "check", str(tmp_path / "none.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    error = f"videomem: error: {tmp_path / 'none.csv'}: no such table; `videomem catalog build` makes catalogs\n"
    assert done.stderr == error


def test_running_out_of_gpu_memory_is_a_one_line_error(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9")

    monkeypatch.setattr("videomem.cli.extract.extract", full)
    error = failed(capsys, "extract", *data_arguments(workspace))
    assert error.startswith("videomem: error: CUDA out of memory. Tried to allocate 2.00 GiB; lower data.batch_size")


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr("videomem.cli.main._main", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        main(["extract"])


@pytest.mark.parametrize("arguments", [["frobnicate"], ["Fit"], ["--frobnicate"]])
def test_an_unknown_command_is_an_error_that_lists_the_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a command of videomem; it has demo, configs, catalog" in failed(capsys, *arguments)


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: videomem COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shuffle"], "see `videomem shuffle --help`"),
        (["shuffle", "x.ckpt", "--permutations", "0"], "--permutations is 0, but must be at least 1"),
        (["synthesize"], "the following arguments are required: --out"),
        (["synthesize", "--out", ".", "--num-frames", "15"], "num_frames is 15, but must be even"),
        (["test"], "needs --ckpt-path"),
    ],
)
def test_invalid_options_of_commands_are_a_one_line_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in failed(capsys, *arguments)


def extract(workspace: Path, *options: object) -> list[str]:
    return ["extract", *data_arguments(workspace), "--workers", "0", *map(str, options)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data.features.backbone.layer", "fc9"],
            "backbone.layer is 'fc9', which alexnet does not have; try pool5, fc6",
        ),
        (["--data.features.backbone.name", "nonet"], "backbone.name is 'nonet'"),
        (["--data.features.backbone.weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--data.features.sampling.num_frames", "1"], "sampling.num_frames is 1, but order needs at least 2 frames"),
        (["--data.catalog", "nowhere.csv"], "no such table"),
        (["--data.features.decoder", "vlc"], "data.features.decoder"),
        (["--data.batch_size", "0"], "data.batch_size is 0"),
        (
            ["--data.features.sampling", "Unifrm"],
            "is 'Unifrm', which is not a known class; choose one of FixedRate, Un",
        ),
        (["--data.features.sampling", "videomem.video.sampling.Unifrm"], "known class; choose one of FixedRate, Un"),
        (["--data.typo", "1"], "typo"),
        (["--data", "nowhere.yaml"], "--data nowhere.yaml: no such file"),
        (["--config", "nowhere/x.yaml"], "nowhere/x.yaml: no such file; `videomem configs` copies backbone/clip.yaml"),
        (
            ["--config", CONFIGS / "head" / "gur.yaml"],
            "gur.yaml: no such file; the folder has attention.yaml, best_frame.yaml, conv.yaml",
        ),
        (["--config", CONFIGS / "head"], "head: not a file; the folder has attention.yaml, best_frame.yaml, conv.yaml"),
    ],
)
def test_an_invalid_data_setting_is_a_one_line_error(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[object], message: str
) -> None:
    assert message in failed(capsys, *extract(workspace, *options))
    head = ["--config", CONFIGS / "head" / "none.yaml"]
    assert message in failed(capsys, "fit", *data_arguments(workspace), *head, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.memory.alpha", "2"], "memory.alpha is 2.0, but must be in [0, 1]"),
        (
            ["--model.memory", "Elephant"],
            "model.memory is 'Elephant', which is not a known class; choose one of GRU, Ga",
        ),
        (["--model.memory", "videomem.heads.Gruu"], "'videomem.heads.Gruu', which is not a known class; choose one of"),
        (["--model.memory", "nowhere.GRU"], "'nowhere.GRU', which is not a known class; choose one of GRU"),
        (
            ["--model.memory", "videomem.heads.MeanReadout"],
            "MeanReadout', which is not a subclass of Memory; choose one",
        ),
        (["--model.memory.typo", "1"], "model.memory: 'typo' is not accepted by Leaky; --model.memory.help Leaky"),
        (["--model.readout.hidden_dim", "8"], "model.readout: 'hidden_dim' is not accepted by MeanReadout"),
        (["--model.readout", "SetReadout", "--model.readout.hidden_dim", "0"], "readout.hidden_dim is 0, but must be"),
        (["--model.readout", "videomem.heads.Mean"], "is not a known class; choose one of AttentionReadout, Be"),
        (["--trainer.logger", "Csv"], "trainer.logger is 'Csv', which is not a known class; choose one of AtomicCSVL"),
        (["--trainer.callbacks", "videomem.tracking.X"], "which is not a known class; choose one of"),
        (
            ["--trainer.default_root_dir", "x"],
            "default_root_dir is x, but it has no effect on `videomem fit`: set --run",
        ),
        (["--model.num_layers", "0"], "model.num_layers is 0"),
        (["--model.learning_rate", "-1"], "model.learning_rate is -1.0"),
    ],
)
def test_an_invalid_model_setting_is_a_one_line_error(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run", "leaky"), *options)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_value_of_the_wrong_type_is_answered_with_the_right_types(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(workspace, tmp_path / "run", "leaky")
    for option, value, kinds in (
        ("trainer.max_epochs", "many", "an integer or null"),
        ("trainer.gradient_clip_val", "x", "a number or null"),
        ("data.storage", "disk", "mmap, ram, device"),
        ("model.memory.alpha", "x", "a number"),
    ):
        answer = failed(capsys, "fit", *arguments, f"--{option}", value)
        assert answer == f"videomem: error: {option} is {value}, but must be {kinds}"


def test_unavailable_devices_and_workers_are_a_one_line_error(
    workspace: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--workers is -1" in failed(capsys, *extract(workspace, "--workers", "-1"))
    assert "--time-limit is 0.0, but must be above 0" in failed(capsys, *extract(workspace, "--time-limit", "0"))
    assert "--device banana" in failed(capsys, *extract(workspace, "--device", "banana"))
    assert "--device banana" in failed(capsys, "shuffle", checkpoints["gru"], "--device", "banana")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.accelerator", "banana"], "banana"),
        (["--trainer.devices", "0"], "devices"),
        (["--trainer.max_epochs", "0"], "nothing was trained: trainer.max_epochs is 0"),
        (["--seed", "-1"], "-1"),
        (["--ckpt", "none.ckpt"], "ckpt"),
        (["--run-dir", __file__], "test_cli.py"),
    ],
)
def test_an_invalid_training_setting_is_a_one_line_error(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run"), *options)
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run")]) == 0, "a failed run must not block its retry"


def test_a_finished_run_has_nothing_to_resume_and_another_model_does_not_fit(
    workspace: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*fit_arguments(workspace, tmp_path / "run"), "--ckpt-path", checkpoints["gru"]]
    assert "nothing was trained: trainer.max_epochs is 1" in failed(capsys, "fit", *arguments)
    wider = ["--trainer.max_epochs", "2", "--model.memory.hidden_dim", "64"]
    assert "its weights are of another model" in failed(capsys, "fit", *arguments, *wider)


def test_a_file_in_place_of_a_folder_is_a_one_line_error(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for arguments in (
        ["synthesize", "--out", file],
        ["synthesize", "--out", file / "below"],
        ["demo", "--out", file],
        ["export", checkpoints["gru"], "--out", file],
        ["shuffle", checkpoints["gru"], "--out", file],
        ["catalog", "check", tmp_path],
    ):
        assert failed(capsys, *arguments).startswith("videomem: error: ")


def test_a_damaged_store_is_named(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(workspace / "features", tmp_path / "features")
    arguments = [*fit_arguments(workspace, tmp_path / "run"), "--data.store", tmp_path / "features"]
    for shard in (tmp_path / "features").rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    assert "a damaged shard" in failed(capsys, "fit", *arguments)
    for plan in (tmp_path / "features").rglob("plan/*.json"):
        plan.write_text("{")
    assert "damaged" in failed(capsys, "fit", *arguments)


def test_moved_data_can_be_named_again_and_export_needs_no_data(
    workspace: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    content = torch.load(checkpoints["gru"], weights_only=True)
    content["datamodule_hyper_parameters"].update(catalog="/gone/catalog.csv", store="/gone/features")
    torch.save(content, tmp_path / "moved.ckpt")
    moved, out = str(tmp_path / "moved.ckpt"), str(tmp_path / "out")
    now = ["--catalog", str(workspace / "videos" / "catalog.csv"), "--store", str(workspace / "features")]
    assert main(["shuffle", moved, "--permutations", "1", "--out", out, "--wandb", "disabled", *now]) == 0
    assert main(["export", moved, "--out", str(tmp_path / "exported")]) == 0


def test_a_checkpoint_named_in_a_config_is_used(
    workspace: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "resume.yaml"
    config.write_text(f"ckpt_path: {checkpoints['gru']}\n")
    arguments = [*fit_arguments(workspace, tmp_path / "run"), "--config", config]
    assert "give it as --ckpt-path" in failed(capsys, "fit", *arguments)


def test_a_runs_own_config_serves_extract(workspace: Path, checkpoints: dict[str, Path]) -> None:
    assert main(["extract", "--config", str(checkpoints["gru"].parent.parent / "config.yaml"), "--workers", "0"]) == 0


def test_features_that_were_not_extracted_are_asked_for(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(workspace, tmp_path / "run")
    message = failed(capsys, "fit", *arguments, "--data.features.backbone.layer", "fc7")
    assert (
        "no features of these settings; the most similar store there has" in message
        and "run `videomem extract`" in message
    )
    assert "no features of these settings; run" in failed(capsys, "fit", *arguments, "--data.store", tmp_path / "empty")


def test_videos_that_fail_are_named_and_the_status_says_so(
    workspace: Path, catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [clip for label in ("grow", "shrink") for clip in catalog.clips if clip.label == label]
    copies = [
        replace(clip, path=str(shutil.copy(clip.path, tmp_path / f"{number}.mp4"))) for number, clip in enumerate(clips)
    ]
    (tmp_path / "0.mp4").write_bytes(b"not a video")
    (tmp_path / "5.mp4").unlink()  # The partner of the first.
    write_catalog(Catalog(tuple(copies)), tmp_path / "catalog.csv")
    options = ["--data.catalog", tmp_path / "catalog.csv", "--data.store", tmp_path / "features"]
    assert main(extract(workspace, *options)) == 1
    captured = capsys.readouterr()
    assert f"{len(clips) - 2} clips extracted" in captured.out and "2 failed" in captured.out
    assert "0.mp4: not decodable" in captured.err and "5.mp4: No such file" in captured.err
    assert main(extract(workspace, *options, "--allow-failures")) == 0
    shutil.copy(clips[5].path, tmp_path / "5.mp4")
    capsys.readouterr()
    assert main(extract(workspace, *options, "--retry-failed")) == 1
    assert "1 clips extracted" in capsys.readouterr().out
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run", "none"), *map(str, options)]) == 0
    assert "2 of 10 clips are excluded" in capsys.readouterr().err


def test_online_tracking_without_a_key_is_a_one_line_error(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    logger = '{"class_path": "videomem.tracking.WandbLogger", "init_args": {"mode": "online"}}'
    arguments = fit_arguments(workspace, tmp_path / "run")
    message = failed(capsys, "fit", *arguments, "--trainer.logger", logger)
    assert "W&B mode is online" in message and "set the mode to offline" in message


@pytest.mark.slow
def test_help_of_fit_is_quick_enough_to_be_used() -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "videomem", "fit", "--help"], capture_output=True, text=True, check=True
    )
    assert "--model.memory" in done.stdout and "--data.features.sampling" in done.stdout
    assert time.perf_counter() - started < 120


def test_the_script_calls_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = CONFIGS.parent / "scripts" / "shuffle_ablation.py"
    monkeypatch.setattr(sys, "argv", [str(script), "none.ckpt"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2 and capsys.readouterr().err == "videomem: error: none.ckpt: no such checkpoint\n"
    assert len(script.read_text().splitlines()) <= 30


@pytest.mark.parametrize("command", ["extract", "predict", "sensitivity", "catalog check"])
def test_a_time_limit_without_workers_is_refused(
    command: str, workspace: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = workspace / "videos" / "catalog.csv"
    arguments = {
        "extract": data_arguments(workspace),
        "predict": ["video.mp4", "--model", checkpoints["gru"]],
        "sensitivity": ["--model", "r3d_18", "--weights", "random", "--catalog", table],
        "catalog check": [table],
    }[command]
    options = [*command.split(), *arguments, "--workers", "0", "--time-limit", "5"]
    assert failed(capsys, *options).startswith("videomem: error: --time-limit has no effect with --workers 0; ")


@pytest.mark.parametrize(
    ("command", "options", "key"),
    [
        ("fit", ["--trainer.max_epochs", "1_0"], "trainer.max_epochs"),
        ("fit", ["--seed", "1_0"], "--seed"),
        ("order", ["--order.runs", "1_0"], "order.runs"),
        ("order", ["--config", "settings.yaml"], "order.runs"),
    ],
)
def test_an_integer_of_a_config_is_written_in_digits(
    command: str, options: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("order:\n  runs: 1_0\n")
    error = failed(capsys, command, "--config", CONFIGS / "base.yaml", *options)
    assert key in error and "1_0" in error and "int" in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["predict", "a.mp4", "--model", "folder", "--trust"], "runs no code as it is no checkpoint"),
        (["stream", "a.mp4", "--model", "hf://owner/name", "--trust"], "trust has no effect on hf://owner/name"),
        (["fit", "--trust"], "--trust has no effect without --ckpt-path"),
        (["fit", "--new-wandb-run"], "--new-wandb-run has no effect without --ckpt-path"),
    ],
)
def test_trust_without_effect_is_refused(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    error = failed(capsys, *(tmp_path / word if word in ("folder", "out") else word for word in command))
    assert message in error and error.rstrip().endswith("leave it out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.source", "video", "--data.storage", "ram"], "data.storage keeps stored features, but data.source is "
         "video; set data.source to features"),
        (["--data.storage", "device", "--data.num_workers", "2"], "data.num_workers is 2, but data.storage is device, "
         "which needs none; set it to 0"),
    ],
)  # fmt: skip
def test_a_setting_of_the_data_without_effect_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    pairs = ["--data.reversed_pairs", "false"]
    assert message in failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run"), *pairs, *options)


@pytest.mark.parametrize("command", ["sensitivity", "inspect", "tour", "shuffle", "memory"])
def test_a_folder_that_another_process_writes_to_is_refused(
    command: str,
    checkpoints: dict[str, Path],
    workspace: Path,
    catalog: Catalog,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = (
        "import sys; from pathlib import Path; from videomem.utils.atomic import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()\n"
    )
    model, out = checkpoints["gru"], tmp_path / "out"
    arguments: dict[str, list[object]] = {
        "sensitivity": ["--model", "r3d_18", "--weights", "random", "--catalog", workspace / "videos" / "catalog.csv"],
        "inspect": [catalog.clips[0].path, "--model", model],
        "tour": ["leaky"],
        "shuffle": [model],
        "memory": [model],
    }
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        error = failed(capsys, command, *arguments[command], "--out", out)
        other.kill()
    assert error == f"videomem: error: {out}: another process is writing to it; choose another folder"
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("value", ["1_0", "1:30", "0x10", "1e1", "1.0"])
@pytest.mark.parametrize("command", ["shuffle a --seed", "extract --workers", "synthesize --train-pairs",
                                     "catalog build ucf101 --seed"])  # fmt: skip
def test_an_integer_is_written_in_digits(command: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"is '{value}', but must be an integer" in failed(capsys, *command.split(), value)


@pytest.mark.parametrize("options", [["extract", "--time-limit"], ["catalog", "build", "folder", "--fractions"],
                                     ["order", "subset", "a", "--min-score"]])  # fmt: skip
def test_a_number_is_written_without_underscores(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "0_0.5" in failed(capsys, *options, "0_0.5,0.2,0.3" if options[-1] == "--fractions" else "0_0.5")


def test_a_pipe_or_nested_json_in_a_folder_of_results_does_not_wait_or_end_in_a_traceback(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    os.mkfifo(run_dir / "metrics.json")
    command = ["test", "--ckpt-path", str(checkpoints["gru"]), "--run-dir", str(run_dir), "--wandb", "disabled"]
    assert main(command) == 0
    for text in ("[" * 100_000, '{"epoch": "a\\u001b[2J"}'):
        (run_dir / "metrics.json").write_text(text)
        status = main(command)
        assert status in (0, 2) and "\x1b" not in capsys.readouterr().err
    (tmp_path / "order.json").write_bytes(b"\xff\xfe")
    export = ("export", checkpoints["gru"], "--out", tmp_path / "out", "--order", tmp_path / "order.json")
    assert "order.json: not text; name `order.json` of an order test" in failed(capsys, *export)
