"""Every verb that writes, killed, interrupted, doubled, and out of room: started again, it ends as if nothing was.

``make faults`` runs the whole campaign and prints its counts; a small part of it runs with the other tests.
"""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from .harness import Plan, Running, contents, differences, run
from .jobs import Jobs

#: Points at which a command is killed, in time and among its renames.
POINTS = 20
#: Jobs that are killed in the other tests too, and those of them that suffer every fault.
KILLED = (
    "simulate",
    "prepare",
    "frames",
    "cache",
    "fit raptor",
    "parcels",
    "name",
    "segment",
    "evaluate labels",
    "ensemble",
)
QUICK = ("simulate", "prepare", "frames", "cache")
INTERRUPTIONS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def in_campaign(names, quick=()):
    """Names as parameters; those that are not quick belong to the campaign. Each job has a process of its own."""
    marks = {name: [pytest.mark.xdist_group(name)] for name in names}
    for name in set(names) - set(quick):
        marks[name].append(pytest.mark.faults)
    return [pytest.param(name, marks=marks[name]) for name in names]


def each_job(quick=()):
    return pytest.mark.parametrize("name", in_campaign(Jobs.names, quick))


class Campaign:
    """Jobs, what their uninterrupted runs leave, and how often a restart was equal to it."""

    def __init__(self, jobs):
        self.jobs, self.known, self.times, self.record = jobs, {}, {}, None

    def straight(self, name):
        """Contents and number of renames of an uninterrupted run."""
        if name not in self.known:
            out = self.jobs.folder / f"straight {name}"
            ended = run(self.jobs[name].args(out), Plan(share=True))
            assert ended.code == 0, ended.error
            self.known[name] = contents(out, self.jobs[name].ignore), ended.events
        return self.known[name]

    def seconds(self, name):
        """Seconds of an uninterrupted run whose libraries are imported."""
        if name not in self.times:
            self.straight(name)
            ended = run(self.jobs[name].args(self.jobs.folder / f"timed {name}"))
            assert ended.code == 0, ended.error
            self.times[name] = ended.seconds
        return self.times[name]

    def restart(self, name, out, fault):
        """Start a command again: it must end well, and its result must be that of an uninterrupted run."""
        self.compare(name, out, fault, run(self.jobs[name].args(out)))

    def compare(self, name, out, fault, again):
        """Compare the result of a command that has ended with that of an uninterrupted run."""
        before = self.straight(name)[0]
        found = differences(before, contents(out, self.jobs[name].ignore)) if again.code == 0 else []
        left = [path for path in out.rglob("*") if path.name == ".lock" or path.name.endswith(".part")]
        is_clean = self.jobs[name].shared or not left
        self.count(name, fault, "right" if again.code == 0 and not found and is_clean else "wrong")
        assert again.code == 0, again.error
        assert found == []
        assert is_clean, left

    def count(self, name, fault, result):
        self.record(("fault", (name, fault, result)))


@pytest.fixture(scope="module")
def jobs(tiny, tmp_path_factory):
    return Campaign(Jobs(tiny, tmp_path_factory.mktemp("jobs")))


@pytest.fixture
def campaign(jobs, request):
    jobs.record = request.node.user_properties.append
    return jobs


def check_line(ended, code, words):
    """A command has ended with a code and one line that says why, and no traceback."""
    assert ended.code == code, ended.error
    assert "Traceback" not in ended.error, ended.error
    lines = [line for line in ended.error.replace("\r", "\n").splitlines() if line.startswith("alan: ")]
    assert words in (lines or [""])[-1], ended.error


@each_job(KILLED)
def test_killed_at_a_rename(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2))
    assert ended.code == -signal.SIGKILL
    campaign.restart(name, tmp_path / "out", "SIGKILL in the middle")


@pytest.mark.parametrize("name", in_campaign(["simulate", "prepare"], QUICK))
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_the_first_rename(campaign, name, after, tmp_path):
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=1, after=after))
    assert ended.code == -signal.SIGKILL
    campaign.restart(name, tmp_path / "out", f"SIGKILL {'after' if after else 'before'} a rename")


@each_job()
def test_killed_before_and_after_renames(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    places = sorted({round(1 + place * (events - 1) / (POINTS - 1)) for place in range(POINTS)})
    for at in places:
        for after in (False, True):
            out = tmp_path / f"{at}{after}"
            ended = run(campaign.jobs[name].args(out), Plan(at=at, after=after))
            assert ended.code == -signal.SIGKILL
            campaign.restart(name, out, f"SIGKILL {'after' if after else 'before'} a rename")
            shutil.rmtree(out)


@each_job()
def test_killed_at_random(campaign, name, tmp_path):
    draw = random.Random(name)
    seconds = campaign.seconds(name)
    for n in range(POINTS):
        out = tmp_path / str(n)
        ended = run(campaign.jobs[name].args(out), Plan(delay=draw.uniform(0, seconds)))
        assert ended.code in (-signal.SIGKILL, 0), ended.error
        campaign.restart(name, out, "SIGKILL at random")
        shutil.rmtree(out)


@pytest.mark.parametrize("number", INTERRUPTIONS)
@each_job(QUICK)
def test_interrupted(campaign, name, number, tmp_path):
    _, events = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2, number=number))
    check_line(ended, INTERRUPTIONS[number], "interrupted")
    campaign.restart(name, tmp_path / "out", signal.Signals(number).name)


