"""`glasshouse train`: kill -9 and go on, Ctrl-C, other settings, a full disk; the result is an SAE like any other."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import TOY_PLUGIN, command, write_pictures
from kit.forking import Done, Driver

from glasshouse.cli.main import cli
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import own_format
from glasshouse.plugins.training import checkpoint as checkpoints
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

WORDS = ["train", "--encoder", "toy:0", "--hook", "blocks.0.resid_post", "--tokens", "patches", "--features", "64",
         "--l0", "3", "--kind", "matryoshka", "--prefixes", ".25,.75", "--batch", "64", "--checkpoint-every", "20",
         "--batch-size", "16"]  # fmt: skip
IN_MEMORY = ["--steps", "330"]
STREAMED = [*IN_MEMORY, "--buffer", "1", "--disk", "1"]
ON_DISK = [*IN_MEMORY, "--buffer", "1"]
N_VICTIMS = 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: Any) -> Path:
    """Return a warehouse whose patches take 1.4 MiB; nothing here writes to it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_pictures(folder / "pictures", 960)
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins([TOY_PLUGIN], external=False))
    warehouse.add([folder / "pictures"])
    warehouse.close()
    return folder / "w.glasshouse"


def run(driver: Driver, root: Path, folder: Path, *words: str, **how: Any) -> Done:
    return driver.run(
        ["--plugin", str(TOY_PLUGIN), *WORDS, *words, "--out", str(folder), "-w", str(root)], root.parent, **how
    )


def result(folder: Path) -> tuple[bytes, str]:
    return (folder / "sae.safetensors").read_bytes(), (folder / "curves.jsonl").read_text()


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: Any, driver: Driver) -> Any:
    """Return a function that gives the folder of an undisturbed run and how long it took; each runs once."""
    done: dict[tuple[str, ...], tuple[Path, float]] = {}

    def of(memory: list[str]) -> tuple[Path, float]:
        if tuple(memory) not in done:
            folder = tmp_path_factory.mktemp("undisturbed") / "sae"
            ended = run(driver, prepared, folder, *memory)
            assert ended.returncode == 0, ended.stderr
            done[tuple(memory)] = folder, ended.seconds
        return done[tuple(memory)]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("memory", [IN_MEMORY, ON_DISK, STREAMED], ids=["memory", "file", "stream"])
def test_a_killed_training_goes_on_to_the_same_bits(
    prepared: Path, tmp_path: Path, driver: Driver, undisturbed: Any, memory: list[str]
) -> None:
    reference, seconds = undisturbed(memory)
    rng, n_killed = random.Random(5), 0
    for number in range(N_VICTIMS):
        folder = tmp_path / f"victim{number}"
        for _ in range(2):
            n_killed += run(driver, prepared, folder, *memory, kill_after=seconds * rng.random()).returncode == -9
        again = run(driver, prepared, folder, *memory)
        assert again.returncode == 0, again.stderr
        assert result(folder) == result(reference)
        left = {path.name for path in folder.iterdir()} - {"training.lock", "training.holder"}
        assert {name for name in left if not name.startswith(".")} == {"sae.safetensors", "curves.jsonl"}
        shutil.rmtree(folder)
    assert n_killed >= 1


STEPS = [
    ("glasshouse.plugins.training.buffer:ShuffleBuffer", "_turn", False),
    ("glasshouse.plugins.training.buffer:ShuffleBuffer", "_turn", True),
    ("glasshouse.plugins.training.images:ImageRows", "take", True),
    ("glasshouse.plugins.training.checkpoint", "write_curves", True),
    ("glasshouse.plugins.training.train", "save_trained", False),
    ("glasshouse.plugins.training.train", "save_trained", True),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[1]}-{'after' if step[2] else 'before'}")
def test_every_step_may_be_the_last(
    prepared: Path, tmp_path: Path, driver: Driver, undisturbed: Any, step: tuple[str, str, bool]
) -> None:
    died = run(driver, prepared, tmp_path / "victim", *STREAMED, die_at=step)
    assert died.returncode == -signal.SIGKILL, died.stderr
    again = run(driver, prepared, tmp_path / "victim", *STREAMED)
    assert again.returncode == 0, again.stderr
    assert ("Went on from step" in again.stdout) == (step[1] != "take" and step != STEPS[-1])
    assert result(tmp_path / "victim") == result(undisturbed(STREAMED)[0])


