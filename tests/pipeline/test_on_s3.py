"""A campaign in a bucket of a real S3 server comes to the same as one in a folder."""

from __future__ import annotations

import json

from components.storage.store import open_store
from tests.conftest import SECRET_KEY, S3Server
from tests.pipeline.campaigns import Place, Run, round_tasks, state_object
from tests.pipeline.conftest import MakePlace


def test_a_campaign_in_a_bucket_has_the_receipts_of_one_in_a_folder(
    whole: tuple[Place, Run], make_place: MakePlace, s3_server: S3Server
) -> None:
    folder, expected = whole
    uri = s3_server.new_uri()
    place = make_place(store_uri=uri, extra=s3_server.environment)
    run = place.run("--rounds", "2")
    base = ["prepare", "evaluate-base", "first-champion"]
    rounds = [*round_tasks(0), *round_tasks(1), *round_tasks(2)]
    executed = [*base, *rounds, "publish", "report"]
    assert run.executed == executed, run.said
    assert (run.code, run.verdicts, run.accuracies) == (1, expected.verdicts, expected.accuracies)
    assert run.told["store"] == uri
    assert SECRET_KEY not in run.said + json.dumps(run.told)

    store = open_store(uri, s3_server.environment)
    stored = {key.removeprefix("steps/").removesuffix(".json"): key for key in store.list("steps/")}
    receipts = {ref: store.get_bytes(key) for ref, key in stored.items()}
    assert state_object(run, receipts) == state_object(expected, folder.receipts())
    in_folder = folder.receipts()
    assert receipts == {ref: data for ref, data in in_folder.items() if ref in receipts}
    assert f"{run.told['model']}model.safetensors" in list(store.list(run.told["model"]))

    verified = place.cli("verify", "--json")
    assert verified.returncode == 0, verified.stderr
    told = json.loads(verified.stdout)
    assert (told["damaged"], told["receipts"]) == ([], len(receipts))
    page = place.cli("report", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    assert (place.folder / "page.html").stat().st_size > 10_000
