"""Several processes, one run: the same sums as one process, one set of files, and no one left waiting."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import after_header, assert_close, assert_same, description, rows, train
from triggers import Elsewhere, Trigger, die, fail, terminate

from cli import main
from cli.compose import predictions
from model import checkpoint, replicas
from model.errors import RunError
from model.run import read_metrics
from pipeline.dataset import Dataset
from pipeline.prep.prepare import prepare
from pipeline.source import miniature
from pipeline.source.find import find_source
from tools.commands import Command, ranks

STEP, CONFER = "model.step:Step.__call__", "model.train:Trainer._confer"
# Relative error of each tensor of weights and velocities. One step differs by about 1e-6. Over more steps it
# may grow to 0.006 (one seed of seven) where rounding decides which of two pixels is the maximum that lets a
# gradient pass; a gradient of the wrong scale is an error near 1 of the velocities.
ROUNDING, LATER = 1e-5, 0.05
SHORT, LONG = ("--epochs", 1), ("--epochs", 4)
ROOT = Path(__file__).parent.parent
LOST = "Error: lost the other processes of this run"


@pytest.fixture(scope="module")
def alone(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process. Its epoch ends with a batch of one image, of which most processes get none."""
    folder = tmp_path_factory.mktemp("alone")
    finish([Command(*train(dataset.root, folder / "run", *SHORT), folder=folder)])
    return folder / "run"


