"""The self-check of an image: it runs when an image is built or started without a command.

docker run --rm --read-only --tmpfs /tmp --network none --cap-drop ALL ratchet/train:dev
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
STEPS = {
    "cpu": ("decide", "report"),
    "generate": ("generate", "select", "evaluate", "publish"),
    "train": ("prepare", "train"),
}
UNWANTED = (
    "cc",
    "gcc",
    "g++",
    "clang",
    "make",
    "ld",
    "ssh",
    "sshd",
    "sudo",
    "curl",
    "wget",
)
OPTIONAL = frozenset(
    {
        "components",
        "jiwer",
        "opentelemetry",
        "rapidfuzz",
        "reasoning_gym",
        "sacrebleu",
        "vllm",
    }
)
"""Packages that some images do without, and ours, which are imported anyway."""
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


def problems() -> list[str]:
    """Return one line for each rule of images that this one breaks."""
    lines: list[str] = []
    if os.getuid() == 0:
        lines.append(f"runs as root (uid {os.getuid()})")
    for name in UNWANTED:
        if path := shutil.which(name, path=FOLDERS):
            lines.append(f"{name} is in the image: {path}")
    # The root file system is read-only on a cluster: a cache outside /tmp fails at first use.
    for name in CACHES:
        if not f"{os.environ.get(name)}/".startswith("/tmp/"):
            lines.append(f"{name} is not below /tmp")
    for folder in ("/", "/opt/venv", str(HERE)):
        if os.access(folder, os.W_OK):
            lines.append(f"{folder} is writable")
    return lines + packages()


def packages() -> list[str]:
    """Return the differences between what is installed and the lock files.

    Which build of torch an image holds is the choice of who built it: the CPU wheel says `+cpu`
    behind its version, the index's wheel brings NVIDIA's libraries, which nvidia.lock pins.
    """
    installed = installed_versions()
    nvidia = pins(HERE / "nvidia.lock")
    expected = {name: version for name, version in nvidia.items() if name in installed}
    expected.update(pins(HERE / "requirements.lock"))
    lines: list[str] = []
    for name in sorted(expected.keys() | installed.keys()):
        version = installed.get(name, "missing")
        locked_version = expected.get(name, "none")
        if version != locked_version:
            lines.append(f"{name} is {version}, locked is {locked_version}")
    return lines


def installed_versions() -> dict[str, str]:
    """Return package → version of the image's environment, without torch's `+cpu`."""
    # The image's own Python has pip and setuptools of the base besides.
    folders = [path for path in sys.path if "/venv/" in path]
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=folders):
        name = canonical(distribution.name)
        versions[name] = distribution.version.removesuffix("+cpu")
    return versions


def pins(lock: Path) -> dict[str, str]:
    """Return package → version of a lock file, for this platform."""
    from packaging.markers import Marker

    entries = re.findall(
        r"^([\w.-]+)={2,3}([^=\s\\;]+)(?: ; ([^\\\n]+?))? *\\?$",
        lock.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    versions: dict[str, str] = {}
    for name, version, marker in entries:
        if not marker or Marker(marker).evaluate():
            versions[canonical(name)] = version
    return versions


def canonical(name: str) -> str:
    """Return a package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def load(family: str) -> int:
    """Import every module of the family's steps, and KFP's executor. Return how many."""
    # As KFP's command of a task sets it. Without it kfp imports its compiler, which needs packages
    # that images do not have.
    os.environ["_KFP_RUNTIME"] = "true"
    importlib.import_module("kfp.dsl.executor_main")
    modeling = () if family == "cpu" else ("modeling",)
    # The only image that is started for other work than steps (manifests/components/gc).
    others = ("cli.collect",) if family == "cpu" else ()
    folders = (
        "contracts",
        "storage",
        "runtime",
        "verifiers",
        *modeling,
        *STEPS[family],
        *others,
    )
    num_modules = 0
    for folder in folders:
        for name in _modules(folder):
            module = importlib.import_module(name)
            num_modules += 1
            # A step imports the rest when it comes to it, after hours: it must be there too, with
            # all that it imports itself.
            for later in sorted(
                imported_later(Path(str(module.__file__)).read_text("utf-8"))
            ):
                importlib.import_module(later)
    return num_modules


