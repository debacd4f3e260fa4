"""Rules about pods: images, commands, resources, retries, users, volumes and labels."""

from __future__ import annotations

from collections.abc import Iterator

from components.cli.json_documents import Json, nested
from components.cli.package.package_file import Package
from components.cli.package.profiles import USER_ID

_LOCAL_EXECUTOR = "kfp.dsl.executor_main"
_NEEDED_RESOURCES = {
    "resourceCpuRequest",
    "resourceMemoryRequest",
    "resourceMemoryLimit",
}


def shells(package: Package) -> Iterator[str]:
    """Yield executors that are no thin Python component over one certain image."""
    for name, container in package.containers():
        words = list(container.get("command", ()))
        words += container.get("args", ())
        command = " ".join(map(str, words))
        # Packages installed at the start are fetched by every pod, and may differ from run to run.
        if "pip install" in command:
            yield f"{name} installs packages as it starts"
        # The output artifacts of a container_component vanish under kfp.local.
        if _LOCAL_EXECUTOR not in command:
            yield f"{name} is no Python component; its artifacts vanish under kfp.local"
        image = str(container.get("image", ""))
        if not _is_certain(image):
            yield f"{name}: image {image} is not one certain image; give a digest or a tag"


def _is_certain(image: str) -> bool:
    """Return whether an image is a constant with a digest or with a tag other than `latest`."""
    if "{{$" in image:
        return False
    if "@sha256:" in image:
        return True
    # A colon before the last slash belongs to the registry's port.
    _, _, last_part = image.rpartition("/")
    return ":" in last_part and not image.endswith(":latest")


def resources(package: Package) -> Iterator[str]:
    """Yield executors whose resources are missing or no constants."""
    for name, executor in package.executors.items():
        requested = nested(executor, "container", "resources")
        # The SDK does not route a setting fed by a pipeline parameter into a dsl.If.
        if "{{$" in str(requested):
            yield f"{name}: resources from a parameter do not reach a guarded round"
        if not _NEEDED_RESOURCES.issubset(requested):
            yield f"{name} says not what processor and memory it needs"
        gpu = requested.get("accelerator")
        if gpu is not None and not _is_countable(gpu):
            yield f"{name}: GPUs need a type and a number that is a constant"


def _is_countable(gpu: Json) -> bool:
    count = str(gpu.get("resourceCount", ""))
    return bool(gpu.get("resourceType")) and count.isdigit()


def retries(package: Package) -> Iterator[str]:
    """Yield tasks without a usable retry policy, and executors without a time limit."""
    for name, task, _ in package.tasks():
        policy = task.get("retryPolicy")
        if package.container(task) is None:
            if policy is not None:
                yield f"{name}: kfp.local ignores retries of a sub-pipeline"
        elif policy is None:
            yield f"{name} is not tried again when its node is lost"
        elif _seconds(policy.get("backoffDuration")) <= 0:
            yield f"{name} is tried again without a pause"
        else:
            yield from _cut_short(package, name, task, policy)
    for name in package.executors:
        if _deadline_seconds(package, name) <= 0:
            yield f"{name} may run for ever"


def _cut_short(package: Package, name: str, task: Json, policy: Json) -> Iterator[str]:
    # Argo counts the window from the start of the first try, the work of all tries included.
    label = package.component(task)["executorLabel"]
    deadline = _deadline_seconds(package, label)
    window = _seconds(policy.get("backoffMaxDuration"))
    num_tries = int(policy.get("maxRetryCount", 0)) + 1
    if window < num_tries * deadline:
        yield (
            f"{name}: Argo ends its {num_tries} tries of {deadline} s after {window:.0f} s "
            "together, in the middle of a healthy one"
        )


def _seconds(duration: str | None) -> float:
    """Return the seconds of a duration such as `30s`; 0 without one."""
    return float((duration or "0").rstrip("s"))


def _deadline_seconds(package: Package, executor: str) -> int:
    """Return the time limit of an executor's pod; 0 without one."""
    settings = nested(package.settings, executor)
    return int(settings.get("activeDeadlineSeconds", 0))


def pods(package: Package) -> Iterator[str]:
    """Yield executors whose pod has the wrong user, volumes or labels."""
    for name in package.executors:
        settings = nested(package.settings, name)
        # Pod Security `restricted` admits no pod that runs as root. Without a user of its own the
        # pod gets one from the cluster, or the image's, and the kubelet refuses root.
        user = nested(settings, "securityContext")
        user_id = int(user.get("runAsUser", USER_ID))
        if user.get("runAsNonRoot") is not True or user_id == 0:
            yield f"{name} may run as root"
        mounts = {
            mount["mountPath"]: mount for mount in settings.get("emptyDirMounts", ())
        }
        # The admission policy of overlays/prod makes the root of every step read-only.
        if "/tmp" not in mounts:
            yield f"{name} has nowhere to write when its root is read-only: no emptyDir at /tmp"
        # Container engines give /dev/shm 64 MiB by default, too little for PyTorch's processes.
        if mounts.get("/dev/shm", {}).get("medium") != "Memory":
            yield f"{name} has 64 MiB of shared memory at most: no emptyDir in memory at /dev/shm"
        if any(not mount.get("sizeLimit") for mount in mounts.values()):
            yield f"{name}: an emptyDir without a size may fill the node"
        if settings.get("pvcMount"):
            yield f"{name} shares a volume; data goes through the store"
        if not nested(settings, "podMetadata").get("labels"):
            yield f"{name} has no labels"
