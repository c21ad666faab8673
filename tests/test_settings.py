"""Settings of one's own: files and --set, what they refuse and where, and recipes written as files."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from cli import main
from model.errors import RunError
from model.layers import Colour, Conv, Full, ResponseNorm
from model.recipe import Phase, Recipe
from model.recipe_toml import explanations, to_toml
from model.recipes import RECIPES, adapted, get_recipe, title
from model.schedule import epochs, stages
from model.settings import Source, make_recipe, read_file, read_set
from pipeline.dataset import Dataset

DOCS = Path(__file__).parent.parent / "docs"


def read(text: str, *sets: str, **overrides: object) -> Recipe:
    """The recipe of a file with this text, for ten classes."""
    file = Source("my.toml", text, tomllib.loads(text), lines=True)
    return make_recipe(file, [read_set(each) for each in sets], 10, **overrides)


@pytest.mark.parametrize("kind", [Recipe, Conv, Full, Colour, ResponseNorm, Phase])
def test_every_setting_is_explained(kind: type) -> None:
    found = explanations(kind)
    assert list(found) == list(kind.__struct_fields__)  # type: ignore[attr-defined]
    assert all(len(text) > 5 or text == "exponent" for text in found.values())


few = st.integers(1, 9)
some = st.floats(0, 10)
names = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
phases = st.lists(st.builds(Phase, epochs=few, factor=some, noise=st.booleans()), min_size=1, max_size=3)
norms = st.builds(ResponseNorm, size=st.sampled_from([3, 5]), alpha=some, k=st.floats(1, 3), beta=some)
convs = st.builds(
    Conv, name=names, maps=few, kernel=few, stride=st.just(1), pad=few, crossing=st.just(True), std=some,
    bias=st.floats(-10, 10), then=st.lists(st.sampled_from(["relu", "lrn", "pool"]), max_size=3).map(tuple),
)  # fmt: skip
fulls = st.builds(Full, name=names, units=few, then=st.sampled_from([(), ("tanh",), ("relu", "dropout")]))
networks = st.builds(
    lambda first, more, last: (*first, *more, Full(last)),
    st.lists(convs, max_size=3), st.lists(fulls, max_size=2), names,
)  # fmt: skip
settings = st.fixed_dictionaries(
    {},
    optional={
        "name": names, "layers": networks, "classes": st.integers(2, 5000), "width": st.floats(0.01, 1),
        "offsets": few, "noise": some, "noise_basis": st.sampled_from(["deviations", "eigenvalues"]),
        "noise_divided": st.booleans(), "mirror": st.booleans(), "lrn": norms, "spatial": norms,
        "keep": st.floats(0.1, 1), "rate": st.floats(1e-12, 10), "decay": some,
        "schedule": st.sampled_from(["plateau", "constant"]) | phases.map(tuple),
        "epochs": few, "patience": few, "batch_size": few,
    },
)  # fmt: skip


@given(st.sampled_from(list(RECIPES)), settings)
def test_what_is_written_is_read_as_the_same_recipe(name: str, changes: dict[str, Any]) -> None:
    try:
        recipe = adapted(get_recipe(name), **changes)
    except RunError:
        assume(False)
    text = to_toml(recipe)
    read_back = make_recipe(Source("my.toml", text, tomllib.loads(text), lines=True), [], None)
    assert read_back == recipe and read_back.to_dict() == recipe.to_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_written_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    printed = CliRunner().invoke(main, ["train", "--show-recipe", "--toml", "--recipe", name])
    path.write_text(printed.output)
    assert make_recipe(read_file(path), [], None) == get_recipe(name)
    # outputs are those of the dataset unless the file says how many
    assert make_recipe(read_file(path), [], 7).classes == 7
    assert printed.output.count("probability that dropout keeps a unit") == 1


def test_a_file_changes_what_it_names() -> None:
    recipe = read(
        'base = "paper"\nkeep = 0.8\n[lrn]\nk = 1\n[layers.conv1]\nkernel = 7\nthen = ["relu", "pool"]\n'
    )
    paper = get_recipe("paper", classes=10)
    first = replace(paper.layers[0], kernel=7, then=("relu", "pool"))
    assert recipe == replace(paper, keep=0.8, lrn=replace(paper.lrn, k=1), layers=(first, *paper.layers[1:]))


def test_later_settings_win() -> None:
    sets = ("keep=0.7", "keep=0.8", "layers.conv1.kernel=9", "schedule=plateau", "lrn.k=3", 'anew=["fc8"]')
    recipe = read("keep = 0.6\nclasses = 12\nwidth = 0.5\n[layers.conv1]\nkernel = 7\n", *sets, width=0.25)
    assert (recipe.keep, recipe.schedule, recipe.lrn.k, recipe.anew) == (0.8, "plateau", 3, ("fc8",))
    assert recipe.layers[0] == replace(get_recipe().layers[0], kernel=9)
    assert (recipe.classes, recipe.width) == (12, 0.25)
    assert read("", "schedule=170").schedule == "170"


def test_a_title_names_what_was_set() -> None:
    assert title(get_recipe("net137")) == "net137"
    assert title(read("", "rate=0.02", "keep=0.8", "noise_divided=false"), "classes") == (
        "original, noise_divided off, keep 0.8, rate 0.02"
    )
    assert title(read("[layers.conv2]\nthen = []\nbias = 0\n", "lrn.k=1", width=0.5), "classes") == (
        "original, conv2.bias 0, conv2.then none, width 0.5, lrn.k 1"
    )
    assert title(read('name = "mine"\nkeep = 0.8\n', width=0.5)) == "mine, width 0.5"
    own = read('[[schedule]]\nepochs = 1\nfactor = 1\n[[layers]]\nkind = "Full"\nname = "fc"\n')
    assert title(own, "classes") == "original, own layers, own schedule"
    many = read(
        "keep = 1\nnoise = 0\nrate = 1\ndecay = 1\nepochs = 1\ncrop = 200\noffsets = 1\npatience = 1\n"
    )
    assert title(many).endswith(", and 3 more")


OWN = """
rate = 0.02
[[schedule]]
epochs = 3
factor = 1
[[schedule]]
epochs = 2
factor = 0.1
frozen = ["conv1"]
[[schedule]]
epochs = 1
factor = 0.5
noise = false
"""


def test_phases_are_followed() -> None:
    """Rates are rate x factor, those of biases twice that; a layer that was frozen learns again."""
    recipe = read(OWN)
    found = [(name, now.weight["conv1"], now.weight["fc8"], now.bias["fc8"], now.noise)
             for name, now in stages(recipe)]  # fmt: skip
    assert found == [
        ("1-3", 0.02, 0.02, 0.04, True),
        ("4-5", 0, pytest.approx(0.002), pytest.approx(0.004), True),
        ("6", 0.01, 0.01, 0.02, False),
    ]
    assert epochs(recipe) == 6
    assert [name for name, _ in stages(adapted(recipe, epochs=12))] == ["1-6", "7-10", "11-12"]
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    still = read("[[schedule]]\nepochs = 1\nfactor = 0\n[[schedule]]\nepochs = 1\nfactor = 1\n")
    assert [now.weight["fc8"] for _, now in stages(still)] == [0, 0.01]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# mine\nkepe = 0.8", "line 2: there is no setting 'kepe'; did you mean keep? Allowed are base, "),
        ('rate = 1\nrecipe = "paper"', "line 2: there is no setting 'recipe'; did you mean base?"),
        ("lr = 0.1", "line 1: there is no setting 'lr'; did you mean rate? Allowed are"),
        ("\n\nkeep = 8", "line 3: keep must be a number <= 1.0"),
        ('rate = "fast"', "line 1: rate must be a number, not a text"),
        ("[layers.conv1\n", "line 1: not valid TOML: "),
        ("keep = 1\nkeep = 1\n", "line 2: not valid TOML: "),
        ("rate = 1\n[layers.conv1]\nkernle = 7", "line 3: there is no setting 'kernle' in layers.conv1; "
         "did you mean kernel? Allowed are name, maps,"),
        ("[layers.conv9]\nkernel = 7", "line 1: there is no layer 'conv9'; did you mean conv5? Allowed are"),
        ('[layers.conv2]\npad = 2\nthen = [\n  "relu",\n  "lnr",\n]', "line 3: invalid enum value "
         "'lnr' at `layers.conv2.then[1]`; allowed are relu, tanh, pool, lrn, spatial, contrast"),
        ("towers = 3", "line 1: invalid enum value 3 at `towers`; allowed are 1, 2"),
        ('[[layers]]\nkind = "Convo"', "line 2: invalid value 'Convo' at `layers[0].kind`; allowed are"),
        ('[[layers]]\nname = "a"', "line 1: object missing required field `kind` at `layers[0]`"),
        ("[[schedule]]\nepochs = 3\nfactor = 1\n[[schedule]]\nepochs = 3\nfactr = 1", "line 6: there is no "
         "setting 'factr' in schedule[1]; did you mean factor? Allowed are epochs, factor, noise, frozen"),
        ('[[schedule]]\nepochs = 3\nfactor = 1\nfrozen = ["conv9"]', "line 1: schedule: frozen names conv9"),
        ("keep = 1\ncrop = 30", "line 2: crop 30 is too small for conv5"),
        ("keep = 1\n[layers.conv2]\nkernel = 70", "line 2: crop 224 is too small for conv2"),
        ("[lrn]\nk = 1\n[spatial]\nsize = 4", "line 3: norms must have odd windows"),
        ("rate = 1\nwidth = 900", "line 2: 46,027,361,318,410 parameters are more than"),
        ('keep = 1\n[[layers]]\nkind = "Conv"\nname = "c"\nmaps = 8\nkernel = 3', "line 2: the last layer"),
        ('[layers.conv2]\nname = "conv1"', "line 1: two layers have one name: conv1, conv1, conv3"),
        ('[layers.conv1]\ncrossing = false', "line 1: conv1 reads the image: it must be crossing"),
        ("lrn = 3", "line 1: lrn must be a table, not a whole number"),
        ("layers = 3", "line 1: layers must be a list, not a whole number"),
        ('base = "orignal"', "line 1: there is no recipe 'orignal'; did you mean original? Allowed are"),
        ('name = "../x"', "line 1: name must be a text matching regex"),
        ("crop = 1979-05-27", "line 1: crop must be a whole number, not a date"),
    ],
)  # fmt: skip
def test_an_error_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(RunError) as error:
        make_recipe(read_file(path), [], 10)
    assert str(error.value).startswith(f"{path}, {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["rat=1"], "--set rat=1: there is no setting 'rat'; did you mean rate?"),
        (["noise=0", "keep=abc", "rate=1"], "--set keep=abc: keep must be a number, not a text"),
        (["layers.conv2.kernel=70"], "--set layers.conv2.kernel=70: crop 224 is too small for conv2"),
        (["keep=0.5", "keep=2"], "--set keep=2: keep must be a number <= 1.0"),
    ],
)
def test_an_error_names_the_set(sets: list[str], message: str) -> None:
    with pytest.raises(RunError) as error:
        make_recipe("original", [read_set(each) for each in sets], None)
    assert str(error.value).startswith(message)


keys = st.sampled_from([
    *Recipe.__struct_fields__, *Conv.__struct_fields__, "conv1", "fc6", "kind", "epochs", "factor", "base"
])  # fmt: skip
values = st.recursive(
    st.integers(-2, 300)
    | st.floats()
    | st.booleans()
    | st.sampled_from(["Conv", "Full", "relu", "conv1", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
)


@given(st.dictionaries(keys, values, min_size=1, max_size=3))
def test_any_value_makes_a_recipe_or_one_line(found: dict[str, Any]) -> None:
    try:
        make_recipe(Source("my.toml", "", found, lines=False), [], 10)
    except RunError as error:
        assert str(error).startswith("my.toml: ") and "\n" not in str(error)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for words, status, message in (
        (("train", "--recipe", "orignal"), 2, "there is no recipe 'orignal'; did you mean original?"),
        (("bench", "--recipe", tmp_path / "none.toml"), 1, "none.toml: No such file"),
        (
            ("train", "--recipe", tmp_path / "binary.toml"),
            1,
            "binary.toml is not a TOML file: save it",
        ),
        (("train", "--set", "keep"), 2, "'keep' is not of the form KEY=VALUE, as keep=0.8"),
        (("train", "--set", "base=paper"), 2, "give the recipe by --recipe"),
        (
            ("train", "--show-recipe", "--set", "width=0.5", "--width", 1),
            2,
            "width=0.5 and --width: give one",
        ),
        (("train", "--show-recipe", "--set", "keep=2"), 1, "--set keep=2: keep must be a number <= 1.0"),
        (("show", "batch", "--run", "x", "--set", "keep=1"), 2, "--run has its own recipe: leave out"),
        (("train", "--toml"), 2, "--toml needs --show-recipe"),
    ):
        result = run(*words)
        assert result.exit_code == status and message in result.output.splitlines()[-1], result.output


def test_a_batch_is_drawn_with_what_is_set(dataset: Dataset, tmp_path: Path) -> None:
    pictures = []
    for name, sets in (("a.png", ()), ("b.png", ()), ("c.png", ("--set", "noise=3"))):
        words = ("show", "batch", "--data", dataset.root, "--count", 2, "--out", tmp_path / name, *sets)
        assert run(*words).exit_code == 0
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_run_knows_what_was_set(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("rate = 0.02\n[layers.fc6]\nunits = 64\n")
    words = ("train", "--data", dataset.root, "--run", tmp_path / "run", "--device", "cpu", "--width", 0.02,
             "--batch-size", 14, "--epochs", 1, "--recipe", tmp_path / "my.toml")  # fmt: skip
    trained = run(*words, "--set", "keep=0.8")
    told = "recipe original, fc6.units 64, width 0.02, keep 0.8"
    assert trained.exit_code == 0 and f"  network   {told}, rate 0.02, " in trained.output, trained.output
    assert run(*words, "--set", "keep=0.8").exit_code == 0
    for other, message in (
        ("keep=0.7", "keep 0.8, not 0.7"),
        ("lrn.k=1", "keep 0.8, not 0.5; "),
        ("layers.fc6.units=32", "fc6 units 64, not 32"),
        ("layers.conv1.std=0.02", "conv1 std 0.01, not 0.02"),
    ):
        sets = ("--set", other) if other in ("keep=0.7", "lrn.k=1") else ("--set", "keep=0.8", "--set", other)
        refused = run(*words, *sets)
        assert refused.exit_code == 1 and f"was started with {message}" in refused.output, refused.output
    evaluated = run("eval", "--run", tmp_path / "run", "--device", "cpu")
    assert f"  network   {told}, batch_size 14, rate 0.02, epochs 1\n" in evaluated.output
    exported = run("export", "--run", tmp_path / "run", "--out", tmp_path / "net.safetensors")
    assert told in exported.output


def test_the_files_of_the_documentation_are_read() -> None:
    text = (DOCS / "recipes.md").read_text()
    found = [part.split("```")[0] for part in text.split("```toml\n")[1:]]
    assert found
    for each in found:
        recipe = read(each)
        assert recipe.shapes()[-1].weight[0] == 10
        assert recipe.needed == 64 and epochs(recipe) == 30
