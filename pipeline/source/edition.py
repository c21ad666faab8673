"""Name the files of ImageNet's releases."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

WNID = re.compile(r"n\d{8}")  # what WordNet, and so ImageNet, calls a class


@dataclass(frozen=True)
class Edition:
    """Describe a release of ImageNet by the names of its files."""

    archives: str  # for the user
    tars: dict[str, str]  # the archive of each split, a pattern
    devkits: tuple[str, ...]  # the development kit as it is downloaded, without .tar.gz, and as it unpacks
    id_field: str  # a class's number in the devkit's meta.mat
    truth: dict[str, str]  # by split: a class's number per line; val's is in the devkit, test's beside it
    patches: str = ""  # images that replace those of the same name

    def names(self) -> Iterable[str]:
        """Yield patterns of all names, packed and unpacked."""
        for tar in self.tars.values():
            yield from (tar, tar.removesuffix(".tar"))
        yield from self.extras()

    def extras(self) -> Iterable[str]:
        """Yield patterns of what lies beside the images."""
        for kit in self.devkits:
            yield from (kit, f"{kit}.tar", f"{kit}.tar.gz")
        for truth in self.truth.values():
            yield from (truth, f"devkit/{truth}")
        if self.patches:
            yield from (self.patches, f"{self.patches}.tar")


ILSVRC2012 = Edition(
    archives="ImageNet's archives",
    tars={
        "train": "ILSVRC2012_img_train.tar",
        "val": "ILSVRC2012_img_val.tar",
        "test": "ILSVRC2012_img_test*.tar",
    },
    devkits=("ILSVRC2012_devkit_t12",),
    id_field="ILSVRC2012_ID",
    truth={"val": "data/ILSVRC2012_validation_ground_truth.txt"},
)
ILSVRC2010 = Edition(
    archives="ILSVRC-2010's archives",
    tars={split: f"ILSVRC2010_images_{split}.tar" for split in ("train", "val", "test")},
    devkits=("ILSVRC2010_devkit-1.0", "devkit-1.0"),
    id_field="ILSVRC2010_ID",
    truth={
        "val": "data/ILSVRC2010_validation_ground_truth.txt",
        "test": "ILSVRC2010_test_ground_truth.txt",
    },
    patches="patch_images",
)
# It has train alone; its classes include those of 2012.
FALL2011 = replace(
    ILSVRC2012, archives="Fall 2011's archive", tars=ILSVRC2012.tars | {"train": "fall11_whole.tar"}
)
EDITIONS = (ILSVRC2012, ILSVRC2010, FALL2011)


def find_edition(place: Path) -> Edition:
    """Return the edition of the training archive, or else of any other file there; by default the first."""
    by_train = [edition for edition in EDITIONS if any(place.glob(edition.tars["train"]))]
    by_any = [edition for edition in EDITIONS if any(any(place.glob(name)) for name in edition.names())]
    return [*by_train, *by_any, ILSVRC2012][0]
