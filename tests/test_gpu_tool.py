"""The tables of tools/gpu.py: of results as bench writes them, and of a decoder that is not there."""

from pipeline import graph
from pipeline.dataset import Dataset
from tools.gpu import SHARES, shares, table


def test_the_table_has_a_column_a_setting_and_a_row_a_part() -> None:
    first = {"parts": {"loader": {"img_s": 40000.4}, "step": {"img_s": 9.6}}, "waiting": 0.014}
    second = {"parts": {"step": {"img_s": 12}}, "waiting": 0}
    found = {
        "jpeg --gpus 0": first | {"taken": 3_210_000_000},
        "raw --gpus 0,1": second | {"taken": 2e9},
    }
    assert table(found).splitlines() == [
        "|  | `jpeg --gpus 0` | `raw --gpus 0,1` |",
        "| --- | --- | --- |",
        "| loader | 40,000 |  |",
        "| step | 10 | 12 |",
        "| waiting for data | 1% | 0% |",
        "| memory of a training, GB | 3.2 | 2.0 |",
    ]


def test_the_loader_by_share(dataset: Dataset) -> None:
    """A CPU takes the share and has no use for it."""
    found = shares(dataset, "cpu", batch_size=8, seconds=0.01)
    assert list(found) == list(SHARES) and min(found.values()) > 0
    assert "hw_decoder_load" not in graph.SQUARES
