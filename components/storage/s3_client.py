"""Clients of boto3, made from the environment."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from components.errors import UserError, one_line
from components.storage.s3_calls import S3Patience, count_attempt
from components.storage.s3_errors import shown_endpoint

MAX_TRANSFERS = 4
"""Transfers of one file side by side."""

Client = Any
"""A boto3 S3 client or session; boto3 makes its methods at run time and has no types."""


def new_core_session() -> Client:
    """Return a session of botocore that shares with the others what it reads from files."""
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _service_descriptions())
    return session


@functools.cache
def _service_descriptions() -> Client:
    """Return what reads the descriptions of services; that of S3 takes a tenth of a second."""
    import botocore.session

    return botocore.session.Session().get_component("data_loader")


def make_client(
    session: Client, environment: Mapping[str, str], patience: S3Patience
) -> Client:
    """Return a client whose requests are counted. Raises UserError for a wrong endpoint."""
    from botocore.config import Config

    endpoint = endpoint_of(environment)
    region = (
        environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or session.region_name
    )
    request_checksum = switch(environment, "RATCHET_S3_REQUEST_CHECKSUM")
    config = Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.answer_seconds,
        max_pool_connections=2 * MAX_TRANSFERS,
        retries={"mode": "standard", "total_max_attempts": patience.tries},
        request_checksum_calculation=request_checksum,
        response_checksum_validation=switch(
            environment, "RATCHET_S3_RESPONSE_CHECKSUM"
        ),
        s3={
            # Servers of one's own rarely have a DNS name for each bucket.
            "addressing_style": "path" if endpoint else "auto",
            # Without checksum headers the signature has to cover the bytes, over https too.
            "payload_signing_enabled": request_checksum == "when_required",
        },
    )
    try:
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            # boto3 signs with a region even where the server has none.
            region_name=region or "us-east-1",
            config=config,
        )
    except ValueError as error:
        raise UserError(
            f"S3 endpoint {shown_endpoint(endpoint)}: {one_line(error)}"
        ) from error
    client.meta.events.register("before-send.s3", count_attempt)
    return client


def endpoint_of(environment: Mapping[str, str]) -> str | None:
    """Return the server's address; None for AWS."""
    return (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or None
    )


def switch(environment: Mapping[str, str], name: str) -> str:
    """Return when checksums are used; raise UserError for another word."""
    value = environment.get(name) or "when_supported"
    if value not in ("when_supported", "when_required"):
        raise UserError(f"{name}={value}: use when_supported or when_required")
    return value
