"""What an S3 server's refusals and a broken network mean: UserError, Transient, Missing or Corrupt,
in one line.

botocore is imported on first use only, like boto3 in s3.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.errors import Corrupt, Missing, RatchetError, Transient, UserError

_DAMAGED = ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
_ELSEWHERE = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
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
def s3_errors(*, where: str, bucket: str, server: str, reached_before: bool) -> Iterator[None]:
    """Turn what boto3 raises into one line that names the object, the bucket and the endpoint;
    never a secret.

    An endpoint that cannot be reached is the user's to mend at first contact, and a passing fault
    later.
    """
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _refused(error, where, bucket, server) from error
    except aws.FlexibleChecksumError as error:
        raise Corrupt(
            f"{where}: the bytes do not fit the checksum kept by {server}; restore it"
        ) from error
    except (
        aws.EndpointConnectionError,
        aws.ConnectTimeoutError,
        aws.ProxyConnectionError,
    ) as error:
        if not reached_before:
            raise UserError(
                f"{where}: {server} cannot be reached; check AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL), the "
                "proxy settings and that the server runs"
            ) from error
        raise Transient(f"{where}: {server} cannot be reached any more") from error
    except aws.SSLError as error:
        raise UserError(
            f"{where}: no trusted TLS connection to {server}; set AWS_CA_BUNDLE to its CA, or check http or https"
        ) from error
    except (aws.HTTPClientError, aws.IncompleteReadError) as error:
        raise Transient(
            f"{where}: the connection to {server} broke off ({type(error).__name__})"
        ) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise UserError(
            f"{where}: no complete S3 credentials for {server}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or run under a role"
        ) from error
    except aws.BotoCoreError as error:
        raise UserError(f"{where}: {server} cannot be used: {one_line(str(error))}") from error


def shown_endpoint(endpoint: str | None) -> str:
    """An endpoint for messages, without a user name or password that its URL may hold."""
    if endpoint is None:
        return "of AWS"
    scheme, marker, rest = endpoint.partition("://")
    return scheme + marker + rest.rpartition("@")[2]


def status_of(error: Any) -> int:
    """HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def one_line(text: str) -> str:
    """Text of a server, safe for one line of a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:200]


def _refused(error: Any, where: str, bucket: str, server: str) -> RatchetError:
    """What an error answer of the server means."""
    status, code = status_of(error), str(error.response.get("Error", {}).get("Code", ""))
    said = one_line(f"{code}: {error.response.get('Error', {}).get('Message', '')}")
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return UserError(
            f"{where}: there is no bucket {bucket} on {server}; make it, or correct the store's URI"
        )
    if status == 404:
        return Missing(f"{where} does not exist")
    if code in _ELSEWHERE:
        return UserError(
            f"{where}: bucket {bucket} on {server} is in another region ({said}); set AWS_REGION"
        )
    if code == "RequestTimeTooSkewed":
        return UserError(f"{where}: {server} refuses the time of this machine; set its clock")
    if status in (401, 403) or code in _EXPIRED:
        return UserError(
            f"{where}: {server} refuses bucket {bucket} to these credentials ({said}); check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and that they may list, read and write below the prefix"
        )
    if code in _DAMAGED:
        return Transient(
            f"{where}: {server} got other bytes than were sent ({said}) and stored nothing"
        )
    if status == 507:
        return UserError(f"{where}: {server} is full ({said})")
    if status == 501:
        return UserError(
            f"{where}: {server} cannot do this ({said}); it needs conditional writes and multipart uploads, and "
            "RATCHET_S3_REQUEST_CHECKSUM=when_required if it knows no checksums"
        )
    if status >= 500 or status in (408, 429) or code in _BUSY:
        return Transient(f"{where}: {server} could not answer ({said})")
    return UserError(f"{where}: {server} refused the request ({said})")
