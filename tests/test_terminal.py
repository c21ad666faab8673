"""How far a command has come: on a real pseudo-terminal, in any width, and in a log."""

import fcntl
import io
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from runs import TRAIN

from cli.display import Line, console, disk_size, plural, progress, short_time
from pipeline.dataset import Dataset

ROOT = Path(__file__).parent.parent


def show(text: str, columns: int) -> tuple[list[str], list[str]]:
    """What a terminal makes of its input: its rows, and those that were erased."""
    rows, erased, x, y = [""], [], 0, 0
    for control, character in re.findall(r"(?s)(\x1b\[[\d;?]*[A-Za-z])|(.)", text):
        if control.endswith("A"):
            y -= int(control[2:-1] or 1)
        elif control == "\x1b[2K":
            erased.append(rows[y])
            rows[y] = ""
        elif character == "\r":
            x = 0
        elif character:
            if character == "\n" or x == columns:
                x, y = x % columns, y + 1
                rows += [""] * (y == len(rows))
            if character != "\n":
                rows[y] = rows[y][:x].ljust(x) + character + rows[y][x + 1 :]
                x += 1
    return rows, erased


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, *words: object, columns: int) -> None:
        self.columns, self.text = columns, ""
        self.keys, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *map(str, words)],
            cwd=ROOT,
            env=environment | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is for it
        )
        os.close(other)

    def wait(self, pattern: str = "(?!)") -> bool:
        """Until a row that was erased has the pattern; False at the end."""
        end = time.monotonic() + 120
        while not any(re.search(pattern, row) for row in show(self.text, self.columns)[1]):
            assert time.monotonic() < end, self.text
            if select.select([self.keys], [], [], 1)[0]:
                try:
                    self.text += os.read(self.keys, 4096).decode()
                except OSError:  # nobody is there any more
                    return False
        return True

    def end(self) -> tuple[int, list[str], list[str]]:
        """The exit status, the rows and those that were erased."""
        self.wait()
        os.close(self.keys)
        return self.process.wait(), *show(self.text, self.columns)


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_train_and_ctrl_c(columns: int, dataset: Dataset, tmp_path: Path) -> None:
    """The line is whole after the first rows of metrics, too, and leaves nothing behind."""
    words = ("train", "--data", dataset.root, "--run", tmp_path / "run", *TRAIN, "--epochs", 100)
    terminal = Terminal(*words, columns=columns)
    assert terminal.wait(r" steps .*loss .* left$" if columns >= 80 else r"━  \d+ (s|min) left$")
    os.write(terminal.keys, b"\x03")
    status, rows, erased = terminal.end()
    assert status == 130
    drawn = [row for row in erased if row.startswith("epoch")]
    assert all(re.match(r"epoch \d+/100  .*(\d+ of 1,000 steps|━  \d+ \w+ left)", row) for row in drawn)
    assert max(map(len, drawn)) < columns and terminal.text.count("\x1b[1A") == 1  # one row, up at the end
    said = "".join(rows)  # of which the terminal may have broken some
    assert re.search(r"stopped at step \d+; the same command resumes there$", said)
    assert "epoch   1/100  validation  loss" in said and "━" not in said and "^C" not in said


def test_prep_and_ctrl_c(folders: Path, tmp_path: Path) -> None:
    """Of 1,600 images; then the same command, to the end."""
    for path in folders.glob("*/*/*.JPEG"):
        for repeat in range(40):
            copy = tmp_path / "root" / path.parent.relative_to(folders) / f"{repeat}_{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(path)
    words = ("--imagenet-root", tmp_path / "root", "--out", tmp_path / "out", "--max-rejected", 0.5)
    terminal = Terminal("prep", *words, columns=80)
    live = r"^━+.*  [\d,]+ of [\d,]+ images  [\d.]+ images/s  .*left$"
    assert terminal.wait(live)
    os.write(terminal.keys, b"\x03")
    status, rows, _ = terminal.end()
    assert status == 130
    assert rows[-2:] == ["stopped by SIGINT; the same command resumes here", ""]
    assert "━" not in "".join(rows) and "Process" not in "".join(rows)  # as workers say that are interrupted
    status, rows, erased = Terminal("prep", *words, columns=80).end()
    assert status == 0 and any(re.search(live, row) for row in erased)
    assert "━" not in "".join(rows) and re.match(r"  next +alexnet-dali train", rows[-3])


def test_a_line_fits() -> None:
    """What matters most stays; of the rest what there is room for."""
    line = Line("epoch 37/90", 450_360, 0, "steps")
    line.started -= 3600
    line(225_180, "loss 2.1234", "top-1 error 48.12 %", "top-5 error 23.45 %", "9,876 img/s", "waiting 2%")
    wanted = {14: "epoch 37/90", 26: "1.0 h left", 52: "225,180 of 450,360 steps", 64: "━━━━━"}
    wanted |= {80: "loss 2.1234", 152: "waiting 2%"}
    for columns in range(8, 170):
        paper = console(file=(screen := io.StringIO()), width=columns, soft_wrap=True)
        paper.print(line)
        (text,) = screen.getvalue().splitlines()
        assert len(text) <= columns - 3
        assert [part for least, part in wanted.items() if columns >= least and part not in text] == []


def test_a_log_gets_lines_ever_more_rarely(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("cli.display.time.monotonic", lambda: clock[0])
    with progress("val", 1000) as line:
        for second in range(1, 1001):
            clock[0] = second
            line(1)
        clock[0] = 2000
        line(0)
    out, err = capsys.readouterr()
    done = [int(text.replace(",", "")) for text in re.findall(r"val  ([\d,]+) of 1,000 images", err)]
    assert done.pop() == 1000 and err.endswith("0.50 images/s\n")
    gaps = [after - before for before, after in zip([0, *done], done, strict=False)]
    assert not out and gaps == sorted(gaps) and gaps[0] == 6 and gaps[-1] == 61
    assert err.splitlines()[:2] == ["val  6 of 1,000 images  1.00 images/s",
                                    "val  12 of 1,000 images  1.00 images/s"]  # fmt: skip
    assert err.splitlines()[3] == "val  24 of 1,000 images  1.00 images/s  16 min left"  # after a fiftieth


def test_numbers_are_written_for_readers() -> None:
    assert [plural(number, "image") for number in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]
    assert [disk_size(size) for size in (18_944, 52e6, 2.5e9)] == ["0.0 MB", "52.0 MB", "2.50 GB"]
    times = [short_time(seconds) for seconds in (0.4, 59, 61, 5400, 2e5)]
    assert times == ["0 s", "59 s", "1 min", "1.5 h", "2.3 days"]