def test_other_settings_are_refused_and_the_same_are_done_already(
    prepared: Path, tmp_path: Path, driver: Driver
) -> None:
    words, folder = ["--steps", "20", "--seed", "4"], tmp_path / "sae"
    assert run(driver, prepared, folder, *words).returncode == 0
    before = result(folder)
    again = run(driver, prepared, folder, *words)
    assert again.returncode == 0 and "finished already" in again.stdout
    assert result(folder) == before
    other = run(driver, prepared, folder, "--steps", "21", "--seed", "4", "--l0", "5")
    assert other.returncode == 2
    assert "is of another training: l0 3 there and 5 here, steps 20 there and 21 here" in other.stderr
    assert other.stderr.count("\n") == 1 and result(folder) == before


def test_the_result_is_an_sae_whose_figures_hold(prepared: Path, tmp_path: Path, driver: Driver) -> None:
    done = run(driver, prepared, tmp_path / "sae", "--steps", "60", "--json")
    said = json.loads(done.stdout)
    loaded = own_format.load(tmp_path / "sae", "cpu", "loaded")
    assert loaded.about["self_test"] == said["figures"]
    assert (loaded.hook, loaded.tokens, loaded.about["encoder"]) == ("blocks.0.resid_post", "patches", "toy:0")
    assert loaded.prefixes == (16, 64)
    training = loaded.about["training"]
    assert training["seed"] == 0 and training["encoder_fingerprint"] and training["settings"]["images"]
    inspected = driver.run(
        ["--plugin", str(TOY_PLUGIN), "sae", "inspect", str(tmp_path / "sae"), "-w", str(prepared), "--json",
         "--images", "500"], tmp_path)  # fmt: skip
    trial = json.loads(inspected.stdout)
    assert trial["reported"] == said["figures"]
    tested = trial["trial"]["self_test"]
    for name in ("explained_variance", "l0", "cosine"):
        assert tested[name] == pytest.approx(said["figures"][name], rel=0.05), name
    words = [*WORDS[1:7], "--space", "x", "--sae", str(tmp_path / "sae"), "-w", str(prepared)]
    extracted = driver.run(["--plugin", str(TOY_PLUGIN), "extract", *words], tmp_path)
    assert extracted.returncode == 0 and "960 new images" in extracted.stdout, extracted.stderr


def test_ctrl_c_ends_with_a_checkpoint(prepared: Path, tmp_path: Path, driver: Driver) -> None:
    words = [*WORDS, "--steps", "100000", "--out", str(tmp_path / "sae"), "-w", str(prepared)]
    process = subprocess.Popen([*command(), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "sae" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Stopped at step" in error and "of 100,000. Run the same command again to go on." in error
    assert "Traceback" not in error


def test_a_full_disk_keeps_the_checkpoint_before(prepared: Path, tmp_path: Path) -> None:
    """A file may grow to 20 kB: enough for the first checkpoint, not for the next, with the optimizer's state."""
    words = [*WORDS, "--steps", "30", "--out", str(tmp_path / "sae"), "-w", str(prepared)]
    python, *flags, _, start, plugin, toy = command()
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); {start}"
    done = subprocess.run(
        [python, *flags, "-c", limited, plugin, toy, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "run the same command again" in done.stderr and "Traceback" not in done.stderr
    kept = checkpoints.load(tmp_path / "sae")
    assert kept is not None and kept.values["step"] == 0
    without_limit = subprocess.run([*command(), *words], capture_output=True, text=True, timeout=120)
    assert without_limit.returncode == 0, without_limit.stderr
    assert "Went on from step 0." in without_limit.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", *WORDS[1:], "--out", ""], "--out is empty"),
        (["sae", "convert", "starter:sae-cls", ""], "FOLDER is empty"),
    ],
)
def test_a_folder_without_a_name_is_not_the_current_one(words: list[str], message: str) -> None:
    found = CliRunner().invoke(cli, words)
    assert isinstance(found.exception, UsageError) and message in str(found.exception)