@each_job()
def test_interrupted_at_random(campaign, name, tmp_path):
    draw = random.Random(name)
    seconds = campaign.seconds(name)
    for n in range(POINTS // 4):
        for number, code in INTERRUPTIONS.items():
            out = tmp_path / f"{n}-{number}"
            delay = draw.uniform(0.05, seconds)
            ended = run(campaign.jobs[name].args(out), Plan(delay=delay, number=number))
            if ended.code not in (0, -number):  # it had ended, or had not begun
                check_line(ended, code, "interrupted")
            campaign.restart(name, out, f"{signal.Signals(number).name} at random")
            shutil.rmtree(out)


@each_job(QUICK)
def test_two_at_once(campaign, name, tmp_path):
    """The first is stopped early; the second names it and leaves its work alone; the first then ends."""
    _, events = campaign.straight(name)
    job, out = campaign.jobs[name], tmp_path / "out"
    first = Running(job.args(out), Plan(at=min(2, events), number=signal.SIGSTOP))
    try:
        assert first.wait() == 0
        second = run(job.args(out))
        if not job.shared:
            check_line(second, 2, f"process {first.pid} of ")
            campaign.count(name, "a second process", "refused")
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()
    assert ended.code == 0, ended.error
    assert "Traceback" not in ended.error
    campaign.restart(name, out, "stopped, and continued")


@each_job(QUICK)
def test_no_space_at_a_rename(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there/file")
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2, error=full))
    check_line(ended, 2, "space")
    campaign.restart(name, tmp_path / "out", "no space at a rename")


@pytest.fixture
def disk(tmp_path):
    """``disk(size)`` mounts a disk of so many bytes, ``disk("ro")`` and ``disk("rw")`` change it; else skips."""
    folder = tmp_path / "disk"

    def mount(option):
        option = option if isinstance(option, str) else f"size={option}"
        again = "remount," if folder.is_dir() else ""
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{again}{option}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
@each_job()
def test_a_full_disk(campaign, name, share, disk, tmp_path):
    """Room for a part of the result; with more room, the same command completes it."""
    campaign.straight(name)
    kept = campaign.jobs.folder / f"straight {name}"
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    out = disk(max(8192, int(share * size))) / "out"
    ended = run(campaign.jobs[name].args(out))
    if ended.code == 0:
        return  # it had room enough
    check_line(ended, 2, "")
    assert any(word in ended.error for word in ("space", "free")), ended.error
    disk(64 * 2**20 + 20 * size)
    campaign.restart(name, out, "a full disk")


@each_job()
def test_a_read_only_disk(campaign, name, disk, tmp_path):
    campaign.straight(name)
    out = disk(2**28) / "out"
    disk("ro")
    ended = run(campaign.jobs[name].args(out))
    check_line(ended, 2, "read-only")
    disk("rw")
    campaign.restart(name, out, "a read-only disk")


def limit(kind, value):
    """Lower a limit of this process below the parent's."""
    if kind == resource.RLIMIT_AS:
        value += psutil.Process().memory_info().vms
    if kind == resource.RLIMIT_NOFILE:
        value += max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(kind, (value, value))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((resource.RLIMIT_AS, value * 2**20) for value in (5, 40, 200)),
        *((resource.RLIMIT_NOFILE, value) for value in (3, 8, 20)),
        *((resource.RLIMIT_FSIZE, value) for value in (300, 20_000)),
    ],
    ids=str,
)
@each_job()
def test_limits(campaign, name, kind, value, tmp_path):
    """Too little memory, too few descriptors, too small files: one line; without the limit the run completes."""
    out, fault = tmp_path / "out", {resource.RLIMIT_AS: "memory", resource.RLIMIT_NOFILE: "descriptors"}
    ended = run(campaign.jobs[name].args(out), Plan(setup=lambda: limit(kind, value)))
    gave_up = ended.code == -signal.SIGABRT or (ended.code == 1 and "OpenBLAS error" in ended.error)
    aborted = gave_up and kind == resource.RLIMIT_AS  # by a library in C or C++
    limited = f"a limit of {fault.get(kind, 'file sizes')}"
    results = out / "results.json"
    if name == "search" and results.is_file() and "out of memory" in results.read_text(encoding="utf-8"):
        campaign.count(name, limited, "refused")  # the trial is a failure of the study, as documented
        return
    if ended.code == 0:
        campaign.compare(name, out, f"within {limited}", ended)
        return
    if not aborted:
        check_line(ended, 2, "")
        campaign.count(name, limited, "refused")
    campaign.restart(name, out, f"after {limited}")


def worker_of(process, seconds=60):
    """The first worker process of a command, or None if the command ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            for child in process.children(recursive=True):
                words = " ".join(child.cmdline())
                is_helper = "tracker" in words or ("forkserver" in words and child.ppid() == process.pid)
                if not is_helper:
                    return child
        time.sleep(0.002)
    return None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", in_campaign(Jobs.pools))
def test_a_worker_is_killed_or_stopped(campaign, name, number, tmp_path):
    """A killed worker is one line, a stopped one is waited for."""
    out = tmp_path / "out"
    command = Running(campaign.jobs[name].args(out))
    worker = worker_of(psutil.Process(command.pid))
    if worker is not None:
        worker.send_signal(number)
        time.sleep(0.5)
        worker.send_signal(signal.SIGCONT)
    ended = command.end()
    if ended.code:
        assert number == signal.SIGKILL, ended.error
        check_line(ended, 2, "killed")
        campaign.count(name, "a worker gets SIGKILL", "refused")
    campaign.restart(name, out, f"a worker gets {signal.Signals(number).name}")