@pytest.fixture(scope="module")
def three(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three processes."""
    folder = tmp_path_factory.mktemp("three")
    finish(ranks(3, *train(dataset.root, folder / "run", *SHORT), folder=folder))
    return folder / "run"


def finish(commands: list[Command]) -> None:
    for command in commands:
        assert command.wait() == 0, command.text


def test_three_processes_compute_what_one_does(alone: Path, three: Path) -> None:
    assert_close(three, alone, LATER)
    assert len(rows(three)) == 2 and description(three)["starts"][0]["processes"] == 3


def test_two_processes_of_two_devices_each(dataset: Dataset, alone: Path, tmp_path: Path) -> None:
    commands = ranks(
        2, *train(dataset.root, tmp_path / "run", *SHORT, "--device", "cpu,cpu"), folder=tmp_path
    )
    finish(commands)
    assert_close(tmp_path / "run", alone, LATER)
    assert "  trained " in commands[0].text and commands[1].text == ""


def test_two_of_sixteen_are_one_of_thirty_two(dataset: Dataset, tmp_path: Path) -> None:
    """One step on 28 images, dealt to one, to two, and unevenly to three."""
    for world in (1, 2, 3):
        words = train(dataset.root, tmp_path / f"{world}", *SHORT, "--batch-size", 32)
        finish(ranks(world, *words, folder=tmp_path))
    for world in (2, 3):
        assert_close(tmp_path / f"{world}", tmp_path / "1", ROUNDING)


def test_a_process_that_dies_stops_the_others_and_the_run_goes_on(
    dataset: Dataset, three: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = train(dataset.root, run, *SHORT, "--save-minutes", 0)
    commands = ranks(3, *words, folder=tmp_path, before={1: Trigger(STEP, 5, die)})
    assert [command.wait(20) for command in commands] == [1, -9, 1]
    assert all(commands[rank].text.strip().split("\n")[-1].startswith(LOST) for rank in (0, 2))
    commands = ranks(3, *words, folder=tmp_path, before={2: Trigger(STEP, 2, fail)})
    assert [command.wait(20) for command in commands] == [1, 1, 1]
    assert commands[2].text == "Error: what a user can mend\n" and commands[1].text.startswith(LOST)
    finish(ranks(3, *words, folder=tmp_path))
    assert_same(run, three)


def test_a_signal_to_one_process_stops_all(dataset: Dataset, tmp_path: Path) -> None:
    """Validation is of two batches in the first process and of three in the second."""
    run = tmp_path / "run"
    words = train(dataset.root, run, "--batch-size", 2, *SHORT)
    stops = [(3, 1, Trigger(STEP, 3, terminate)), (14, 0, Trigger(CONFER, 3, terminate)),
             (14, 1, Trigger(CONFER, 3, terminate))]  # fmt: skip
    for step, rank, trigger in stops:
        commands = ranks(2, *words, folder=tmp_path, before={rank: trigger})
        assert [command.wait(20) for command in commands] == [143, 143], commands[0].text
        assert checkpoint.read(run / "last.pt")["step"] == step
        assert f"stopped at step {step};" in commands[0].text and commands[1].text == ""
    commands = ranks(2, *words, "--stop-after", 0, folder=tmp_path)
    assert {command.wait(20) for command in commands} == {75}
    finish(ranks(2, *words, folder=tmp_path))
    assert [row["kind"] for row in read_metrics(run / "metrics.jsonl")] == ["train", "val"]


def test_another_number_of_processes_is_refused_or_allowed(
    dataset: Dataset, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = train(dataset.root, run, *SHORT)
    assert {command.wait(20) for command in ranks(3, *words, "--stop-after", 0, folder=tmp_path)} == {75}
    commands = ranks(2, *words, folder=tmp_path)
    assert [command.wait(20) for command in commands] == [1, 1]
    assert "processes 3, not 2" in commands[0].text and commands[1].text.startswith(LOST)
    commands = ranks(2, *words, "--allow-changes", folder=tmp_path)
    finish(commands)
    assert "processes 3, not 2; resuming" in commands[0].text and commands[1].text == ""
    assert_close(run, alone, LATER)


def test_processes_with_different_data(dataset: Dataset, originals: Dataset, tmp_path: Path) -> None:
    before = {1: Elsewhere(originals.root)}
    commands = ranks(2, *train(dataset.root, tmp_path / "run"), folder=tmp_path, before=before)
    assert [command.wait(20) for command in commands] == [1, 1]
    assert "Error: process 1 has another dataset " in commands[1].text and commands[1].text.count("\n") == 1


@dataclass(frozen=True)
class Impatient:
    """Waits for others for a second or two only."""

    def __call__(self) -> None:
        replicas.SILENCE, replicas.PATIENCE = timedelta(seconds=0.5), timedelta(seconds=1.5)


@dataclass(frozen=True)
class ByRow:
    """Predictions are sent in parts of one row."""

    def __call__(self) -> None:
        replicas.ROWS = 1


@pytest.mark.parametrize(("world", "images"), [(2, 9), (4, 3)])
def test_eval_is_shared(dataset: Dataset, trained: Path, tmp_path: Path, world: int, images: int) -> None:
    """Up to rounding. Of four processes the first has none of three images."""
    said, data = [], dataset.root
    if images == 3:
        data = tmp_path / "data"
        miniature.write_folders(tmp_path / "few", classes=3, train=1, val=1)
        prepare(find_source(tmp_path / "few"), data, workers=1, max_rejected=1)
    for name, processes in (("one", 1), ("all", world)):
        files = ("--json", tmp_path / f"{name}.json", "--predictions", tmp_path / f"{name}.npz")
        words = ("eval", "--data", data, "--run", trained, "--device", "cpu", *files)
        before = dict.fromkeys(range(processes), ByRow())
        commands = ranks(processes, *words, folder=tmp_path, before=before)
        finish(commands)
        assert [command.text.count("val images") for command in commands] == [1] + [0] * (processes - 1)
        assert all(command.text == "" for command in commands[1:])
        said.append((json.loads(files[1].read_text()), predictions.read(files[3])))
    (one, alone), (all_, together) = said
    assert together.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert (together.names, together.labels.tolist()) == (alone.names, alone.labels.tolist())
    assert all_.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-6)
    assert all_ == one and one["images"] == images


def test_processes_that_evaluate_different_data(
    dataset: Dataset, originals: Dataset, trained: Path, tmp_path: Path
) -> None:
    before = {1: Elsewhere(originals.root)}
    commands = ranks(2, "eval", "--run", trained, "--device", "cpu", folder=tmp_path, before=before)
    assert [command.wait(20) for command in commands] == [1, 1]
    assert (
        commands[1].text == "Error: process 1 has another checkpoint, dataset or precision than process 0\n"
    )
    assert commands[0].text.startswith(LOST)


@pytest.mark.parametrize(
    ("rank", "line"),
    [
        (0, "waiting for 1 of 2 processes at "),
        (1, "waiting for the first of 2 processes (Connection refused) at "),
    ],
)
def test_a_process_that_never_comes(dataset: Dataset, tmp_path: Path, rank: int, line: str) -> None:
    commands = ranks(
        2, *train(dataset.root, tmp_path / "run"), folder=tmp_path, only=rank, before={rank: Impatient()}
    )
    assert commands[0].wait(20) == 1
    told, failed = after_header(commands[0].text)
    assert told.startswith(f"warning: {line}127.0.0.1:")
    assert failed.startswith(f"Error: gave up {line}127.0.0.1:")
    assert "MASTER_ADDR" in failed and not (tmp_path / "run").exists()


def test_something_else_listens_where_they_meet(dataset: Dataset, tmp_path: Path) -> None:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = {"WORLD_SIZE": 2, "RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": mute.getsockname()[1]}
        words = train(dataset.root, tmp_path / "run")
        command = Command(*words, folder=tmp_path, environment=place, before=Impatient())
        assert command.wait(20) == 1
    told, failed = command.text.splitlines()
    assert told.startswith("warning: waiting for an answer of the first of 2 processes at 127.0.0.1:")
    assert failed.startswith("Error: gave up waiting for an answer of the first of 2 processes at 127.0.0.1:")


WHOLE = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
         "MASTER_PORT": "29500"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": None}, "says WORLD_SIZE=4, but not RANK"),
        ({"MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({"MASTER_PORT": None}, "but not MASTER_PORT"),
        ({"LOCAL_RANK": None}, "but not LOCAL_RANK"),
        ({"LOCAL_WORLD_SIZE": None}, "but not LOCAL_WORLD_SIZE"),
        ({"WORLD_SIZE": "abc"}, "says WORLD_SIZE=abc, which must be a number from 1 to"),
        ({"WORLD_SIZE": "0"}, "says WORLD_SIZE=0, which must"),
        ({"WORLD_SIZE": "-2"}, "says WORLD_SIZE=-2, which must"),
        ({"RANK": "4"}, "says RANK=4, which must be a number from 0 to 3"),
        ({"RANK": "1.5"}, "says RANK=1.5, which must"),
        ({"LOCAL_WORLD_SIZE": "5"}, "says LOCAL_WORLD_SIZE=5, which must be a number from 1 to 4"),
        ({"LOCAL_RANK": "2"}, "says LOCAL_RANK=2, which must be a number from 0 to 1"),
        ({"MASTER_PORT": "65536"}, "says MASTER_PORT=65536, which must be a number from 1 to 65535"),
    ],
)
def test_an_environment_that_cannot_be(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    for name, value in {**WHOLE, **changes}.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    for command in (train(dataset.root, tmp_path / "run"), ("predict", "x.jpg")):
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 1 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_environment_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    assert replicas.find_place() == replicas.Place()
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert replicas.find_place() == replicas.Place(2, 4, 0, 2, "a", 29500)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):  # a process a machine
        monkeypatch.delenv(name)
    assert replicas.find_place() == replicas.Place(2, 4, 0, 1, "a", 29500)
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match=r"says RANK=2, .* 0 to 0"),
    ):
        patch.setenv("WORLD_SIZE", "1")
        replicas.find_place()
    result = CliRunner().invoke(main, ["export"])
    assert (
        result.exit_code == 1
        and "export runs in one process only, but the environment says WORLD_SIZE=4" in result.output
    )


class Agent:
    """torchrun itself, on the command as a user types it."""

    def __init__(self, folder: Path, words: tuple[object, ...], *options: object) -> None:
        self.log = folder / f"agent.{os.urandom(4).hex()}"
        command = [sys.executable, "-m", "torch.distributed.run", *map(str, options), "--no-python", "--"]
        command += [sys.executable, "-m", "cli", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def workers(self) -> list[int]:
        """The processes it has started."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait(self) -> str:
        """What it and its workers said, once it has ended well."""
        status, text = self.process.wait(90), self.log.read_text()
        assert status == 0, text
        return text


def saved(run: Path, step: int) -> None:
    """Wait until the run has got that far."""
    deadline, reached = time.monotonic() + 60, 0
    while reached < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        with suppress(RunError):  # not there yet, or just now between two names
            reached = checkpoint.read(run / "last.pt")["step"]


@pytest.fixture(scope="module")
def two(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes and a longer run, that nothing happens to."""
    folder = tmp_path_factory.mktemp("two")
    finish(ranks(2, *train(dataset.root, folder / "run", *LONG), folder=folder))
    return folder / "run"


def test_torchrun_restarts_a_killed_process(dataset: Dataset, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = train(dataset.root, run, *LONG, "--save-minutes", 0)
    agent = Agent(tmp_path, words, "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    saved(run, 5)
    os.kill(agent.workers()[1], signal.SIGKILL)
    text = agent.wait()
    assert text.count("  trained ") == 1 and len(description(run)["starts"]) == 2
    assert_same(run, two)


def test_two_hosts(dataset: Dataset, two: Path, tmp_path: Path) -> None:
    """As far as one machine can be two: two agents that meet over the loopback."""
    words = train(dataset.root, tmp_path / "run", *LONG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    meet = ("--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-endpoint", place)
    agents = [Agent(tmp_path, words, *meet) for _ in range(2)]
    assert sum(agent.wait().count("  trained ") for agent in agents) == 1
    assert_same(tmp_path / "run", two)


FAKES = {
    "alexnet-dali": """echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR $*" > said.$RANK
[ $RANK = 0 ] || exit 1
exit $STATUS""",
    "srun": """while [[ $1 == --* ]]; do echo "$1" >> bound; shift; done
highest=0
for ((SLURM_PROCID = 0; SLURM_PROCID < SLURM_NTASKS; SLURM_PROCID++)); do
    export SLURM_PROCID SLURM_LOCALID=$((SLURM_PROCID % 2))
    "$@"; status=$?; [ $status -gt $highest ] && highest=$status
done
exit $highest""",
    "scontrol": 'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> requeued; fi',
}


@pytest.mark.parametrize(("status", "ends", "queued"), [(0, 1, False), (143, 0, True), (75, 0, True)])
def test_the_sbatch_script(tmp_path: Path, status: int, ends: int, queued: bool) -> None:
    """With as much of Slurm as it sees: two nodes of two processes, of which the first has this status."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_NTASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "x",
        "SLURM_CPUS_PER_TASK": "8",
    }
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATUS": str(status)}
    script = [ROOT / "tools" / "train.sbatch", "--data", "a folder"]
    assert subprocess.run(script, cwd=tmp_path, env=environment).returncode == ends
    assert (tmp_path / "said.2").read_text() == "2/4 0/2 one train --data a folder\n"
    bound = (tmp_path / "bound").read_text().split()
    assert bound == ["--cpus-per-task=8", "--cpu-bind=none", "--gpu-bind=none"]
    assert (tmp_path / "requeued").exists() == queued
