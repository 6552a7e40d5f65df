"""Launchers run what they show, and what follows `--` reaches Python word for word.

The programs of the clusters are stood in for by scripts that note how they were called; those
that would carry a command to another machine run it here, in a folder of its own.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# What a shell, YAML, Kubernetes or Slurm might take for something of theirs.
NASTY = """--config.generate.system=it's $HOME, "a" $$ $(id) `id` \\ {workdir} * ~ & ; | # %j é"""
TRAIN = ["train", "--config=configs/default.py", "--workdir=/mnt/runs/a b", NASTY]
CALLED_BY_CLUSTER = ["--coordinator=auto", "--preempted_status=75"]

NOTE = """#!/usr/bin/env bash
# In one piece, for others note theirs at the same time: at a line's end bash would begin another.
words=("$(basename "$0")" "$@" $'\\x1e')
printf '%s\\0' "${words[@]//$'\\n'/$'\\x1f'}" >> "$CALLS"
"""
PYTHON = (
    NOTE
    + """
if [[ "$2" == overfill_jax.main && -s "$STATUSES" ]]; then
  status="$(head -n 1 "$STATUSES")"
  sed -i 1d "$STATUSES"
  if [[ "$status" == 75 && -e "$STATE" ]]; then echo SUSPENDED > "$STATE"; fi
  exit "$status"
fi
while [[ "$2" == overfill_jax.main && -e "$BUSY" ]]; do sleep 1; done
"""
)
# A pod is there as soon as it was asked for; its workers live in folders of their own. Connections
# for what BROKEN names break, for the first line once and for "everything" always. What is BUSY is
# so until somebody looks on.
GCLOUD = (
    NOTE
    + """
worker="$(dirname "$STATE")/worker"
for word in "$@"; do
  if [[ "$word" == --command=* ]]; then command="${word#*=}"; fi
done
broken="$(head -n 1 "$BROKEN")"
if [[ "$3" == tpu-vm && "$broken" == everything ]]; then exit 255; fi
if [[ "$3 $4" == "tpu-vm ssh" && -n "$broken" && "$command" == *"$broken" ]]; then
  sed -i 1d "$BROKEN"
  exit 255
fi
case "$3 $4" in
  "queued-resources describe")
    if [[ ! -e "$STATE" ]]; then echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; fi
    cat "$STATE" ;;
  "queued-resources create") echo ACTIVE > "$STATE"; rm -rf "$worker"; mkdir "$worker" ;;
  "queued-resources delete") rm "$STATE" ;;
  "tpu-vm scp") cp "$5" "$worker/tree.tar.gz" ;;
  "tpu-vm ssh")
    if [[ "$command" == *" tail" ]]; then rm -f "$BUSY"; fi
    cd "$worker" && HOME="$worker" bash -c "$command" ;;
esac
"""
)


