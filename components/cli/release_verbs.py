"""The verbs for releases: releases, approve, rollback, announce, serve, upload."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.console import Console

from components.cli.messages import print_json, print_result
from components.cli.options import AsJson, StoreUri
from components.cli.stores import existing_run, open_context
from components.errors import UserError

ReleaseName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of the releases, `publish.name` of the recipe."
    ),
]


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command()(releases)
    app.command()(approve)
    app.command()(rollback)
    app.command()(announce)
    app.command()(serve)
    app.command()(upload)


def releases(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name; by default all names are listed."),
    ] = "",
    latest: Annotated[
        bool,
        typer.Option(
            "--latest", help="Print the folder of the release in force, no more."
        ),
    ] = False,
    checksums: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="Print SHA-256 and name of each file of a version, as `sha256sum -c` reads them.",
        ),
    ] = "",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """List the releases of a name: what was compared, who asked, and which one is in force."""
    from components.cli.releases import (
        digests_of,
        document_of,
        lines_of,
        print_releases,
    )
    from components.runtime import ledger

    if checksums and not name:
        raise UserError(
            "--checksums is of one release: name it, as `releases` lists the names"
        )
    context = open_context(store)
    if not name:
        newest_versions = {
            release_name: lines_of(context, release_name)[-1].version
            for release_name in ledger.names(context)
        }
        lines = [
            f"{release_name}  {version}"
            for release_name, version in newest_versions.items()
        ]
        text = "\n".join(lines) or "nothing was released yet"
        print_result({"names": newest_versions}, as_json, text)
    elif checksums:
        digests = digests_of(context, name, checksums)
        checksum_lines = [
            f"{digest}  {file}" for file, digest in sorted(digests.items())
        ]
        print_result(digests, as_json, "\n".join(checksum_lines))
    elif as_json:
        print_json(document_of(context, name))
    elif latest:
        typer.echo(f"{context.store.root}/{lines_of(context, name)[-1].prefix}")
    else:
        print_releases(Console(), context, name)


def approve(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run, or latest.")],
    version: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="Refuse unless this is what waits, as the report names it.",
        ),
    ] = "",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Release the champion of a run that waits for approval (`publish.approval: required`)."""
    from components.cli.releases import approve_run

    context = open_context(store)
    line = approve_run(context, existing_run(context, run_id), version)
    assert line.approval is not None, "it was just approved"
    print_result(
        line.model_dump(mode="json"),
        as_json,
        f"line {line.number}: {line.name} {line.version} was approved by "
        f"{line.approval.approved_by} at {line.approval.at}, {context.store.root}/{line.prefix}",
    )


def rollback(
    name: ReleaseName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Version, or number of its line.")
    ],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Put an earlier release in force again. Adds a line to the ledger; nothing is deleted."""
    from components.cli.releases import roll_back

    context = open_context(store)
    line = roll_back(context, name, version)
    print_result(
        line.model_dump(mode="json"),
        as_json,
        f"line {line.number}: {name} {line.version} is in force, "
        f"{context.store.root}/{line.prefix}",
    )


def announce(
    name: ReleaseName,
    platforms: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="PLATFORM",
            help="model-registry or mlflow, also several times; by default those of the recipe "
            "of the release in force.",
        ),
    ] = None,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Enter on platforms what they miss of a name's releases. Said again, nothing changes."""
    from components.cli.releases import announce_name, platforms_of

    context = open_context(store)
    announcements = announce_name(context, name, platforms_of(platforms or ()))
    documents = [dataclasses.asdict(announced) for announced in announcements]
    text = "\n".join(map(str, announcements))
    print_result({"name": name, "platforms": documents}, as_json, text)
    problems = [announced.exit_code for announced in announcements if announced.problem]
    if problems:
        raise typer.Exit(problems[0])


def serve(
    name: ReleaseName,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the InferenceService.")
    ] = "ratchet",
    namespace: Annotated[
        str,
        typer.Option(metavar="NAMESPACE", help="Namespace of the InferenceService."),
    ] = "ratchet",
    canary_percent: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99,
            help="Share of the requests that the release gets, in percent; the one served before "
            "gets the others. By default it gets all.",
        ),
    ] = None,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Have KServe serve the release in force. Said again, nothing changes."""
    from components.cli.doctor.api_server import ApiServer
    from components.cli.serving import serve as serve_release

    context = open_context(store)
    served = serve_release(
        context,
        ApiServer.from_environment(context.environment),
        name,
        namespace=namespace,
        service=service,
        canary_percent=canary_percent,
    )
    share = "all" if served.canary_percent is None else f"{served.canary_percent} %"
    verb = "serves" if served.changed else "serves already"
    print_result(
        dataclasses.asdict(served),
        as_json,
        f"{served.service} {verb} {name} {served.version} (line {served.line}) for {share} of its "
        f"requests, {served.uri}",
    )


def upload(
    name: ReleaseName,
    target: Annotated[
        str,
        typer.Argument(
            metavar="REPOSITORY", help="Repository of the hub, hf://org/model."
        ),
    ],
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="A repository that is made may be seen by everybody."
        ),
    ] = False,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Put the release in force into a repository of the model hub, with a tag of its version."""
    from components.cli.hub_upload import upload as upload_release

    context = open_context(store)
    uploaded = upload_release(context, name, target, private=not public)
    state = "was uploaded" if uploaded.changed else "was there already"
    print_result(
        dataclasses.asdict(uploaded),
        as_json,
        f"{name} {uploaded.version} (line {uploaded.line}) {state}: {uploaded.uri}",
    )
