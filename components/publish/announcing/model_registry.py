"""Releases in Kubeflow Model Registry (REST API v1alpha3, kubeflow/model-registry 0.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import Field, JsonValue

from components.canonical import JsonObject
from components.contracts.releases import Line
from components.errors import UserError
from components.publish.announcing.ledger_view import LedgerView, scores_of
from components.publish.announcing.platform_api import Access, Answer, PlatformApi

PATH = "/api/model_registry/v1alpha3"
STORE = "ratchet.store"
"""Custom property of a registered model: the store whose ledger it shows."""
IN_FORCE = "ratchet.in_force"
"""Custom property of a registered model: name of the version in force."""
MODEL_FORMAT = "huggingface"
"""Format that KServe's runtime for these folders goes by."""


class Entry(Answer):
    """An entry of the registry, as far as it is read."""

    id: str = Field(pattern=r"^\d+$")
    custom_properties: dict[str, dict[str, JsonValue]] | None = Field(
        default=None, alias="customProperties"
    )

    def text(self, name: str) -> str:
        """Return a custom property that is a text; empty if there is none."""
        value = (self.custom_properties or {}).get(name, {}).get("string_value")
        return value if isinstance(value, str) else ""


class ModelRegistry:
    """Enters a registered model, a version for each release, and the artifact of each version."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._api = PlatformApi(
            Access(
                title="the model registry",
                url_variable="MODEL_REGISTRY_URL",
                url=environment.get("MODEL_REGISTRY_URL", "").strip(),
                key_variable="MODEL_REGISTRY_TOKEN",
                token=environment.get("MODEL_REGISTRY_TOKEN", "").strip(),
            )
        )
        self._entered: list[str] = []

    def bring_up_to_date(self, view: LedgerView) -> list[str]:
        """Enter what is missing, the release in force last; return what was entered."""
        self._entered = []
        model = self._registered_model(view)
        for line in view.releases:
            version_id = self._version(view, model.id, line)
            self._artifact(view, version_id, line)
        self._mark_in_force(view, model)
        return self._entered

    def _registered_model(self, view: LedgerView) -> Entry:
        """Return the registered model of the name, entered if there is none.

        Raises:
            UserError: It shows the ledger of another store.
        """
        newest = view.releases[-1]
        model = self._found_or_made(
            f"registered model {view.name}",
            ("/registered_model", {"name": view.name}),
            "/registered_models",
            lambda: {
                "name": view.name,
                "description": "Released by Ratchet; the version in force is the property "
                f"{IN_FORCE}.",
                "license": view.details(newest).license or None,
                "libraryName": "transformers",
                "customProperties": {STORE: _text(view.store)},
            },
        )
        store = model.text(STORE)
        if store and store != view.store:
            raise UserError(
                f"the model registry has a model {view.name!r} of another store ({store}); give "
                "this campaign another publish.name"
            )
        return model

    def _version(self, view: LedgerView, model_id: str, line: Line) -> str:
        """Return the id of the version of a release, entered if there is none."""
        version = self._found_or_made(
            f"version {line.version}",
            ("/model_version", {"name": line.version, "parentResourceId": model_id}),
            "/model_versions",
            lambda: {
                "name": line.version,
                "registeredModelId": model_id,
                "description": f"Release {line.number} of {view.name}, made by {line.run_id} from "
                f"{line.base.source}",
                "author": line.asked_by,
                "customProperties": self._properties(view, line),
            },
        )
        return version.id

    def _artifact(self, view: LedgerView, version_id: str, line: Line) -> None:
        """Enter the artifact of a version if there is none."""
        name = f"{view.name}-{line.version}"
        self._found_or_made(
            f"artifact of {line.version}",
            ("/model_artifact", {"name": name, "parentResourceId": version_id}),
            f"/model_versions/{version_id}/artifacts",
            lambda: {
                "artifactType": "model-artifact",
                "name": name,
                "uri": view.uri(line),
                "state": "LIVE",
                "modelFormatName": MODEL_FORMAT,
                "modelSourceKind": "ratchet",
                "modelSourceClass": "campaign",
                "modelSourceGroup": view.store,
                "modelSourceId": line.run_id,
                "modelSourceName": view.name,
            },
        )

    def _mark_in_force(self, view: LedgerView, model: Entry) -> None:
        """Note the version in force at the registered model, beside what others noted there."""
        if model.text(IN_FORCE) == view.version_in_force and model.text(STORE):
            return
        # The server replaces all properties by those that are sent.
        noted: JsonObject = {
            **(model.custom_properties or {}),
            STORE: _text(view.store),
            IN_FORCE: _text(view.version_in_force),
        }
        path = f"{PATH}/registered_models/{model.id}"
        self._api.call("PATCH", path, {"customProperties": noted})
        self._entered.append(f"{view.version_in_force} is in force")

    def _properties(self, view: LedgerView, line: Line) -> JsonObject:
        details = view.details(line)
        texts = {
            "ratchet.run": line.run_id,
            "ratchet.base": line.base.source,
            "ratchet.license": details.license,
            "ratchet.released_at": line.at,
            "ratchet.recipe": line.recipe,
            "ratchet.receipt": line.publish,
            "ratchet.weights": line.weights,
            "ratchet.approved_by": line.approval.approved_by if line.approval else "",
        }
        properties: JsonObject = {
            name: _text(text) for name, text in texts.items() if text
        }
        for name, value in scores_of(line, details).items():
            properties[name] = {
                "metadataType": "MetadataDoubleValue",
                "double_value": value,
            }
        return properties

    def _found_or_made(
        self,
        title: str,
        search: tuple[str, Mapping[str, str]],
        collection: str,
        document: Callable[[], JsonObject],
    ) -> Entry:
        """Return an entry that is there, or a new one.

        Args:
            title: The entry in words.
            search: Path and query that find it.
            collection: Path that a new one is posted to.
            document: Makes the new one; fields that are None are left out.
        """
        path, query = search
        entry, is_new = self._api.found_or_made(
            lambda: self._api.found(PATH + path, Entry, **query),
            PATH + collection,
            lambda: {
                name: value for name, value in document().items() if value is not None
            },
        )
        if is_new:
            self._entered.append(title)
        return entry


def _text(text: str) -> JsonValue:
    return {"metadataType": "MetadataStringValue", "string_value": text}
