"""Options that verbs share, each with its help text."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from components.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def store_uri(value: str) -> str:
    """Return the URI of a store that may be given as a path; `~` is the home folder."""
    # `s3:/bucket` is a typo, and no folder of that name.
    if not value or _SCHEME.match(value):
        return value
    return with_home(Path(value)).absolute().as_uri()


def path_of_user(value: Path | None) -> Path | None:
    """Return a path with the home folder for `~`: a shell leaves that of `--output=~/x` alone."""
    return None if value is None else with_home(value)


def with_home(path: Path) -> Path:
    """Return a path with the home folder for its `~`. UserError for one of nobody's."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: there is no home folder for {path.parts[0]}"
        ) from None


def output_option(metavar: str, meaning: str) -> Any:
    """Return the option `--output` of a verb, a path.

    Args:
        metavar: FILE or FOLDER.
        meaning: Help text.
    """
    return typer.Option(
        "-o", "--output", metavar=metavar, callback=path_of_user, help=meaning
    )


# typer reads these annotations at run time and does not know `str | None` in a string on every
# Python we support.
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")
]
RecipeOrPackage = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="Recipe, or a package that `compile` made."),
]
RecipeToCheck = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Argument(metavar="[RECIPE]", help="Recipe of the run.", show_default=False),
]
Override = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe: section.key=value. May be repeated.",
    ),
]
StoreUri = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="RATCHET_STORE",
        metavar="URI",
        show_default=False,
        callback=store_uri,
        help="A folder or s3://bucket/prefix; by default .ratchet/store here.",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=0,
        max=4,
        help="Rounds unrolled; for more, start another run with resume_from.",
    ),
]
# More than on a cluster: here no Workflow object limits the number of tasks.
LocalRounds = Annotated[
    int, typer.Option(min=0, max=16, help="Rounds unrolled into the pipeline.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="small, cpu, gpu-1, gpu-8, multi-node, or a YAML file of your own.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        envvar="RATCHET_NAMESPACE",
        metavar="NAME",
        show_default=False,
        help="Namespace of the runs.",
    ),
]
# No default: pods share no disk, so the store in the working folder is none for them.
ClusterStore = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="RATCHET_STORE",
        metavar="URI",
        show_default=False,
        help="s3://bucket/prefix",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        metavar="URL",
        show_default=False,
        help="The API of Kubeflow Pipelines.",
    ),
]
# No option holds a token itself: every user of a machine sees the command lines on it.
TokenFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        envvar="KF_PIPELINES_SA_TOKEN_PATH",
        metavar="FILE",
        show_default=False,
        callback=path_of_user,
        help="Bearer token, read anew for every call. Without one: KF_PIPELINES_TOKEN.",
    ),
]
Parameters = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="A parameter of the pipeline. May be repeated.",
    ),
]
Experiment = Annotated[
    str, typer.Option(metavar="NAME", help="Kubeflow's folder of runs.")
]
Account = Annotated[
    str, typer.Option(metavar="NAME", help="Service account of the pods.")
]
Commit = Annotated[
    str,
    typer.Option(
        metavar="SHA",
        show_default=False,
        help="Commit of the code; by default this checkout's.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Options of every verb that creates something on a cluster."""

    recipe: RecipeOrPackage
    store: ClusterStore = ""
    endpoint: Endpoint = ""
    namespace: Namespace = ""
    override: Override = None
    rounds: Rounds = 4
    profile: ProfileName = "cpu"
    param: Parameters = None
    commit: Commit = ""
    experiment: Experiment = "ratchet"
    service_account: Account = "ratchet-run"
    token_file: TokenFile = None
    as_json: AsJson = False


def with_cluster_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb whose command line has the fields of ClusterOptions in place of `options`.

    Args:
        verb: A function with a parameter `options: ClusterOptions`.
    """
    # typer reads a verb's options from its signature alone.
    shared_hints = get_type_hints(ClusterOptions, include_extras=True)
    shared = [
        parameter.replace(annotation=shared_hints[name])
        for name, parameter in inspect.signature(ClusterOptions).parameters.items()
    ]
    verb_hints = get_type_hints(verb, include_extras=True)
    verb_parameters = [
        parameter.replace(
            annotation=verb_hints[name], kind=inspect.Parameter.KEYWORD_ONLY
        )
        for name, parameter in inspect.signature(verb).parameters.items()
        if name != "options"
    ]

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        shared_values = {
            field.name: values.pop(field.name) for field in fields(ClusterOptions)
        }
        verb(options=ClusterOptions(**shared_values), **values)

    # typer asks for the hints too, and finds them in the signature.
    command.__annotations__ = {}
    signature = inspect.Signature([*shared, *verb_parameters])
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command
