"""``twoscale export``: a model for other inference engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from coupling.errors import ModelError
from coupling.terminal import answer, errors_told


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model or program folder, or module:object")],
    triton: Annotated[
        Path | None, typer.Option(metavar="REPOSITORY", help="add it to this model repository of a Triton server")
    ] = None,
    program: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write it as a torch.export program with its card")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="of the model in the repository; default: that of the folder")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="points that Triton evaluates at once at most")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Export a model: for Triton, as ONNX with flux and tangent, or as a program that needs torch alone.

    A model that is in the repository already gets a further version.

    [b]Exit code[/b]: 1 where the model cannot be exported.

    [b]Examples[/b]:

    twoscale export void-model --triton /srv/models --name void

    twoscale export my_package.laws:damage --program damage-program
    """
    if triton is None and program is None:
        raise typer.BadParameter("say where to: --triton REPOSITORY, --program FOLDER, or both")
    with errors_told():
        from coupling.serving.loading import load
        from surrogates.model_folder import TrainedSurrogate
        from surrogates.program import program_of
        from surrogates.program_folder import save_program
        from surrogates.torch_surrogate import TorchSurrogate
        from surrogates.triton_repository import export_triton

        surrogate = load(model, "cpu")
        if not isinstance(surrogate, TrainedSurrogate | TorchSurrogate):
            kind = type(surrogate).__name__
            raise ModelError(f"{model} is a {kind}; trained surrogates and torch surrogates can be exported")
        written = {}
        if program is not None:
            save_program(*program_of(surrogate), program)
            written["program"] = str(program)
        if triton is not None:
            name = name or Path(model.rpartition(":")[2]).resolve().name
            written["triton"] = str(export_triton(surrogate, triton, name=name, max_batch_size=max_batch_size))
        table = Table("form", "where", title=escape(model))
        for form, place in written.items():
            table.add_row(form, escape(place))
        answer(written, [table], as_json=as_json)
