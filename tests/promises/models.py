"""S3: a model brings no code: no pickle, no remote code, none in its templates.

Every file of these models would make a folder if it were unpickled, imported or run.
"""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from components.contracts.recipe import ModelSection
from components.errors import UserError
from components.modeling.base import materialise_base
from components.modeling.chat_template import Refused, render
from components.storage.sources import local_folder
from tests.promises.counting import Case
from tests.security.test_bad_input import MARKER, Touch
from tests.unit.chat_models import chat_tokenizer, save_chat_model

PICKLES = (
    "pytorch_model.bin",
    "pytorch_model-00001-of-00001.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "consolidated.00.pth",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "tf_model.h5",
    "model.pkl",
    "adapter_model.bin",
    "tokenizer.pkl",
)
CLASSES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "AutoModelForSequenceClassification",
    "AutoFeatureExtractor",
    "AutoProcessor",
)
TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.mkdir(PATH) }}",
    "{{ joiner.__init__.__globals__.os.mkdir(PATH) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].mkdir(PATH) }}",
    "{{ self.__init__.__globals__.__builtins__.open(PATH, 'w') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ messages|map(attribute='__class__')|list }}{{ messages.__class__ }}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ 'x'.format.__self__.__class__.__init__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "{{ messages['__class__'].__mro__.__getitem__(1) }}",
    "{{ (messages|attr('__class__')).__mro__ }}",
    "{% import 'os' as os %}{{ os.mkdir(PATH) }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% from 'os' import mkdir %}",
    "{{ tojson.__globals__ }}",
    "{{ dict.__class__.__init__.__globals__ }}",
    "{{ messages.append({}) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update(role='system') }}",
    "{% set _ = messages.pop() %}",
)
SUSPECT = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".py")
"""Endings of files that a clean model has not."""


def cases(folder: Path) -> Iterator[Case]:
    """Yield models whose files, configs or templates hold code."""
    model = save_chat_model(folder / "base")
    for name in PICKLES:
        for zipped, alone in itertools.product((False, True), repeat=2):
            title = f"{name}{', zipped' * zipped}{', alone' * alone}"
            write = partial(_pickled, name, zipped, alone)
            yield Case(title, partial(_check_model, folder, model, write))
    for file, name in itertools.product(
        ("config.json", "tokenizer_config.json"), CLASSES
    ):
        write = partial(_remote, file, name)
        yield Case(f"{file}: {name}", partial(_check_model, folder, model, write))
    for template in TEMPLATES:
        yield Case(template, partial(_check_template, folder, template))


def _pickled(name: str, zipped: bool, alone: bool, model: Path) -> None:
    payload = pickle.dumps(Touch(model.parent / MARKER))
    if zipped:
        # As torch.save writes it.
        with zipfile.ZipFile(model / name, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
            archive.writestr("archive/version", "3")
    else:
        (model / name).write_bytes(payload)
    if alone:
        for path in model.glob("*.safetensors"):
            path.unlink()


def _remote(file: str, name: str, model: Path) -> None:
    document = json.loads((model / file).read_text())
    reference: Any = (
        ["evil.Evil", "evil.Evil"] if name == "AutoTokenizer" else "evil.Evil"
    )
    (model / file).write_text(json.dumps({**document, "auto_map": {name: reference}}))
    marker = str(model.parent / MARKER)
    (model / "evil.py").write_text(
        f"import os; os.mkdir({marker!r})\nclass Evil: pass\n"
    )


def _check_model(folder: Path, source: Path, write: Any) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        model = Path(name) / "model"
        shutil.copytree(source, model)
        write(model)
        clean = Path(name) / "clean"
        section = ModelSection(source=model.as_uri())
        try:
            local_folder(section.source, {}, Path(name) / "scratch")
            materialise_base(section, 0, clean, {}, Path(name) / "scratch")
        except UserError as error:
            said = str(error)
            fault = "" if "\n" not in said else f"more than a line: {said}"
        else:
            brought = [path.name for path in clean.iterdir() if path.suffix in SUSPECT]
            fault = f"{brought} came with the clean model" if brought else ""
        if (Path(name) / MARKER).exists():
            return "code of the model ran"
        return fault


def _check_template(folder: Path, template: str) -> str:
    marker = folder / MARKER
    source = template.replace("PATH", repr(str(marker)))
    messages = [{"role": "user", "content": "hi"}]
    try:
        text = render(chat_tokenizer(source), messages).text
    except Refused:
        text = ""
    if marker.exists():
        return "code of the template ran"
    if messages != [{"role": "user", "content": "hi"}]:
        return "the template changed the conversation"
    for leaked in ("root:", "<class", "<function", "module 'os'", "object at 0x"):
        if leaked in text:
            return f"it reached {text[:80]}"
    return ""