def imported_later(source: str) -> set[str]:
    """Return the modules of others that a module's functions import, but for OPTIONAL."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names: set[str] = set()
    for node in (inner for function in functions for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] not in OPTIONAL}


def _modules(folder: str) -> list[str]:
    package = importlib.import_module(f"components.{folder}")
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    # The shells of the steps are for the compiler: a container is told its function by the
    # executor.
    left_out = ("__main__", "component")
    return [
        module.name
        for module in modules
        if module.name.rpartition(".")[2] not in left_out
    ]


def work(family: str) -> None:
    """Do a little of what the family is for."""
    match family:
        case "cpu":
            draw()
        case "generate":
            sample()
        case _:
            train()


def draw() -> None:
    """Draw an empty figure."""
    from matplotlib.figure import Figure

    Figure().savefig("/tmp/selfcheck.svg")


def sample() -> None:
    """Run a tiny model, and vLLM where the image has it."""
    import torch

    from components.contracts.recipe import Scratch
    from components.modeling.scratch import make_scratch

    settings = Scratch(hidden_size=64, num_layers=1, num_heads=2, intermediate_size=32)
    model, tokenizer = make_scratch(settings)
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()
    if not importlib.util.find_spec("vllm"):
        return
    # vLLM for CUDA does not start without a GPU, and images are built on machines without one.
    if torch.version.cuda is None or torch.cuda.is_available():
        sample_with_vllm(model, tokenizer)
    else:
        print("vllm: not tried, there is no GPU here")


def train() -> None:
    """Take one step of the optimizer that was compiled with the image."""
    import torch

    from components.train.process.deepspeed_engine import (
        Layout,
        join_processes,
        optimizer_name,
        start_engine,
    )

    device = join_processes()
    # With offload, because only that takes the compiled optimizer.
    layout = Layout(2, True, 2, "fp32")
    engine = start_engine(
        torch.nn.Linear(4, 4),
        layout,
        num_rows=2,
        learning_rate=0.1,
        weight_decay=0.0,
        beta2=0.99,
        max_gradient_norm=1.0,
    )
    weight_at_start = engine.module.weight.detach().clone()
    loss = engine(torch.ones(2, 4, device=device)).square().mean()
    engine.backward(loss)
    engine.step()
    assert not torch.equal(weight_at_start, engine.module.weight)
    assert optimizer_name(engine) == "deepspeed"


def sample_with_vllm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let the engine `vllm` answer, once greedily in 4 tokens."""
    from components.contracts.recipe import Vllm
    from components.contracts.rows import Prompt
    from components.generate.batches import Ask
    from components.generate.engines.vllm import VllmEngine
    from components.modeling.inference.sampling import Sampling
    from components.modeling.load import save_checkpoint

    # In GiB; little, because the container of the check has 4.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = Path("/tmp/selfcheck")
    save_checkpoint(model, tokenizer, folder)
    asks = [Ask(Prompt(id="one", text="12=", verifier="exact"), 0, 7)]
    engine = VllmEngine(folder, "", Sampling(0.0, 0, 1.0, 4, 1), Vllm())
    (answer,) = engine.answer(asks, lambda num_done: None)
    assert 1 <= answer.num_tokens <= 4


def main() -> int:
    """Return the exit status: 1 if anything is wrong."""
    family = sys.argv[1]
    broken_rules = problems()
    for line in broken_rules:
        print(f"error: {line}", file=sys.stderr)
    if broken_rules:
        return 1
    num_modules = load(family)
    work(family)
    loaded = len(sys.modules)
    print(
        f"{family}: {num_modules} modules load, {loaded} in memory, all checks passed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
