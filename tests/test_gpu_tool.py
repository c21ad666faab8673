"""The table of tools/gpu.py, of results as bench writes them."""

from tools.gpu import table


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
