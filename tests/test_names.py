"""The names of classes: where prep takes them from, and what a class may be called afterwards."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from cli.compose.classes import choose_class, find_classes
from model.errors import RunError
from pipeline.dataset import Category, open_dataset
from pipeline.source.names import ILSVRC, ilsvrc_names, read_names

TENCH, PLAYER = "n01440764", "n02979186"
SHARK = "great white shark, white shark"


def draw(root: Path, *classes: str, splits: Sequence[str] = ("train", "val")) -> Path:
    """Write noise in class folders: three images for each class and split."""
    for split in splits:
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = np.random.default_rng([label, number]).integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}_{label}_{number}.jpg")
    return root


def prep(root: Path, *more: object, status: int = 0) -> str:
    """Run prep on a root; return what it says."""
    words = ["prep", "--imagenet-root", root, "--out", root.parent / "data", "--workers", 1, *more]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status and "Traceback" not in result.output, result.output
    return result.output


def words_of(root: Path) -> list[str]:
    return [category.words for category in open_dataset(root.parent / "data").classes]


def test_the_list_of_ilsvrc() -> None:
    names = ilsvrc_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert all(re.fullmatch(r"n\d{8}", wnid) and text == text.strip() != "" for wnid, text in names.items())
    assert len(ILSVRC.read_text().splitlines()) == 1000 + 2  # the source is named in two lines
    pairs = {
        "n01440764": "tench, Tinca tinca",
        "n02099712": "Labrador retriever",
        "n02979186": "cassette player",
        "n03000684": "chain saw, chainsaw",
        "n12768682": "buckeye, horse chestnut, conker",
        "n15075141": "toilet tissue, toilet paper, bathroom tissue",
    }
    assert pairs.items() <= names.items()
    assert list(names).index("n02099712") == 208 and list(names).index("n12768682") == 990


def test_plain_class_folders_get_the_names_of_ilsvrc(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", TENCH, PLAYER, "my cat")
    said = prep(root)
    assert "Class names: 2 from ILSVRC's own list, 1 from their folders (--names FILE gives others)" in said
    assert words_of(root) == ["my cat", "tench, Tinca tinca", "cassette player"]


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "words.txt", "classes.txt", "train/words.txt"])
def test_a_list_beside_the_folders_is_taken(name: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", "a", TENCH)
    gap = " " if name.startswith("LOC") else "\t"
    (root / name).write_text(f"n00001740{gap}entity\n{TENCH}{gap}Schleie, tench\na{gap}alpha\n")
    said = prep(root)
    assert f"from {root / name}" in said and "left out" not in said
    alpha = "a" if gap == " " else "alpha"  # a space says nothing of other folders than wnids
    assert words_of(root) == [alpha, "Schleie, tench"]


@pytest.mark.parametrize("text", ["a b", "a,b", "a\nb\n", "", "\x00\xff", "0\ta"])
def test_a_file_that_names_no_class_is_listed_as_left_out(text: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", "a", "b")
    (root / "classes.txt").write_text(text, "latin-1")
    said = prep(root)
    assert "Class names: 2 from their folders" in said and "left out  1" in said
    assert words_of(root) == ["a", "b"]
    assert "classes.txt" in (tmp_path / "data/rejected.jsonl").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "a\tBär\nb\tgreat white shark, white shark\n",
        'a,Bär\nb,"great white shark, white shark"\n',
        "a,Bär\nb,great white shark, white shark\n",
        "folder,name\na,Bär\nb,great white shark, white shark\n",
        "wnid,words\na,Bär\nb,great white shark, white shark\n",
        "\ufeffFolder;Name\r\na;Bär\r\nb;great white shark, white shark\r\n",
        '\ufeffname,id,folder\r\nBär,7,a\r\n"great white shark, white shark",8,b\r\n',
        "folder\tname\tgloss\na\tBär\ta bear\nb\tgreat white shark, white shark\ta fish\n",
        " a , Bär \n\n b , great white shark, white shark\nc,of no folder",
    ],
)
def test_names_from_a_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_bytes(text.encode())
    assert read_names(tmp_path / "n.csv", ["a", "b", "d"]) == {"a": "Bär", "b": SHARK}


def test_the_file_of_names_comes_first(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", TENCH, PLAYER)
    (root / "words.txt").write_text(f"{TENCH}\tSchleie\n{PLAYER}\tKassettenspieler\n")
    (root / "mine.csv").write_text(f"folder,name\n{TENCH},tanche\n")
    said = prep(root, "--names", root / "mine.csv")
    assert f"Class names: 1 from {root / 'mine.csv'}, 1 from {root / 'words.txt'}" in said
    assert words_of(root) == ["tanche", "Kassettenspieler"] and "left out" not in said
    assert "is already prepared" in prep(root, "--names", root / "mine.csv")
    (root / "mine.csv").write_text(f"{TENCH},tinca\n")
    assert "with the name tanche for n01440764, not tinca" in prep(
        root, "--names", root / "mine.csv", status=1
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"cat,Katze\n", f"names no class: each line must be a folder, as {TENCH}"),
        (b"", "names no class"),
        (f"{TENCH},B\xe4r\n".encode("latin-1"), "line 1 is not UTF-8: save the file as UTF-8"),
        (f"{TENCH},a\n{TENCH},b\n".encode(), f"line 2: {TENCH} has a second name"),
    ],
)
def test_a_file_of_names_that_does_not_fit(data: bytes, said: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", TENCH, PLAYER)
    (tmp_path / "n.csv").write_bytes(data)
    assert said in prep(root, "--names", tmp_path / "n.csv", status=1).splitlines()[-1]


def test_a_dataset_of_before_keeps_its_words(tmp_path: Path) -> None:
    """Else its fingerprint would change, and no run on it could go on."""
    root = draw(tmp_path / "root", TENCH, PLAYER)
    prep(root)
    path = tmp_path / "data/dataset.json"
    content = json.loads(path.read_text())
    for category in content["classes"]:
        category["words"] = category["wnid"]
    path.write_text(json.dumps(content))
    before = open_dataset(path.parent).fingerprint
    (path.parent / "train/000000.tar").unlink()
    prep(root)
    assert open_dataset(path.parent).fingerprint == before and words_of(root) == [TENCH, PLAYER]


CLASSES = [Category(number, *pair, None) for number, pair in enumerate(ilsvrc_names().items())]


@pytest.mark.parametrize(
    ("text", "wnid"),
    [
        (PLAYER, PLAYER),
        ("cassette player", PLAYER),
        ("Cassette_Player", PLAYER),
        ("482", PLAYER),
        ("0", TENCH),
        ("Tinca tinca", TENCH),
        ("tench, Tinca tinca", TENCH),
        ("gasoline pump", "n03425413"),
    ],
)
def test_a_class_by_its_wnid_a_name_or_its_number(text: str, wnid: str) -> None:
    assert choose_class(CLASSES, text).wnid == wnid


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("casette player", r"has no class casette player; did you mean cassette player \(n02979186, 482\)"),
        ("retriever", r"did you mean .*retriever \(n"),
        ("1000", "has no class 1000: numbers are 0 to 999"),
        ("-1", "has no class -1"),
        ("@@", r"it has tench \(n01440764, 0\), goldfish"),
        ("crane", r"crane is the name of crane \(n02012849, 134\), crane \(n03126707, 517\): give a wnid"),
    ],
)
def test_a_class_that_is_not_known_or_not_one(text: str, said: str) -> None:
    with pytest.raises(RunError, match=said):
        choose_class(CLASSES, text)


def test_what_is_called_as_a_number_is_found_by_that() -> None:
    """Class folders 0, 1, 10, 2: 10 is the third in order, but it is called 10."""
    classes = [Category(number, name, name, None) for number, name in enumerate(["0", "1", "10", "2"])]
    assert choose_class(classes, "10").index == 2 and choose_class(classes, "2").index == 3
    assert choose_class(classes, "3").index == 3 and not find_classes(classes, "3")


def test_names_from_prep_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a class by name, to show gradient and as a photo's folder; an older prep had left wnids."""
    monkeypatch.chdir(tmp_path)
    root = draw(tmp_path / "root", TENCH, PLAYER)
    prep(root)

    def call(*words: object, status: int = 0) -> str:
        result = CliRunner().invoke(main, [*map(str, words), "--run", "r", "--device", "cpu"])
        assert result.exit_code == status, result.output
        return result.output

    path = tmp_path / "data/dataset.json"
    path.write_text(path.read_text().replace("tench, Tinca tinca", TENCH).replace("cassette player", PLAYER))
    call("train", "--data", "data", "--width", 0.02, "--batch-size", 4, "--epochs", 1)
    image = next(root.glob("val/*/*.jpg"))
    for text in "cassette player", PLAYER, 1:
        call("show", "gradient", image, "--class", text, "--out", f"{text}.png")
    pictures = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 3 and all((picture == pictures[0]).all() for picture in pictures)
    assert "did you mean cassette player" in call("show", "gradient", image, "--class", "player", status=1)
    photo = tmp_path / "photos/Cassette Player/1.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(image.read_bytes())
    said = json.loads(call("predict", photo, "--json", "-").partition("\n  images")[0])
    assert said[0]["class"] == {"output": 1, "wnid": PLAYER, "words": "cassette player"}
    assert {guess["words"] for guess in said[0]["guesses"]} == {"tench, Tinca tinca", "cassette player"}
