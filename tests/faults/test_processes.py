"""Every verb that writes is killed, interrupted, started twice and run out of space; a restart completes it.

``make faults`` runs the whole campaign and prints its counts; a small part of it runs with the other tests.
"""

import contextlib
import errno
import os
import random
import re
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
    """Names as test parameters; slow ones belong to the campaign. Each job has a process of its own."""
    marks = {name: [pytest.mark.xdist_group(name)] for name in names}
    for name in set(names) - set(quick):
        marks[name].append(pytest.mark.faults)
    return [pytest.param(name, marks=marks[name]) for name in names]


def each_job(quick=()):
    return pytest.mark.parametrize("name", in_campaign(Jobs.names, quick))


class Campaign:
    """Jobs, what their uninterrupted runs leave, and how often a restart was equal to it."""

    def __init__(self, jobs):
        self.jobs, self.known, self.times, self.record, self.problems = jobs, {}, {}, None, []

    def straight(self, name):
        """Contents and number of renames of an uninterrupted run."""
        if name not in self.known:
            out = self.jobs.folder / f"straight {name}"
            ended = run(self.jobs[name].args(out), Plan(share=True))
            assert ended.code == 0, ended.error
            self.known[name] = self.contents(name, out), ended.events
        return self.known[name]

    def contents(self, name, out):
        job = self.jobs[name]
        return contents(out, job.ignore, numbered=job.shared)

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
        found = differences(before, self.contents(name, out)) if again.code == 0 else []
        left = [path for path in out.rglob("*") if path.name == ".lock" or path.name.endswith(".part")]
        problems = {
            f"exit code {again.code}: {again.error}": again.code != 0,
            f"differs in {', '.join(found)}": bool(found),
            f"leaves {', '.join(map(str, left))}": bool(left) and not self.jobs[name].shared,
        }
        self.count(name, fault, "right", "; ".join(text for text, is_found in problems.items() if is_found))

    def refuses(self, name, fault, ended, code, words, *, count=True):
        """A command must have ended with a code and one line that says why, and no traceback."""
        # progress bars begin their lines so, and one that is interrupted in its last update does not end its line
        error = re.sub(r"\r|\x1b\[A|(?<=/s\])(?=alan: )", "\n", ended.error)
        lines = [line for line in map(str.strip, error.splitlines()) if line.startswith("alan: ")]
        is_line = "Traceback" not in ended.error and any(word in (lines or [""])[-1] for word in words)
        is_refusal = ended.code == code and is_line
        if count or not is_refusal:
            problem = f"exit code {ended.code}, not {code} and one line with {words}: {ended.error}"
            self.count(name, fault, "refused", "" if is_refusal else problem)

    def count(self, name, fault, result, problem=""):
        """Record a result, or a problem in its place; the test fails at its end, after all trials."""
        self.record(("fault", (name, fault, "wrong" if problem else result)))
        if problem:
            self.problems.append(f"{fault}: {problem}")


@pytest.fixture(scope="module")
def jobs(tiny, tmp_path_factory):
    return Campaign(Jobs(tiny, tmp_path_factory.mktemp("jobs")))


@pytest.fixture
def campaign(jobs, request):
    jobs.record, jobs.problems = request.node.user_properties.append, []
    yield jobs
    assert not jobs.problems, "\n\n".join(jobs.problems)


@each_job(KILLED)
def test_a_verb_killed_at_a_rename_resumes(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2))
    assert ended.code == -signal.SIGKILL
    campaign.restart(name, tmp_path / "out", "SIGKILL in the middle")


@pytest.mark.parametrize("name", in_campaign(["simulate", "prepare"], QUICK))
@pytest.mark.parametrize("after", [False, True])
def test_a_verb_killed_at_its_first_rename_resumes(campaign, name, after, tmp_path):
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=1, after=after))
    assert ended.code == -signal.SIGKILL
    campaign.restart(name, tmp_path / "out", f"SIGKILL {'after' if after else 'before'} a rename")


