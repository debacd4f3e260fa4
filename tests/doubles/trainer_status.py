"""The status server of Kubeflow Trainer: over TLS of its own authority, with a token for each job."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubeflow_trainer_api.models.trainer_v1alpha1_update_train_job_status_request import (
    TrainerV1alpha1UpdateTrainJobStatusRequest,
)

from tests.doubles.network import Answering
from tests.doubles.served import Served


class TrainerStatusServer(Served):
    """The server; close it when done."""

    def __init__(self, folder: Path) -> None:
        self.reports: list[TrainerV1alpha1UpdateTrainJobStatusRequest] = []
        """Reports that were accepted, as the typed models of the Trainer read them."""
        self.requests = 0
        self.token = "first"
        self.status = 200
        self.ca_file = folder / "ca.crt"
        self.token_file = folder / "token"
        self.token_file.write_text(self.token)
        self.serve(self._handler())
        key_file = folder / "key.pem"
        _write_certificate(self.ca_file, key_file)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(self.ca_file, key_file)
        self._http.socket = trust.wrap_socket(self._http.socket, server_side=True)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the Trainer sets in the pods of a job."""
        return {
            "KUBEFLOW_TRAINER_SERVER_URL": self.endpoint.replace("http:", "https:")
            + "/status",
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(self.ca_file),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.token_file),
        }

    def _handler(self) -> type[Answering]:
        server = self

        class Handler(Answering):
            def do_POST(self) -> None:
                server.requests += 1
                sent = self.sent_bytes()
                if self.headers.get("Authorization") != f"Bearer {server.token}":
                    return self.answer(401, {"reason": "Unauthorized"})
                if server.status == 200:
                    document: dict[str, Any] = json.loads(sent)
                    report = TrainerV1alpha1UpdateTrainJobStatusRequest.from_dict(
                        document
                    )
                    assert report is not None
                    server.reports.append(report)
                return self.answer(server.status, {})

        return Handler


def _write_certificate(file: Path, key_file: Path) -> None:
    """Write a certificate of 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainer")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
