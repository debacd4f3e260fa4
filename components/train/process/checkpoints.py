"""Training checkpoints: progress receipts in the store, from which a killed training resumes.

A checkpoint holds whole float32 weights and moments by name, in safetensors, each process an equal
share of them. So it depends neither on the number of processes nor on the ZeRO stage, like
DeepSpeed's universal checkpoints (2406.18820), but without a conversion and without pickle.

In this order, below progress/train/<step key>/:

    step-00000120-<nonce>/rank-0-0.safetensors    payload
    step-00000120-<nonce>/rank-0.json             digests of the files of one process
    step-00000120-<nonce>.json                    the receipt, by process 0
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from components.canonical import canonical_json, sealed, unsealed
from components.errors import Corrupt, Missing, Transient, UserError, one_line
from components.runtime.context import Context
from components.runtime.stored_files import ObjectRef
from components.storage import keys
from components.storage.cache import download
from components.train.process.checkpoint_files import (
    PART_BYTES,
    FetchedCheckpoint,
    ProgressReceipt,
    Refs,
    parts_of,
)
from components.train.process.sizing import processes_of_node

# Two, so that a damaged one still leaves one to go on from.
KEEP = 2
"""Committed checkpoints that stay. One more is there while the next is on its way."""
MEMORY_SHARE = 0.5
"""Share of the free memory that copies of tensors may take while they wait to be written."""
COMMIT_SECONDS = 600.0
"""Longest time that process 0 waits for the files of the others."""
POLL_SECONDS = 0.2
"""Between two looks for such a file."""
_NAME = re.compile(r"step-\d{8}-")


# DeepSpeed's own checkpoints refuse another number of processes. Its universal ones go from one
# number to another after a conversion, and not between ZeRO stages 1 or 2 and 3.
class Checkpoints:
    """Saves and finds the checkpoints of one training.

    Every process has one instance. Methods that say so are collective.
    """

    def __init__(self, context: Context, key: str, *, zero_stage: int) -> None:
        self.context = context
        self.key = key
        self.zero_stage = zero_stage
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        # A second pod of the same work must not write into this one's files.
        self.nonce = share_text(secrets.token_hex(4))
        self.folder = _local_folder(context, key)
        self._refused: set[str] = set()
        self._there_before: set[str] = set()
        """Names of checkpoints, whole or not, that this training found when it began."""
        # One thread: parts are stored in order, and the commit comes after them.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def busy(self) -> bool:
        """True while the last checkpoint is on its way.

        Raises the failure of its upload, except Transient: that is noted.
        """
        upload = self._upload
        if upload is None:
            return False
        if not upload.done():
            return True
        self._upload = None
        try:
            upload.result()
        except Transient as error:
            self.context.progress.note(
                f"a checkpoint was not saved: {error}; the one before it stays"
            )
        return False

    def save(
        self,
        step: int,
        tensors: Iterable[tuple[str, Tensor]],
        track: dict[str, JsonValue],
    ) -> None:
        """Take this process's share into memory, then write and store it in the background.

        A full disk is a UserError of the next read of `busy`.

        Args:
            step: optimizer steps done.
            tensors: this process's share; they must not change afterwards. All of it is consumed
                even if it yields nothing here, because gathering them is collective.
            track: the loop's `Track` as JSON; only that of process 0 is stored.
        """
        name = f"step-{step:08d}-{self.nonce}"
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        num_processes = processes_of_node(self.context.environment)
        buffer_bytes = int(
            MEMORY_SHARE * self.context.free_memory_bytes / num_processes
        )
        num_parts = max(1, buffer_bytes // PART_BYTES)
        stored: list[Future[Refs]] = []
        for number, part in enumerate(parts_of(tensors)):
            file = f"rank-{self.rank}-{number}.safetensors"
            stored.append(self._pool.submit(self._store_part, name, file, part))
            # This name would keep the part's tensors in memory after they are stored.
            del part
            wait(stored[:-num_parts])
        self._upload = self._pool.submit(
            self._commit, step, name, stored, json.dumps(track)
        )

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way, if there is one."""
        while self.busy:
            time.sleep(0.05)

    def newest(self) -> FetchedCheckpoint | None:
        """Return the newest intact checkpoint, fetched to this node, or None (collective).

        A damaged or incomplete one is named in a note, and the one before it is used.
        """
        # Process 0 lists: the listings of two processes may differ.
        own_names = []
        if self.rank == 0:
            own_names = self._names()
            self._there_before |= {
                self._name_of(address) for address in self._addresses()
            }
        names: list[str] = json.loads(share_text(json.dumps(own_names)))
        for name in names:
            checkpoint, trouble = None, ""
            if self._is_first_of_node:
                checkpoint, trouble = self._fetch(name)
            # All or none: a checkpoint that one node cannot read is none for the others either.
            num_troubled = torch.tensor([1 if trouble else 0], device=_device())
            dist.all_reduce(num_troubled)
            if not int(num_troubled):
                return checkpoint or FetchedCheckpoint(
                    self._receipt(name), self.folder / "resume"
                )
            self._refused.add(name)
            if trouble:
                self.context.progress.note(
                    f"checkpoint {name} is not used: {trouble}; going on from the one before"
                )
        if names and self.rank == 0:
            self.context.progress.note(
                "no checkpoint of this training is whole: it begins anew"
            )
        return None

    def forget_fetched(self) -> None:
        """Delete the fetched files once they are loaded (collective)."""
        dist.barrier()
        if self._is_first_of_node:
            shutil.rmtree(self.folder / "resume", ignore_errors=True)

    @property
    def _is_first_of_node(self) -> bool:
        return int(self.context.environment.get("LOCAL_RANK", "0")) == 0

    def close(self) -> None:
        """End the background thread and delete the local folder."""
        self._pool.shutdown(wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _names(self) -> list[str]:
        """Return the names of the checkpoints with a receipt, newest first."""
        names = [
            self._name_of(address)
            for address in self._addresses()
            if _is_receipt(address)
        ]
        return sorted(names, reverse=True)

    def _addresses(self) -> list[str]:
        """Return the addresses of all files of this training's checkpoints."""
        prefix = keys.progress_prefix("train", self.key)
        return [
            key
            for key in self.context.store.list(prefix)
            if _NAME.match(key, len(prefix))
        ]

    def _name_of(self, address: str) -> str:
        path = address.removeprefix(keys.progress_prefix("train", self.key))
        return path.split("/")[0].removesuffix(".json")

    def _address(self, *names: str) -> str:
        return keys.progress_key("train", self.key, *names)

    def _receipt(self, name: str) -> ProgressReceipt:
        address = self._address(f"{name}.json")
        try:
            return ProgressReceipt.model_validate(
                unsealed(self.context.store.get_bytes(address))
            )
        except ValueError as error:
            raise Corrupt(
                f"{address} is not a progress receipt ({one_line(error)})"
            ) from None

    def _fetch(self, name: str) -> tuple[FetchedCheckpoint | None, str]:
        """Fetch a checkpoint to this node's disk; return (checkpoint, "") or (None, fault)."""
        folder = self.folder / "resume"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            receipt = self._receipt(name)
            for file, ref in receipt.objects.items():
                download(
                    self.context.store,
                    self._address(name, file),
                    ref.sha256,
                    ref.size,
                    folder / file,
                )
            checkpoint = FetchedCheckpoint(receipt, folder)
            # Reading the headers finds a file that is no safetensors.
            checkpoint.tensors()
        except (Corrupt, SafetensorError) as error:
            return None, str(error)
        return checkpoint, ""

    def _store_part(self, name: str, file: str, part: dict[str, Tensor]) -> Refs:
        """Store tensors as one file; return its name → digest and size."""
        path = self.folder / name / file
        try:
            save_file(part, path)
        except SafetensorError as error:
            raise UserError(
                f"{path}: a checkpoint cannot be written ({error}); is the disk full?"
            ) from None
        part.clear()
        return self._store_file(name, path)

    def _store_file(self, name: str, path: Path) -> Refs:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        self.context.store.put_file(
            self._address(name, path.name), path, digest, give=True
        )
        return {path.name: ObjectRef(sha256=digest, size=size)}

    def _commit(
        self, step: int, name: str, stored: list[Future[Refs]], track: str
    ) -> None:
        """Record this process's files once they are stored; process 0 then writes the receipt.

        It deletes old checkpoints afterwards.
        """
        refs: Refs = {}
        for upload in stored:
            refs |= upload.result()
        if self.rank == 0:
            path = self.folder / name / "track.json"
            path.write_text(track, encoding="utf-8")
            refs |= self._store_file(name, path)
        document = {file: ref.model_dump(mode="json") for file, ref in refs.items()}
        self.context.store.put_bytes(
            self._address(name, f"rank-{self.rank}.json"), canonical_json(document)
        )
        if self.rank == 0:
            objects = self._of_all_processes(name)
            receipt = ProgressReceipt(
                step=step,
                world_size=self.world_size,
                zero_stage=self.zero_stage,
                objects=objects,
            )
            content = sealed(receipt.model_dump(mode="json"))
            self.context.store.put_bytes(self._address(f"{name}.json"), content)
            self._evict()

    def _of_all_processes(self, name: str) -> dict[str, ObjectRef]:
        """Return the files of every process, after a look at each one's size in the store.

        Raises Transient if a process takes longer than COMMIT_SECONDS, or if another training of
        the same work has deleted the files; Corrupt for a wrong size.
        """
        objects: Refs = {}
        deadline = self.context.clock() + COMMIT_SECONDS
        for rank in range(self.world_size):
            address = self._address(name, f"rank-{rank}.json")
            # The share of this process was stored a moment ago.
            content = self._wait_for(address, deadline if rank != self.rank else 0.0)
            if content is None:
                raise Transient(
                    f"process {rank} did not store its share of {name}, or another training of the "
                    "same work is done and has deleted it"
                )
            for file, ref in json.loads(content).items():
                objects[file] = ObjectRef.model_validate(ref)
        for file, ref in objects.items():
            size = self.context.store.size(self._address(name, file))
            if size is None:
                raise Transient(
                    f"{self._address(name, file)} is gone: another training of the same work is "
                    "done and has deleted it"
                )
            if size != ref.size:
                raise Corrupt(
                    f"{self._address(name, file)} has {size} bytes instead of {ref.size} after "
                    "upload"
                )
        return objects

    def _wait_for(self, address: str, deadline: float) -> bytes | None:
        """Return an object as soon as it is in the store; None if it is not there in time."""
        while True:
            try:
                return self.context.store.get_bytes(address)
            except Missing:
                if self.context.clock() > deadline:
                    return None
                time.sleep(POLL_SECONDS)

    def _evict(self) -> None:
        """Delete all but the newest usable checkpoints."""
        committed = self._names()
        newest = [name for name in committed if name not in self._refused][:KEEP]
        if not newest:
            return
        # What another training of the same work has on its way is not whole yet, and not old.
        deletable = {*committed, *self._there_before}
        # Receipts go first, so that none names a deleted file.
        for address in sorted(
            self._addresses(), key=lambda address: not _is_receipt(address)
        ):
            name = self._name_of(address)
            is_own = name.endswith(self.nonce)
            # A newer name belongs to a checkpoint that is on its way.
            is_old = (
                name not in newest
                and name < newest[0]
                and (is_own or name in deletable)
            )
            if is_old or name in self._refused:
                self.context.store.delete(address)


def _is_receipt(address: str) -> bool:
    """Return True for the receipt of a checkpoint, False for one of its files."""
    return (
        address.endswith(".json")
        and _NAME.match(address.rpartition("/")[2]) is not None
    )


def _local_folder(context: Context, key: str) -> Path:
    """Return the folder that this training's processes on this node share.

    Folders that killed processes of the same work left behind are deleted.
    """
    # The processes of a node have torchrun as their parent.
    owner = (
        os.getppid() if "TORCHELASTIC_RUN_ID" in context.environment else os.getpid()
    )
    for folder in context.scratch.glob(f"checkpoints-{key}-*"):
        process_id = folder.name.rpartition("-")[2]
        if process_id.isdecimal() and not _is_running(int(process_id)):
            shutil.rmtree(folder, ignore_errors=True)
    return context.scratch / f"checkpoints-{key}-{owner}"


def _is_running(process_id: int) -> bool:
    try:
        # Signal 0 is not sent: the call only looks for the process.
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def share_text(text: str) -> str:
    """Return the text of process 0 in every process (collective)."""
    content = text.encode()
    size = torch.tensor([len(content)], device=_device())
    dist.broadcast(size, 0)
    data = torch.zeros(int(size), dtype=torch.uint8, device=_device())
    if dist.get_rank() == 0:
        data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return bytes(data.cpu().tolist()).decode()


def _device() -> torch.device:
    """Return the device of tensors for collectives."""
    # NCCL takes tensors on the GPU alone, gloo those on the CPU.
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
