"""Define alexnet-dali export: write a network for other programs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.display import disk_size, plain, plural, say_row
from model.errors import RunError
from model.recipes import title
from pipeline.atomic import writing

if TYPE_CHECKING:
    import torch

    from cli.compose.trained import Trained

ENDINGS = {  # of the default file, by format
    "safetensors": "safetensors",
    "caffe": "caffe.safetensors",
    "torchvision": "torchvision.safetensors",
    "onnx": "onnx",
}
CHECKED, TOLERANCE = 8, 1e-4  # images, and by how much a probability may differ


@click.command("export")
@options.run
@options.checkpoint
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(ENDINGS)),
    default="safetensors",
    help="Format of the file, as listed above.",
)
@click.option(
    "--out",
    type=options.output,
    help="File to write.  [default: RUN.safetensors, RUN.caffe.safetensors and so on]",
)
@options.force
@options.run_data
def command(run_name: str | None, checkpoint: str, kind: str, out: Path | None, data: Path | None) -> None:
    """Write a network for other programs.

    \b
    safetensors  parameter names of this project; the file also holds recipe,
                 classes and mean image, and every command takes it as --run
    caffe        Caffe's names; conv1 reads BGR, and the factor of dropout is
                 in the weights of fc7 and fc8
    torchvision  names as in torchvision.models.alexnet; grouped convolutions
                 are expanded with zeros. It does not load into that network,
                 which is narrower and has no response normalisation
    onnx         pixels of 0..255 in, probabilities out; checked against this
                 network in onnxruntime on eight validation images

    `train --init-from` and --run also read the first three. docs/export.md has the lines of Python that load
    each format.
    """
    import torch

    from cli.compose import trained
    from model.exchange import onnx, weights

    if kind == "onnx":
        onnx.need_packages()
    run = trained.open_run(run_name, checkpoint, options.Machine(device="cpu", precision="float32"))
    default = Path(f"{trained.title(run.path)}.{ENDINGS[kind]}")
    out = out or default
    if out.suffix != default.suffix:
        raise RunError(f"{out}: the name of a file of this format must end in {default.suffix}")
    options.make_ready(out)
    about = {
        "classes": [asdict(category) for category in run.facts.classes],
        "step": run.step,
        "run": plain(trained.title(run.path)),
        "dataset": run.facts.dataset,
    }
    if kind == "onnx":
        write_onnx(run, out, about, data)
    else:
        content = weights.Weights(run.recipe, run.network.state(), torch.from_numpy(run.facts.mean), about)
        weights.save(out, content, kind)
        say_row("written", f"{out}, {disk_size(out.stat().st_size)}, recipe {title(run.recipe, 'classes')}")
    say_row("next", "docs/export.md has the lines of Python that load this file")


def write_onnx(run: "Trained", out: Path, about: dict[str, Any], data: Path | None) -> None:
    """Write the network as ONNX, after its outputs have been compared with ours."""
    import torch

    from model.exchange import onnx

    images = read_images(run, data)
    content = onnx.to_onnx(run.network, {"recipe": run.recipe.to_dict(), **about})
    with torch.no_grad():
        ours = run.network(images).softmax(1)
    difference = (onnx.run_onnx(content, images) - ours).abs().max().item()
    if not difference <= TOLERANCE:
        raise RunError(
            f"the ONNX network's probabilities differ by {difference:.2g}, so {out} was not written: "
            "try other versions of onnx and onnxruntime"
        )
    with writing(out) as file:
        file.write(content)
    say_row("written", f"{out}, {disk_size(len(content))}, recipe {title(run.recipe, 'classes')}")
    images_read = plural(len(images), "image")
    say_row("checked", f"on {images_read}: its probabilities differ by at most {difference:.1g}")


def read_images(run: "Trained", data: Path | None) -> "torch.Tensor":
    """Return the first validation images, (N, 3, crop, crop), 0..255."""
    images, _ = next(run.batches(run.data(data), "val", batch_size=CHECKED))
    return images.float()