@each_job()
def test_a_verb_killed_around_renames_resumes(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    places = sorted({round(1 + place * (events - 1) / (POINTS // 2 - 1)) for place in range(POINTS // 2)})
    for at in places:
        for after in (False, True):
            out = tmp_path / f"{at}{after}"
            ended = run(campaign.jobs[name].args(out), Plan(at=at, after=after))
            assert ended.code == -signal.SIGKILL
            campaign.restart(name, out, f"SIGKILL {'after' if after else 'before'} a rename")
            shutil.rmtree(out)


@each_job()
def test_a_verb_killed_at_random_resumes(campaign, name, tmp_path):
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
def test_an_interrupted_verb_resumes(campaign, name, number, tmp_path):
    _, events = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2, number=number))
    fault = signal.Signals(number).name
    campaign.refuses(name, fault, ended, INTERRUPTIONS[number], ["interrupted"], count=False)
    campaign.restart(name, tmp_path / "out", fault)


@each_job()
def test_a_verb_interrupted_at_random_resumes(campaign, name, tmp_path):
    draw = random.Random(name)
    seconds = campaign.seconds(name)
    for n in range(POINTS // 4):
        for number, code in INTERRUPTIONS.items():
            out = tmp_path / f"{n}-{number}"
            delay = draw.uniform(0.05, seconds)
            ended = run(campaign.jobs[name].args(out), Plan(delay=delay, number=number))
            fault = f"{signal.Signals(number).name} at random"
            if ended.code not in (0, -number):  # it had ended, or had not begun
                campaign.refuses(name, fault, ended, code, ["interrupted"], count=False)
            campaign.restart(name, out, fault)
            shutil.rmtree(out)


@each_job(QUICK)
def test_a_second_process_is_refused(campaign, name, tmp_path):
    """The first is stopped early; the second names it and leaves its work alone; the first then ends."""
    _, events = campaign.straight(name)
    job, out = campaign.jobs[name], tmp_path / "out"
    first = Running(job.args(out), Plan(at=min(2, events), number=signal.SIGSTOP))
    try:
        assert first.wait() == 0
        second = run(job.args(out))
        if not job.shared:
            campaign.refuses(name, "a second process", second, 2, [f"process {first.pid} of "])
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()
    if "Traceback" in ended.error:
        campaign.count(name, "stopped, and continued", "right", ended.error)
    campaign.compare(name, out, "stopped, and continued", ended)
    campaign.restart(name, out, "started again when complete")


@each_job(QUICK)
def test_a_full_disk_at_a_rename_is_reported(campaign, name, tmp_path):
    _, events = campaign.straight(name)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there/file")
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2, error=full))
    campaign.refuses(name, "no space at a rename", ended, 2, ["space"], count=False)
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
def test_a_full_disk_is_reported(campaign, name, share, disk, tmp_path):
    """Room for a part of the result; with more room, the same command completes it."""
    campaign.straight(name)
    out = disk(2**28) / "out"
    args = campaign.jobs[name].args(out)
    before, after = size_of(out), size_of(campaign.jobs.folder / f"straight {name}")
    disk(max(before + 8192, int(before + share * (after - before))))
    ended = run(args)
    if ended.code == 0:
        return  # it had room enough
    campaign.refuses(name, "a full disk", ended, 2, ["space", "free"], count=False)
    disk(2**28)
    campaign.restart(name, out, "a full disk")


def size_of(folder):
    """Bytes of the blocks that the files of a folder take; 0 if there is none."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@each_job()
def test_a_read_only_disk_is_reported(campaign, name, disk, tmp_path):
    campaign.straight(name)
    out = disk(2**28) / "out"
    args = campaign.jobs[name].args(out)
    disk("ro")
    ended = run(args)
    campaign.refuses(name, "a read-only disk", ended, 2, ["read-only"], count=False)
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
def test_system_limits_are_reported(campaign, name, kind, value, tmp_path):
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
        campaign.refuses(name, limited, ended, 2, [""])
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
def test_a_killed_or_stopped_worker_is_reported(campaign, name, number, tmp_path):
    """A killed worker gives a one-line error, a stopped one is waited for."""
    out, fault = tmp_path / "out", f"a worker gets {signal.Signals(number).name}"
    command = Running(campaign.jobs[name].args(out))
    worker = worker_of(psutil.Process(command.pid))
    if worker is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(number)
            time.sleep(0.5)
            worker.send_signal(signal.SIGCONT)
    ended = command.end()
    if ended.code:
        code = 2 if number == signal.SIGKILL else 0
        campaign.refuses(name, fault, ended, code, ["killed"])
    campaign.restart(name, out, fault)


@pytest.mark.parametrize("number", INTERRUPTIONS)
@pytest.mark.parametrize("name", in_campaign(Jobs.pools))
def test_a_verb_interrupted_with_its_workers_resumes(campaign, name, number, tmp_path):
    """A terminal sends Ctrl-C to the command and its workers, of which the command alone says so."""
    out, fault = tmp_path / "out", f"{signal.Signals(number).name} to all processes"
    command = Running(campaign.jobs[name].args(out))
    worker_of(psutil.Process(command.pid))
    command.interrupt(number)
    ended = command.end()
    if ended.code:
        campaign.refuses(name, fault, ended, INTERRUPTIONS[number], ["interrupted"])
        campaign.restart(name, out, fault)
    else:  # it had ended
        campaign.compare(name, out, fault, ended)


@pytest.mark.parametrize("name", in_campaign(Jobs.pools))
def test_workers_of_a_killed_verb_end(campaign, name, tmp_path):
    """Workers end when their command was killed, and do not disturb its restart."""
    out = tmp_path / "out"
    command = Running(campaign.jobs[name].args(out))
    process = psutil.Process(command.pid)
    worker_of(process)
    workers = process.children(recursive=True)
    os.kill(command.pid, signal.SIGKILL)
    os.waitpid(command.pid, 0)
    campaign.restart(name, out, "SIGKILL, not of its workers")
    left = psutil.wait_procs(workers, timeout=60)[1]
    problem = f"{', '.join(map(str, left))} still run" if left else ""
    campaign.count(name, "workers of a killed process", "right", problem)
    for child in left:
        child.kill()