class Machine:
    """A copy of the launchers among programs that only note their calls."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.repository = folder / "repository"
        self.calls = folder / "calls"
        self.statuses = folder / "statuses"
        self.state = folder / "state"
        self.busy = folder / "busy"
        self.broken = folder / "broken"
        self.statuses.touch()
        self.broken.touch()
        shutil.copytree(
            REPOSITORY / "launch",
            self.repository / "launch",
            ignore=lambda *_: ["quickstart_model"],
        )
        (self.repository / "launch" / "environment.sh").write_text("# set up\n")
        self._program(self.repository / ".venv/bin/python", PYTHON)
        self.programs = folder / "programs"
        for name, text in {
            "gcloud": GCLOUD,
            "xpk": NOTE,
            "pip": "#!/usr/bin/env bash\n",
            "python": PYTHON,
            "python3": "#!/usr/bin/env bash\n",
            "sbatch": NOTE + 'while [[ "$1" == --* ]]; do shift; done\nexec bash "$@"\n',
            "srun": NOTE + 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
            "scontrol": NOTE,
            "sleep": "#!/usr/bin/env bash\nread -r -t 0.1 < <(:) || true\n",
        }.items():
            self._program(self.programs / name, text)
        subprocess.run(["git", "init", "--quiet"], cwd=self.repository, check=True)
        (self.repository / ".gitignore").write_text("runs/\n")

    def run(self, launcher: str, *arguments: str) -> subprocess.CompletedProcess:
        return self.bash([f"launch/{launcher}", *arguments])

    def bash(self, arguments: list[str]) -> subprocess.CompletedProcess:
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(self.calls),
            "STATE": str(self.state),
            "STATUSES": str(self.statuses),
            "BUSY": str(self.busy),
            "BROKEN": str(self.broken),
            "SLURM_JOB_ID": "17",
        }
        return subprocess.run(
            ["bash", *arguments],
            cwd=self.repository,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def called(self, program: str) -> list[list[str]]:
        """The arguments of every call of a program, in order."""
        if not self.calls.exists():
            return []
        calls = self.calls.read_text().replace("\x1f", "\n").split("\x1e\0")[:-1]
        words = [call.split("\0")[:-1] for call in calls]
        return [arguments for name, *arguments in words if name == program]

    def main_calls(self) -> list[list[str]]:
        """What the command line of the package was given."""
        calls = self.called("python")
        return [words[2:] for words in calls if words[:2] == ["-m", "overfill_jax.main"]]

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


POD = ["--name=pod", "--zone=us-central2-b"]
ALL = [*POD, "--type=v5p-64", "--spot", "--project=mine"]
SLURM = ["--nodes=2", "--gpus-per-node=h100:8", "--time=24:00:00"]
GKE = ["--cluster=tpus", "--workload=a", "--tpu-type=v5litepod-16"]
LAUNCHERS = [
    ("gpu_host.sh", []),
    ("slurm.sh", SLURM),
    ("gke.sh", GKE),
    ("tpu_pod.sh", ["all", *ALL]),
]


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=3"])
def test_programs_get_large_pages_unless_told_otherwise(tmp_path, given):
    shutil.copytree(REPOSITORY / "launch", tmp_path / "launch")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    installed = 'echo "$("$PYTHON" --version) $(cat requirements.txt pyproject.toml | cksum)"'
    lines = f"{installed} > .venv/installed; source launch/environment.sh; env"
    settings = {**os.environ, "PYTHON": sys.executable}
    settings.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        ["bash", "-ec", lines],
        cwd=tmp_path,
        env=settings | ({"GLIBC_TUNABLES": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = given or "glibc.malloc.hugetlb=1"
    assert f"GLIBC_TUNABLES={expected}" in done.stdout.splitlines()


def test_gpu_host(machine):
    done = machine.run("gpu_host.sh", "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert machine.main_calls() == [TRAIN]
    assert machine.called("python")[0][-1] == "jax[cuda12]"


def test_the_status_of_the_stage_is_that_of_the_launcher(machine):
    machine.statuses.write_text("2\n")
    assert machine.run("gpu_host.sh", "--", *TRAIN).returncode == 2


@pytest.mark.parametrize(
    ("name", "files"),
    [("multi30k", "train, val and test_2016_flickr"), ("gsm8k", "train.jsonl and test.jsonl")],
)
def test_trainings_on_given_data_go_on_where_they_were(machine, name, files):
    text = machine.folder / "some text"
    text.mkdir()
    for _ in range(2):
        done = machine.run(f"{name}.sh", str(text), NASTY)
        assert done.returncode == 0, done.stderr
    workdir = f"runs/{name}"
    place = [f"--config=configs/{name}.py", f"--workdir={workdir}"]
    assert machine.main_calls() == [["experiment", *place, NASTY]] * 2
    assert (machine.repository / workdir / "text").resolve() == text
    done = machine.run(f"{name}.sh")
    assert done.returncode == 1
    assert f"expected the folder with {files}" in done.stderr


def test_slurm(machine):
    done = machine.run("slurm.sh", *SLURM, "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    (submitted,) = machine.called("sbatch")
    assert {*SLURM, "--ntasks-per-node=8", "--requeue"} <= set(submitted)
    assert machine.main_calls() == [[*TRAIN, *CALLED_BY_CLUSTER]]
    assert not machine.called("scontrol")


@pytest.mark.parametrize(("status", "calls"), [(75, [["requeue", "17"]]), (143, []), (2, [])])
def test_slurm_queues_again_only_what_was_preempted(machine, status, calls):
    machine.statuses.write_text(f"{status}\n")
    assert machine.run("slurm.sh", *SLURM, "--", *TRAIN).returncode == status
    assert machine.called("scontrol") == calls


def test_gke(machine):
    (machine.repository / "runs").mkdir()
    (machine.repository / "runs" / "big").touch()
    done = machine.run("gke.sh", *GKE, "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    (created,) = machine.called("xpk")
    assert created[:2] == ["workload", "create"]
    assert {*GKE, "--restart-on-exit-codes=75"} <= set(created)  # of itself xpk does on 127 to 255
    (command,) = (word.removeprefix("--command=") for word in created if "--command=" in word)
    assert "\n" not in command  # it stands on one line of YAML
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", command)  # Kubernetes' variables
    command = command.replace("$$", "$")  # which it does on the way
    assert machine.bash(["-c", f"({command}) & wait $!"]).returncode == 0
    assert machine.main_calls() == [[*TRAIN, *CALLED_BY_CLUSTER]]
    (tree,) = (Path(word.split("=")[1]) for word in created if "--script-dir=" in word)
    assert (machine.repository / tree / "launch" / "gke.sh").exists()
    assert not (machine.repository / tree / "runs").exists()
    assert "xpk workload delete --cluster=tpus --workload=a" in done.stdout


def test_gke_with_an_image_that_has_the_code(machine):
    machine.run("gke.sh", *GKE, "--docker-image=mine", "--", *TRAIN)
    (created,) = machine.called("xpk")
    assert not [word for word in created if word.startswith(("--base-docker", "--script-dir"))]


def fake_worker(machine):
    """The pod's workers get a Python that notes its calls; returns their --mount."""
    environment = machine.repository / "launch" / "environment.sh"
    environment.write_text(f"mkdir -p .venv/bin && cp {machine.programs}/python .venv/bin/\n")
    uv = "#!/usr/bin/env bash\necho python\n"
    (machine.repository / "launch" / "uv").write_text(uv)
    return "--mount=mkdir -p ~/.local/bin && install launch/uv ~/.local/bin"


