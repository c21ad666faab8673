"""Hold the paper's tables as data: its numbers, errors in percent, and which runs make ours.

Which nets were averaged is known from the names of the files that went to the challenge, in its results of
2012; the logs are the notes of the 2012 source (layer-params-*.cfg).
"""

from dataclasses import dataclass

Errors = tuple[float | None, float | None]  # top-1 and top-5; None: not said

# What each image set is called on the command line, and what it is to be
DATA = {
    "data": "--data DIR",
    "data_2010": "--data-2010 DIR",
    "pretrain": "--pretrain DIR, images of many classes",
    "pretrain_2009": "--pretrain DIR, images of many classes",  # its default
    "cifar": "--cifar DIR, CIFAR-10",
}


@dataclass(frozen=True)
class Run:
    """Hold what `train` is given, and the images: a key of DATA."""

    recipe: str
    data: str = "data"
    schedule: str | None = None  # None: the recipe's
    begins: str | None = None  # the run with whose weights it begins
    seed: int = 0  # added to --seed


@dataclass(frozen=True)
class Baseline:
    """Hold what `baseline` is given, and the images: a key of DATA."""

    command: str
    data: str = "data"


RUNS = {
    "145": Run("original"),
    "145-2010": Run("original", "data_2010", schedule="145-2010"),
    "131": Run("net131"),
    "135": Run("net135"),
    "137": Run("net137"),
    # 145 again, in 2012 on other images; here it differs by its seed, too, or would be the same for long
    "145f": Run("net145f", seed=1),
    # what is made of 145 with a sixth convolution, and of 137 with one
    "146-2009": Run("net146-2009", "pretrain_2009", begins="145"),
    "146-2011": Run("net146-2011", "pretrain", begins="146-2009"),
    "146-2011-2012": Run("net146", begins="146-2011"),
    "146-2009-2012": Run("net146", schedule="146-2012-2009", begins="146-2009"),
    "141": Run("net141"),
    "141-2009": Run("net141", "pretrain_2009", schedule="141-2009", begins="141"),
    "141-2009-2012": Run("net141", schedule="141-2009-2012", begins="141-2009"),
    # the ablations
    "half-2010": Run("half", "data_2010"),
    "no-lrn": Run("no-lrn"),
    "no-overlap": Run("no-overlap"),
    "no-noise": Run("no-noise"),
    "relu4": Run("relu4", "cifar"),
    "tanh4": Run("tanh4", "cifar"),
}
BASELINES = {
    "sift-fv": Baseline("sift-fv"),
    "sift-fv-2010": Baseline("sift-fv", "data_2010"),
    "sparse-coding-2010": Baseline("sparse-coding", "data_2010"),
}


@dataclass(frozen=True)
class TableRow:
    """Ask for the errors of the runs' mean predictions, or how far they exceed another run's."""

    name: str
    runs: tuple[str, ...]
    paper: Errors = (None, None)
    log: Errors = (None, None)
    submitted: float | None = (
        None  # the paper's top-5 error on ILSVRC-2012's test images, whose labels are kept
    )
    views: str = "ten views"  # or "centre"; of a baseline WHOLE
    over: str | None = None  # the other run, in ten views


@dataclass(frozen=True)
class SpeedRow:
    """Ask how many times as many epochs as `fast` the run `slow` takes to a training error."""

    name: str
    slow: str
    fast: str
    error: float
    paper: float

    @property
    def runs(self) -> tuple[str, ...]:
        return self.slow, self.fast


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[TableRow | SpeedRow, ...]


WHOLE = "whole images"
SPARSE = TableRow("Sparse coding", ("sparse-coding-2010",), (47.1, 28.2), views=WHOLE)
SIFT = TableRow("SIFT + FVs", ("sift-fv-2010",), (45.7, 25.7), views=WHOLE)
CNN = TableRow("CNN", ("145-2010",), (37.5, 17.0), (37.4727, 16.9987))
ONE = TableRow("1 CNN", ("145",), (40.7, 18.2), (40.664, 18.21))
FIVE = TableRow("5 CNNs", ("131", "137", "145", "135", "145f"), (38.1, 16.4), submitted=16.4)
PRETRAINED = TableRow("1 CNN*", ("146-2011-2012",), (39.0, 16.6), (38.99, 16.622))
# By the paper "two CNNs that were pre-trained on the entire Fall 2011 release with the aforementioned five";
# by the file's name four of the five, and three pretrained.
SEVEN = TableRow(
    "7 CNNs*",
    ("141-2009-2012", "146-2009-2012", "131", "137", "145", "146-2011-2012", "145f"),
    (36.7, 15.4),
    submitted=15.3,
)
MEMBERS = {
    "131": TableRow("net 131", ("131",), log=(40.934, 18.574)),
    "137": TableRow("net 137", ("137",), log=(40.782, 18.344)),
    "145": TableRow("net 145", ("145",), log=ONE.log),
    "135": TableRow("net 135", ("135",), log=(41.07, 18.416)),
    "145f": TableRow("net 145f", ("145f",)),
    "141-2009-2012": TableRow("net 141, pretrained", ("141-2009-2012",), log=(39.562, 17.206)),
    "146-2009-2012": TableRow("net 146, pretrained on 2009", ("146-2009-2012",), log=(39.1, 16.876)),
    "146-2011-2012": TableRow("net 146, pretrained on 2011", ("146-2011-2012",), log=PRETRAINED.log),
}
TABLES = {
    "ilsvrc-2010": Table("Table 1: ILSVRC-2010", (SPARSE, SIFT, CNN)),
    "ilsvrc-2012": Table(
        "Table 2: ILSVRC-2012",
        (TableRow("SIFT + FVs", ("sift-fv",), submitted=26.2, views=WHOLE), ONE, FIVE, PRETRAINED, SEVEN),
    ),
    "5-cnns": Table("5 CNNs, one by one", (*(MEMBERS[run] for run in FIVE.runs), FIVE)),
    "7-cnns": Table("7 CNNs*, one by one", (*(MEMBERS[run] for run in SEVEN.runs), SEVEN)),
    # Errors above those of net 145 on the same images (paper sections 3 and 4); it does not say on which
    # images colour noise was left out.
    "ablations": Table(
        "Ablations: increase in error without each part",
        (
            TableRow("one GPU's half net", ("half-2010",), (1.7, 1.2), (1.695, 1.2299), over="145-2010"),
            TableRow("no LRN", ("no-lrn",), (1.4, 1.2), (1.37, 1.152), over="145"),
            TableRow("pooling without overlap", ("no-overlap",), (0.4, 0.3), (0.394, 0.3), over="145"),
            TableRow("one view, not ten", ("145-2010",), (1.5, 1.3), (1.552, 1.2966), views="centre",
                over="145-2010"),
            TableRow("no colour noise", ("no-noise",), (1.0, None), over="145"),
            SpeedRow("tanh for ReLU, epochs to 25 % (figure 1)", "tanh4", "relu4", error=25, paper=6),
        ),
    ),
}  # fmt: skip

# What other commands print below their own errors: of table 2, of table 1 and of its baselines
PAPER = {"1 CNN": ONE.paper, "1 CNN, 2012 log": ONE.log, "5 CNNs": FIVE.paper}
PAPER_2010 = {
    "sparse coding": SPARSE.paper,
    "SIFT + FVs": SIFT.paper,
    "CNN": CNN.paper,
    "CNN, 2012 log": CNN.log,
}
PAPER_BASELINES = {"sparse-coding": SPARSE.paper, "sift-fv": SIFT.paper}
