"""The promises of docs/promises.md that are proved in minutes: each prints its count."""

from __future__ import annotations

import pytest

from tests.conftest import S3Server
from tests.promises import s3_faults
from tests.promises.counting import count

pytestmark = pytest.mark.process


def test_r2_faults_of_an_s3_server_are_ridden_out_or_named(s3_server: S3Server) -> None:
    servers = s3_faults.Servers(s3_server)
    try:
        outcome = count("R2", s3_faults.cases(servers), workers=12)
    finally:
        servers.close()
    assert outcome.broken == []
    assert outcome.total >= 216
