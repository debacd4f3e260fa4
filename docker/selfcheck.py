"""What every image proves as the last step of its build, and again whenever it is started without a
command:

docker run --rm --read-only --tmpfs /tmp --network none --cap-drop ALL ratchet/train:dev
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STEPS = {
    "cpu": ("decide", "report"),
    "generate": ("generate", "select", "evaluate", "publish"),
    "train": ("prepare", "train"),
}
UNWANTED = ("cc", "gcc", "g++", "clang", "make", "ld", "ssh", "sshd", "sudo", "curl", "wget")
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/venv/bin"
CACHES = (
    "HOME",
    "TMPDIR",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "VLLM_CACHE_ROOT",
    "MPLCONFIGDIR",
)


def problems(family: str) -> list[str]:
    """One line for each thing that is not as it should be."""
    found = [f"runs as root (uid {os.getuid()})"] if os.getuid() == 0 else []
    found += [
        f"{name} is in the image: {path}"
        for name in UNWANTED
        if (path := shutil.which(name, path=FOLDERS))
    ]
    found += [
        f"{name} is not below /tmp"
        for name in CACHES
        if not f"{os.environ.get(name)}/".startswith("/tmp/")
    ]
    found += [
        f"{folder} is writable"
        for folder in ("/", "/opt/venv", str(HERE))
        if os.access(folder, os.W_OK)
    ]
    return found + packages()


def packages() -> list[str]:
    """Return the differences between what is installed and the lock files.

    Which build of torch an image holds is the choice of who built it: the CPU wheel says `+cpu`
    behind its version, the index's wheel brings NVIDIA's libraries, which nvidia.lock pins.
    """
    locked = pins(HERE / "requirements.lock")
    nvidia = pins(HERE / "nvidia.lock")
    installed = {}
    for one in importlib.metadata.distributions(
        path=[path for path in sys.path if "/venv/" in path]
    ):
        installed[re.sub(r"[-_.]+", "-", one.name).lower()] = one.version.removesuffix("+cpu")
    expected = {**{name: nvidia[name] for name in nvidia.keys() & installed.keys()}, **locked}
    return [
        f"{name} is {installed.get(name, 'missing')}, locked is {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | installed.keys())
        if installed.get(name) != expected.get(name)
    ]


def pins(lock: Path) -> dict[str, str]:
    """Return package → version of a lock file, for this platform."""
    from packaging.markers import Marker

    found = re.findall(
        r"^([\w.-]+)={2,3}([^=\s\\;]+)(?: ; ([^\\\n]+?))? *\\?$",
        lock.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version, marker in found
        if not marker or Marker(marker).evaluate()
    }


def load(family: str) -> int:
    """Import every module of the family's steps, and KFP's executor; returns how many."""
    os.environ["_KFP_RUNTIME"] = "true"
    importlib.import_module("kfp.dsl.executor_main")
    modeling = () if family == "cpu" else ("modeling",)
    folders = ("contracts", "storage", "runtime", "verifiers", *modeling, *STEPS[family])
    names = [name for folder in folders for name in _modules(folder)]
    for name in names:
        importlib.import_module(name)
    return len(names)


def _modules(folder: str) -> list[str]:
    package = importlib.import_module(f"components.{folder}")
    found = [one.name for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    # The shells of the steps are for the compiler: a container is told its function by the
    # executor.
    return [name for name in found if name.rpartition(".")[2] not in ("__main__", "component")]


def work(family: str) -> None:
    """A little of what the family is for."""
    if family == "cpu":
        from matplotlib.figure import Figure

        Figure().savefig("/tmp/selfcheck.svg")
        return
    import torch

    if family == "generate":
        from components.contracts.recipe import Scratch
        from components.modeling.scratch import make_scratch

        model, tokenizer = make_scratch(
            Scratch(hidden_size=64, num_layers=1, num_heads=2, intermediate_size=32)
        )
        assert model(torch.tensor([[1, 2]])).logits.isfinite().all()
        if importlib.util.find_spec("vllm"):
            if torch.version.cuda is None or torch.cuda.is_available():
                sample_with_vllm(model, tokenizer)
            else:
                print("vllm: not tried, there is no GPU here")
        return
    from components.train.process.deepspeed_engine import (
        Layout,
        join_processes,
        optimizer_name,
        start_engine,
    )

    # Offload takes the optimizer that was compiled with the image.
    device = join_processes()
    engine = start_engine(
        torch.nn.Linear(4, 4),
        Layout(2, True, 2, "fp32"),
        num_rows=2,
        learning_rate=0.1,
        weight_decay=0.0,
        beta2=0.99,
        max_gradient_norm=1.0,
    )
    before = engine.module.weight.detach().clone()
    engine.backward(engine(torch.ones(2, 4, device=device)).square().mean())
    engine.step()
    assert not torch.equal(before, engine.module.weight)
    assert optimizer_name(engine) == "deepspeed"


def sample_with_vllm(model: Any, tokenizer: Any) -> None:
    """Let the engine `vllm` answer, once greedily in 4 tokens."""
    from components.contracts.rows import Prompt
    from components.generate.batches import Ask
    from components.generate.engines.vllm import VllmEngine
    from components.modeling.inference.sampling import Sampling
    from components.modeling.load import save_checkpoint

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    folder = Path("/tmp/selfcheck")
    save_checkpoint(model, tokenizer, folder)
    asks = [Ask(Prompt(id="one", text="12=", verifier="exact"), 0, 7)]
    (sample,) = VllmEngine(folder, "", Sampling(0.0, 0, 1.0, 4, 1)).answer(asks, lambda done: None)
    assert 1 <= sample.num_tokens <= 4


def main() -> int:
    """Exit status 1 if anything is wrong."""
    family = sys.argv[1]
    found = problems(family)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        count = load(family)
        work(family)
        print(f"{family}: {count} modules load, {len(sys.modules)} in memory, all checks passed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