def test_tpu_pod_step_by_step(machine):
    mount = fake_worker(machine)
    for action, *more in (
        ["create", "--type=v5litepod-16"],
        ["setup", mount],
        ["run", "--", *TRAIN],
        ["tail"],
        ["delete"],
    ):
        done = machine.run("tpu_pod.sh", action, *POD, *more)
        assert done.returncode == 0, done.stderr
    assert machine.main_calls() == [[*TRAIN, *CALLED_BY_CLUSTER]]
    calls = machine.called("gcloud")
    assert all("--zone=us-central2-b" in call for call in calls)
    (created,) = (call for call in calls if call[3] == "create")
    assert "--runtime-version=v2-alpha-tpuv5-lite" in created
    assert "--spot" not in created
    workers = [word for call in calls for word in call if word.startswith("--worker")]
    assert workers == ["--worker=all"] * 3 + ["--worker=0"] * 2


def test_tpu_pod_runs_other_stages_on_one_worker(machine):
    mount = fake_worker(machine)
    machine.run("tpu_pod.sh", "create", *POD, "--type=v5litepod-16")
    machine.run("tpu_pod.sh", "setup", *POD, mount)
    convert = ["convert", *TRAIN[1:]]
    assert machine.run("tpu_pod.sh", "run", *POD, "--", *convert).returncode == 0
    assert machine.run("tpu_pod.sh", "tail", *POD).returncode == 0
    assert machine.main_calls() == [[*convert, "--preempted_status=75"]]
    (started,) = (call for call in machine.called("gcloud") if "start" in call[-2])
    assert "--worker=0" in started


