"""Turn S3 refusals and network faults into UserError, Transient, Missing or Corrupt, in one line.

botocore is imported on first use only, like boto3 in s3.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.errors import (
    Corrupt,
    Missing,
    RatchetError,
    Transient,
    UserError,
    one_line,
)
from components.storage.s3_calls import CallTimeout, S3Call

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_DAMAGED_IN_TRANSIT = (
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
)
_OTHER_REGION = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    # botocore takes the status for the code where a redirect has no body.
    "301",
    "307",
)
_BUSY = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestLimitExceeded",
    "TooManyRequests",
)
_EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")


@contextmanager
def s3_errors(
    *, call: S3Call, object_uri: str, bucket: str, server: str, reached_before: bool
) -> Iterator[None]:
    """Turn boto3's exceptions into one line, which never shows a secret.

    It names object, bucket and endpoint, the operation, its attempts and the time they took. An
    endpoint that cannot be reached is a UserError at first contact, and Transient later.
    """
    try:
        with _translated(object_uri, bucket, server, reached_before):
            yield
    except RatchetError as error:
        raise type(error)(f"{error} [{call}]") from error.__cause__


@contextmanager
def _translated(
    object_uri: str, bucket: str, server: str, reached_before: bool
) -> Iterator[None]:
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _refused(error, object_uri, bucket, server) from error
    except CallTimeout as error:
        raise Transient(
            f"{object_uri}: {server} did not finish its answer in time"
        ) from error
    except aws.FlexibleChecksumError as error:
        raise Corrupt(
            f"{object_uri}: the bytes do not fit the checksum kept by {server}; restore it"
        ) from error
    except (
        aws.EndpointConnectionError,
        aws.ConnectTimeoutError,
        aws.ProxyConnectionError,
    ) as error:
        if not reached_before:
            raise UserError(
                f"{object_uri}: {server} cannot be reached; check AWS_ENDPOINT_URL_S3 (or "
                "AWS_ENDPOINT_URL), the proxy settings and that the server runs"
            ) from error
        raise Transient(f"{object_uri}: {server} cannot be reached any more") from error
    except aws.SSLError as error:
        raise UserError(
            f"{object_uri}: no trusted TLS connection to {server}; set AWS_CA_BUNDLE to its CA, "
            "or check http or https"
        ) from error
    except (aws.HTTPClientError, aws.IncompleteReadError) as error:
        raise Transient(
            f"{object_uri}: the connection to {server} broke off ({type(error).__name__})"
        ) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise UserError(
            f"{object_uri}: no complete S3 credentials for {server}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run under a role"
        ) from error
    except aws.BotoCoreError as error:
        # The base of all of these but ClientError, so this clause stays last.
        raise UserError(
            f"{object_uri}: {server} cannot be used: {one_line(error)}"
        ) from error


def shown_endpoint(endpoint: str | None) -> str:
    """Return the endpoint for messages, without a user name or password that its URL may hold."""
    if endpoint is None:
        return "of AWS"
    scheme, separator, address = endpoint.partition("://")
    _, _, host = address.rpartition("@")
    return f"{scheme}{separator}{host}"


def status_of(error: ClientError) -> int:
    """Return the HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refused(
    error: ClientError, object_uri: str, bucket: str, server: str
) -> RatchetError:
    """Return the project's exception for an error answer of the server."""
    status = status_of(error)
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    explanation = one_line(f"{code}: {answer.get('Message', '')}")
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return UserError(
            f"{object_uri}: there is no bucket {bucket} on {server}; make it, or correct the "
            "store's URI"
        )
    # A HEAD has no body, so its code is the bare status.
    if status == 404:
        return Missing(f"{object_uri} does not exist")
    if code in _OTHER_REGION:
        return UserError(
            f"{object_uri}: bucket {bucket} on {server} is in another region ({explanation}); set "
            "AWS_REGION"
        )
    # Signatures hold the time, and servers allow 15 minutes of difference.
    if code == "RequestTimeTooSkewed":
        return UserError(
            f"{object_uri}: {server} refuses the time of this machine; set its clock"
        )
    if status in (401, 403) or code in _EXPIRED:
        return UserError(
            f"{object_uri}: {server} refuses bucket {bucket} to these credentials "
            f"({explanation}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they "
            "may list, read and write below the prefix"
        )
    # The server compared checksums: nothing was stored, and the next try sends the bytes again.
    if code in _DAMAGED_IN_TRANSIT:
        return Transient(
            f"{object_uri}: {server} got other bytes than were sent ({explanation}) and stored "
            "nothing"
        )
    if status == 507:
        return UserError(f"{object_uri}: {server} is full ({explanation})")
    if status == 501:
        return UserError(
            f"{object_uri}: {server} cannot do this ({explanation}); it needs conditional writes "
            "and multipart uploads, and RATCHET_S3_REQUEST_CHECKSUM=when_required if it knows no "
            "checksums"
        )
    if status >= 500 or status in (408, 429) or code in _BUSY:
        return Transient(f"{object_uri}: {server} could not answer ({explanation})")
    return UserError(f"{object_uri}: {server} refused the request ({explanation})")
