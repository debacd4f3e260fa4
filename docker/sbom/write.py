"""Write a bill of materials (CycloneDX, JSON) for each image: `make sbom`.

    python docker/sbom/write.py ENVIRONMENT FOLDER

What an image holds, with the hash of each file that pip may take, is read from its lock file; the
licences are those that the packages of ENVIRONMENT declare, since locks have none: a package that
declares none in its metadata, or is in images for GPUs alone, stands without one. Both readings are
cyclonedx-py's. The same locks and environment give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

LOCKS = Path(__file__).resolve().parents[1] / "requirements"
IMAGES = ("cpu", "generate", "train", "generate-cuda", "train-cuda")

Bill = dict[str, Any]


def main() -> None:
    """Write FOLDER/NAME.cdx.json for each image."""
    environment, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    installed = bill_by("environment", environment)
    licences = {
        name_of(one): one["licenses"]
        for one in installed["components"]
        if "licenses" in one
    }
    for image in IMAGES:
        bill = bill_by("requirements", str(LOCKS / f"{image}.lock"))
        bill["metadata"]["component"] = {
            "type": "container",
            "name": f"ratchet/{image}",
        }
        for component in bill["components"]:
            # The tool puts the line of the lock there, hashes and all.
            del component["description"]
            if declared := licences.get(name_of(component)):
                component["licenses"] = declared
        text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
        if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
            sys.exit(f"error: the bill of {image} is no CycloneDX 1.6: {fault}")
        path = folder / f"{image}.cdx.json"
        path.write_text(text, encoding="utf-8")
        unknown = sum("licenses" not in one for one in bill["components"])
        print(
            f"{path}: {len(bill['components'])} packages, {unknown} of them without a licence"
        )


def bill_by(reader: str, source: str) -> Bill:
    """Return what a reader of cyclonedx-py makes of a lock file or an environment."""
    command = [sys.executable, "-m", "cyclonedx_py", reader, source]
    command += ["--spec-version=1.6", "--output-reproducible", "--output-format=JSON"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    bill: Bill = json.loads(done.stdout)
    return bill


def name_of(component: Bill) -> str:
    """Return the name of a package in its one spelling, as its URL has it."""
    name, _, _ = str(component["purl"]).removeprefix("pkg:pypi/").partition("@")
    return name


if __name__ == "__main__":
    main()
