"""alexnet-dali doctor: its facts against torch's own answers, its advice on machines made up."""

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from cli.commands import doctor
from cli.display import console
from pipeline.workers import count_cores

H100 = doctor.Gpu("NVIDIA H100", 80 * 2**30, "9.0", True, [1], None)
MACHINE = doctor.Machine(
    python="3.11.7",
    torch="2.13.0",
    torch_cuda="12.8",
    dali="2.4.0",
    dali_wheels={"nvidia-dali-cuda120": "2.4.0"},
    driver="580.95.05",
    gpus=[],
    cores=16,
    free={"data/imagenet": 10**12, "runs": 10**12},
    dataset="none",
    faults=[],
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor.command, arguments)


def test_the_facts_are_torchs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    dali = pytest.importorskip("nvidia.dali")
    result = run("--json", "--data", str(tmp_path / "none"))
    facts = json.loads(result.output)
    assert result.exit_code == 0 and facts["ready"] and facts["faults"] == []
    assert facts["torch"] == torch.__version__ and facts["torch_cuda"] == torch.version.cuda
    assert facts["dali"] == dali.__version__ and list(facts["dali_wheels"].values()) == [dali.__version__]
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert len(facts["gpus"]) == torch.cuda.device_count()
    assert 1 <= facts["cores"] <= len(os.sched_getaffinity(0))
    for number, gpu in enumerate(facts["gpus"]):
        assert gpu["name"] == torch.cuda.get_device_name(number)
        assert gpu["capability"] == ".".join(map(str, torch.cuda.get_device_capability(number)))
        assert gpu["memory"] == torch.cuda.mem_get_info(number)[1]


def test_one_screen_of_plain_lines(tmp_path: Path) -> None:
    result = run("--data", str(tmp_path / "none"))
    lines = result.output.splitlines()
    assert result.exit_code == 0 and 9 <= len(lines) <= 24
    assert [line.split()[0] for line in lines[:4]] == ["Python", "torch", "DALI", "driver"]
    assert f"none at {tmp_path / 'none'} yet: alexnet-dali prep --imagenet-root DIR" in result.output


@pytest.mark.parametrize(
    ("module", "remedy"), [("torch", "pip install torch"), ("nvidia.dali", "pip install nvidia-dali-cuda120")]
)
def test_what_cannot_be_imported(module: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    result = run()
    assert result.exit_code == 1 and result.exception.__class__ is SystemExit
    assert f"{module} cannot be imported" in result.output and remedy in result.output
    assert "not possible before torch and DALI can both be imported" in result.output


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "no GPU: alexnet-dali train --device cpu works, for trying out only"),
        ({"torch_cuda": None}, "this torch is a CPU build"),
        ({"gpus": [H100]}, "alexnet-dali train: both towers fused on GPU 0"),
        ({"gpus": [H100, replace(H100, peers=[0])]}, "alexnet-dali train --gpus 0,1: a tower on each"),
        ({"gpus": [replace(H100, peers=[])] * 2}, "GPUs 0 and 1 have no peer access"),
        (
            {"gpus": [replace(H100, fault="no kernel image"), H100]},
            "alexnet-dali train --gpus 1: both towers",
        ),
        ({"gpus": [replace(H100, fault="out of memory")]}, "--device cpu"),
        ({"gpus": [replace(H100, capability="7.5", bfloat16=False)]}, "in float32: there is no bfloat16"),
        ({"torch_cuda": "13.0"}, "nvidia-dali-cuda130 is the wheel to match"),
        ({"dali_wheels": dict.fromkeys(["a", "b"], "2")}, "a and b overwrite each other"),
        ({"dali": None}, "not possible"),
    ],
)
def test_advice(changes: dict[str, Any], advice: str) -> None:
    assert advice in "\n".join(doctor.advise(replace(MACHINE, **changes)))


def test_good_machines_hear_nothing_more() -> None:
    pair = replace(MACHINE, gpus=[H100, replace(H100, peers=[0])])
    assert len(doctor.advise(pair)) == len(doctor.advise(replace(MACHINE, gpus=[H100]))) == 1


def test_a_gpu_in_words() -> None:
    table = doctor.rows(
        replace(MACHINE, gpus=[H100, replace(H100, peers=[], fault="busy")], faults=["one", "two"])
    )
    assert ("GPU 0", "NVIDIA H100, 80 GiB, compute capability 9.0, peer access to 1") in table
    assert ("GPU 1", "NVIDIA H100, 80 GiB, compute capability 9.0; cannot be used: busy") in table
    assert table[table.index(("problem", "one")) + 1] == ("", "two")


@pytest.mark.parametrize(("text", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_share_of_the_cores(text: str, cores: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert count_cores(tmp_path / "cpu.max") == (cores or len(os.sched_getaffinity(0)))
    assert count_cores(tmp_path / "none") == len(os.sched_getaffinity(0))


def test_a_broken_dataset_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    assert str(tmp_path) in doctor.describe_dataset(tmp_path)


def test_on_a_terminal_it_is_a_table() -> None:
    screen = io.StringIO()
    doctor.show(
        [("GPU 0", "an [odd] name")], console(file=screen, force_terminal=True, color_system="standard")
    )
    assert "an [odd] name" in screen.getvalue() and "\x1b[36mGPU 0" in screen.getvalue()


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries abort the process there, in every command."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = CliRunner().invoke(main, ["doctor"])
    assert found.exit_code == 1 and found.stderr.startswith("Error: the current folder does not exist")
