"""The processes of a job: they start together, run one config, and end together.

Everything here is for one process as well, for which nearly all of it does nothing. Before the
devices are there, processes talk through the key-value store of JAX's coordination service.
"""

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax._src.distributed import global_state  # the key-value store has no public name
from jax.experimental import multihost_utils

from overfill_jax.errors import InputError

AUTO = "auto"

# Seconds. The hosts of a pod are not ready at the same moment; once they are, silence means death.
START_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 20
SHUTDOWN_TIMEOUT = 30
AGREEMENT_TIMEOUT = 60
WORK_TIMEOUT = 7 * 24 * 3600  # of the process that still writes, while the others are done
LOOK_EVERY = 1
# An error that all processes find is reported by each of them, after its own cleaning up.
OWN_ERROR_TIMEOUT = 3

_FAILURE = "overfill_jax/failure"
_failing = threading.Event()
_finished = threading.Event()
_preempted = threading.Event()
_steps = itertools.count(1)  # of `preempted`
_rounds = itertools.count()  # of `gather`: a key is set once, and a barrier passed once


class Preempted(BaseException):
    """The job was told to end and has saved, as the message says; it can go on from there.

    No error, so that nothing takes it for one of its own.
    """


def start(coordinator: str, processes: int, index: int, preemptible: bool) -> None:
    """Joins the processes of the job; before it, nothing may touch a device.

    Args:
      coordinator: HOST:PORT at which all processes reach process 0; `AUTO` where the cluster
        tells all three (TPU pod, GKE, Slurm); empty for a process that runs alone.
      processes: how many there are.
      index: which of them this is, from 0.
      preemptible: SIGTERM no longer ends the process but is what `preempted` waits for.

    Raises:
      InputError: the arguments do not fit, or no job is found. (A process that waits in vain for
        the others is ended by jaxlib, with a message of its own.)
    """
    if not coordinator and processes != 1:
        raise InputError(f"found {processes} processes and no coordinator, expected its HOST:PORT")
    if coordinator not in ("", AUTO) and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"coordinator: found {coordinator!r}, expected HOST:PORT or {AUTO!r}")
    if not 0 <= index < processes:
        raise InputError(f"process_index: found {index}, expected one of {processes} from 0")
    if coordinator:
        _join(coordinator, processes, index, preemptible)
    if process_count() > 1:
        threading.Thread(target=_watch, daemon=True).start()
    elif preemptible:
        signal.signal(signal.SIGTERM, _told_to_end)


def _join(coordinator: str, processes: int, index: int, preemptible: bool) -> None:
    jax.config.update("jax_enable_preemption_service", preemptible)
    place = {}
    if coordinator != AUTO:
        # Detection must not override what is given: under Slurm it would hide all GPUs but one.
        place = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **place,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"coordinator {coordinator!r}: no job is found ({error})") from error


def _told_to_end(*_) -> None:
    _preempted.set()


def process_index() -> int:
    """Which process of the job this is; known before the devices are."""
    return global_state.process_id


def process_count() -> int:
    """How many processes the job has; known before the devices are."""
    return global_state.num_processes


def is_main() -> bool:
    """Whether this is the one process that writes what all of them know."""
    return process_index() == 0


def preempted() -> bool:
    """Whether the job is to save after this step and end: true in all processes at the same one.

    To be called after every step by every process. The step comes soon after SIGTERM has reached
    any of them, and is the first one where that was before it. From then on it is true.
    """
    if process_count() == 1 or _preempted.is_set():
        return _preempted.is_set()
    # Counted from the start of the process, as the service does until the first call: told the
    # step of a run that goes on, it would wait for one that has long been passed.
    if multihost_utils.reached_preemption_sync_point(next(_steps)):
        _preempted.set()
    return _preempted.is_set()


@contextlib.contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """For work of one process that has nothing to save: it is left on SIGTERM, wherever it stands.

    Raises:
      Preempted: it was, or the signal came before.
    """
    if preempted():
        raise Preempted(message)

    def leave(*_) -> NoReturn:
        _preempted.set()
        raise Preempted(message)

    if signal.getsignal(signal.SIGTERM) is not _told_to_end:  # nobody listens to it
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, _told_to_end)


def check_same(settings: Mapping[str, object]) -> None:
    """Compares the settings of all processes.

    Raises:
      InputError: in every process; names the keys that differ, their values and the processes.
    """
    if process_count() == 1:
        return
    text = json.dumps(settings, sort_keys=True, default=str)
    digests = gather(hashlib.sha256(text.encode()).hexdigest(), AGREEMENT_TIMEOUT)
    if len(set(digests)) == 1:
        return
    texts = gather(text, AGREEMENT_TIMEOUT)
    found = {same: json.loads(text) for text, same in who_says(texts).items()}
    raise InputError(f"the processes run different configs: {_differences(found)}")