def test_tpu_pod_goes_on_after_preemptions(machine):
    machine.statuses.write_text("75\n0\n")
    mount = fake_worker(machine)
    done = machine.run("tpu_pod.sh", "all", *ALL, mount, "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert machine.main_calls() == [[*TRAIN, *CALLED_BY_CLUSTER]] * 2
    verbs = [call[3] for call in machine.called("gcloud")]
    assert [verbs.count(verb) for verb in ("create", "scp", "delete")] == [2, 2, 2]
    assert all("--project=mine" in call for call in machine.called("gcloud"))
    assert not machine.state.exists()


@pytest.mark.parametrize("status", [2, 134])
def test_tpu_pod_is_kept_where_the_stage_failed(machine, status):
    machine.statuses.write_text(f"{status}\n")
    mount = fake_worker(machine)
    done = machine.run("tpu_pod.sh", "all", *ALL, mount, "--", *TRAIN)
    assert done.returncode == status
    assert "pod is kept for a look" in done.stderr
    assert machine.state.exists()
    assert len(machine.main_calls()) == 1


def test_a_stage_whose_output_was_lost_is_found_running_and_left_alone(machine):
    """But is asked to start once more, for some workers may not have been reached before."""
    machine.busy.touch()
    machine.broken.write_text("tail\n")
    done = machine.run("tpu_pod.sh", "all", *ALL, fake_worker(machine), "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "status 255; looking for the pod" in done.stdout
    assert "already running" in done.stdout
    verbs = [call[3] for call in machine.called("gcloud")]
    assert [verbs.count(verb) for verb in ("create", "scp", "delete")] == [1, 1, 1]
    assert len(machine.main_calls()) == 1


def test_a_pod_that_no_connection_reaches_is_given_up(machine):
    machine.broken.write_text("everything\n")
    done = machine.run("tpu_pod.sh", "all", *ALL, "--", *TRAIN)
    assert done.returncode == 255
    assert done.stdout.count("status 255; looking for the pod") == 10
    deleting = "tpu_pod.sh delete --name=pod --zone=us-central2-b --project=mine"
    assert done.stderr.endswith(f"costs until it is deleted: bash launch/{deleting}\n")
    assert machine.state.exists()


@pytest.mark.parametrize(("boot", "started"), [("this", 0), ("another", 1)])
def test_the_number_of_a_process_counts_until_the_machine_boots_again(machine, boot, started):
    if boot == "this":
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (machine.repository / "job.pid").write_text(f"{os.getpid()} {boot}\n")
    done = machine.bash(["launch/tpu_worker.sh", "start", *TRAIN])
    assert done.returncode == 0, done.stderr
    assert ("already running" in done.stdout) == (not started)
    if started:
        machine.bash(["launch/tpu_worker.sh", "tail"])
    assert len(machine.main_calls()) == started


def all_calls(machine):
    calls = [
        (name, c) for name in ("gcloud", "xpk", "sbatch", "python") for c in machine.called(name)
    ]
    # How often a pod is looked at depends on what it answers.
    return [(name, call) for name, call in calls if "describe" not in call]


@pytest.mark.parametrize(("launcher", "options"), LAUNCHERS)
def test_a_dry_run_only_shows(machine, launcher, options):
    if launcher == "tpu_pod.sh":
        options = [*options, fake_worker(machine)]
    done = machine.run(launcher, *options, "--dry-run", "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not machine.calls.exists()
    assert not (machine.repository / "runs").exists()
    # What it shows can be typed, and comes to what it would have done.
    shown = [line[2:] for line in done.stdout.splitlines() if line.startswith("+ ")]
    for line in shown:
        machine.bash(["-c", line])
    typed = all_calls(machine)
    machine.calls.unlink()
    machine.run(launcher, *options, "--", *TRAIN)
    assert typed == all_calls(machine)
    assert typed


@pytest.mark.parametrize(
    ("launcher", "arguments", "message"),
    [
        ("gpu_host.sh", [], "missing -- STAGE"),
        ("gpu_host.sh", ["train"], "found 'train' before --"),
        ("gpu_host.sh", ["--", "train", "--workdir=a"], "missing --config=..."),
        ("gpu_host.sh", ["--", "train", "--config=a"], "missing --workdir=..."),
        ("gpu_host.sh", ["--", "--config=a", "--workdir=a"], "missing -- STAGE"),
        ("gpu_host.sh", ["--nodes=2", "--", *TRAIN], "unknown option --nodes"),
        ("slurm.sh", ["--gpus-per-node=8", "--", *TRAIN], "missing --nodes=..."),
        ("slurm.sh", ["--nodes=1", "--", *TRAIN], "missing --gpus-per-node=..."),
        ("gke.sh", ["--workload=a", "--", *TRAIN], "missing --cluster=..."),
        ("gke.sh", [*GKE, "--", *TRAIN[:2], "--workdir=gs://a"], "found --workdir=gs://a"),
        ("tpu_pod.sh", [], "found action '', expected create, setup, run"),
        ("tpu_pod.sh", ["create", "--zone=a"], "missing --name=..."),
        ("tpu_pod.sh", ["create", *POD], "missing --type=..."),
        ("tpu_pod.sh", ["create", *POD, "--type=v3-8"], "found --type=v3-8"),
        ("tpu_pod.sh", ["create", *POD, "--sport"], "unknown option --sport"),
        ("tpu_pod.sh", ["run", *POD, "--", *TRAIN[:2], "--workdir=a"], "found --workdir=a"),
        ("tpu_pod.sh", ["all", *POD, "--", *TRAIN], "missing --type=..."),
    ],
)
def test_what_is_missing_is_said_in_one_line(machine, launcher, arguments, message):
    done = machine.run(launcher, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not machine.called("gcloud")
    assert not machine.called("sbatch")
