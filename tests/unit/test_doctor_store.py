"""A store that would end a run is found before it begins, named, with what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.cli.doctor.findings import Finding
from components.cli.doctor.store_checks import store_checks
from tests.conftest import BUCKET, READER_KEY, READER_SECRET, S3Server
from tests.doubles.network import RudeServer
from tests.unit.doctoring import bad, by_check


def store(
    uri: str, environment: dict[str, str], ahead_seconds: float = 0.0
) -> list[Finding]:
    return list(store_checks(uri, environment, lambda: time.time() + ahead_seconds))


def test_a_sound_store_passes_every_check_and_keeps_one_small_object(
    s3_server: S3Server,
) -> None:
    uri = s3_server.new_uri()
    findings = store(uri, s3_server.environment)
    assert [(one.check, one.status) for one in findings] == [
        (f"store {name}", "ok")
        for name in (
            "endpoint",
            "credentials",
            "write",
            "write-once",
            "checksums",
            "multipart",
            "clock",
            "delete",
        )
    ]
    prefix = uri.removeprefix(f"s3://{BUCKET}/")
    left = s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert [one["Key"] for one in left] == [f"{prefix}/probe/write-once.json"]


def test_a_server_without_conditional_writes_and_checksums_is_found_out() -> None:
    rude = RudeServer()
    found = by_check(store("s3://bucket/prefix", rude.environment))
    rude.close()
    once, sums = found["store write-once"], found["store checksums"]
    assert (once.status, sums.status) == ("failed", "failed")
    assert once.found.startswith("16 of 16 writers")
    assert "conditional writes" in once.cure
    assert "wrong SHA-256" in sums.found
    assert found["store multipart"].status == "failed"


def test_checksums_that_the_user_switched_off_are_not_tried() -> None:
    rude = RudeServer()
    found = by_check(
        store(
            "s3://bucket/p",
            {**rude.environment, "RATCHET_S3_REQUEST_CHECKSUM": "when_required"},
        )
    )
    rude.close()
    assert found["store checksums"].status == "skipped"


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (
            {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
            "store endpoint",
            "cannot be reached",
        ),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "store credentials", "refuses bucket"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "store credentials", "refuses bucket"),
        (
            {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
            "store write",
            "refuses bucket",
        ),
    ],
)
def test_a_store_that_cannot_be_used_ends_its_checks_with_the_reason(
    s3_server: S3Server, change: dict[str, str], check: str, said: str
) -> None:
    findings = store(s3_server.new_uri(), {**s3_server.environment, **change})
    assert bad(findings) == [check]
    last = by_check(findings)[check]
    assert said in last.found
    assert last.cure.startswith("check ")
    assert not any(
        secret in str(findings) for secret in ("that-no-message-may-show", "wrong")
    )


def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    findings = store("s3://no-such-bucket/p", s3_server.environment)
    assert "no bucket no-such-bucket" in by_check(findings)["store credentials"].found


@pytest.mark.parametrize(
    ("ahead", "said"), [(900.0, "s ahead of"), (-400.0, "s behind")]
)
def test_a_clock_that_is_off_is_found(
    s3_server: S3Server, ahead: float, said: str
) -> None:
    checks = by_check(store(s3_server.new_uri(), s3_server.environment, ahead))
    found = checks["store clock"]
    assert found.status == "failed"
    assert said in found.found
    assert "NTP" in found.cure


def test_a_folder_is_no_store_for_pods(tmp_path: Path) -> None:
    [one] = store((tmp_path / "store").as_uri(), {})
    assert (one.status, "s3://" in one.cure) == ("warning", True)