def check_shared(folder: Path) -> None:
    """Refuses a folder that the processes do not share.

    Raises:
      InputError: in the processes that see another folder than process 0.
    """
    if process_count() == 1:
        return
    client = global_state.client
    if is_main():
        # A name of its own, so that no cache of a network's file system knows it.
        mark = folder / f".shared-{secrets.token_hex(8)}"
        mark.touch()
        client.key_value_set("overfill_jax/mark", mark.name)
    mark = folder / client.blocking_key_value_get("overfill_jax/mark", AGREEMENT_TIMEOUT * 1000)
    found = mark.exists()
    client.wait_at_barrier("overfill_jax/mark", AGREEMENT_TIMEOUT * 1000)
    if is_main():
        mark.unlink()
    if not found:
        raise InputError(
            f"{folder}: not the folder that process 0 has there, expected storage that all hosts "
            "have mounted"
        )


def gather(text: str, seconds: int) -> list[str]:
    """What each process says, in their order; to be called by all of them, in the same order.

    Args:
      text: of this process; of any length, and sent to all.
      seconds: how long to wait for the others while they live.
    """
    if process_count() == 1:
        return [text]
    client, place = global_state.client, f"overfill_jax/gathered/{next(_rounds)}"
    client.key_value_set(f"{place}/{process_index()}", text)
    client.wait_at_barrier(place, seconds * 1000)
    found = {
        int(key.rpartition("/")[2]): said for key, said in client.key_value_dir_get(f"{place}/")
    }
    return [found[index] for index in range(process_count())]


def who_says(texts: Sequence[str]) -> dict[str, str]:
    """Of what `gather` found: every text once, and the processes that say it, such as `0, 2-4`."""
    processes = defaultdict(list)
    for index, text in enumerate(texts):
        processes[text].append(index)
    return {text: _ranges(same) for text, same in processes.items()}


def broadcast(text: str) -> str:
    """The text of process 0, up to 4096 bytes of it, in all processes."""
    if process_count() == 1:
        return text
    letters = np.zeros(4096, np.uint8)
    encoded = np.frombuffer(text.encode(), np.uint8)
    letters[: len(encoded)] = encoded
    letters = np.asarray(multihost_utils.broadcast_one_to_all(letters))
    return letters.tobytes().rstrip(b"\0").decode()


def barrier(name: str) -> None:
    """Waits until all processes have come here."""
    if process_count() > 1:
        multihost_utils.sync_global_devices(name)


def finish() -> None:
    """Waits until all processes have come here; then each may end when it likes."""
    if process_count() > 1:
        # The shutdown that follows is short of patience: by then nobody may be at work.
        global_state.client.wait_at_barrier("overfill_jax/finish", WORK_TIMEOUT * 1000)
        _finished.set()


def fail(status: int, message: str) -> NoReturn:
    """Reports the error, prints it, and ends the job: all processes exit with `status` in seconds.

    Any thread may call it.
    """
    if process_count() == 1:
        _print_error(0, message)
        sys.exit(status)
    if not _failing.is_set():
        _failing.set()
        # Before anything that may go wrong here: what nobody reports, the others wait for.
        # Another process may have failed first, or the service may be gone with process 0.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            report = json.dumps([status, process_index(), message])
            global_state.client.key_value_set(_FAILURE, report)
        _print_error(process_index(), message)
    time.sleep(LOOK_EVERY + 2 * OWN_ERROR_TIMEOUT)  # it is `_watch` that ends the process
    os._exit(status)


def _watch() -> None:
    """Ends this process once any process of the job has failed, whatever its main thread does.

    An ordinary exit would wait for the others, which may be waiting in a collective for this one.
    """
    client = global_state.client
    while not _finished.wait(LOOK_EVERY):
        try:
            status, index, message = json.loads(client.key_value_try_get(_FAILURE))
        except jax.errors.JaxRuntimeError:
            continue  # nobody has failed
        if not _failing.wait(OWN_ERROR_TIMEOUT):
            _print_error(index, message)
        # Who leaves first takes the others down with an error of its own making.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier("overfill_jax/failure", 2 * OWN_ERROR_TIMEOUT * 1000)
            # All that a process can still say is how the others leave.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if is_main():
                time.sleep(LOOK_EVERY)
        os._exit(status)


def _print_error(index: int, message: str) -> None:
    where = f"process {index}: " if process_count() > 1 else ""
    with contextlib.suppress(OSError):  # nobody may be reading any more
        print(f"error: {where}{' '.join(message.split())}", file=sys.stderr, flush=True)


def _differences(found: Mapping[str, Mapping[str, object]]) -> str:
    """Keys whose values differ, each with its values and who has them."""
    lines = []
    for key in sorted(set().union(*found.values())):
        who = defaultdict(list)
        for processes, settings in found.items():
            who[json.dumps(settings.get(key, "not there"))].append(processes)
        if len(who) > 1:
            values = (f"{value} in process {', '.join(names)}" for value, names in who.items())
            lines.append(f"{key} is {', '.join(values)}")
    return "; ".join(lines)


def _ranges(numbers: Sequence[int]) -> str:
    """`[0, 2, 3, 4]` as `0, 2-4`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)
