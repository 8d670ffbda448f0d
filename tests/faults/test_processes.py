"""Every verb that writes, killed, interrupted, doubled, and out of room: started again, it ends as if nothing was.

``make faults`` runs the whole campaign and prints its counts; a small part of it runs with the other tests.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest

from .harness import Plan, Running, contents, differences, run
from .jobs import Jobs

#: Points at which a command is killed, in time and among its renames.
POINTS = 20
#: Jobs whose every fault is tried with the other tests; the others take part in the campaign.
QUICK = ("simulate", "prepare", "frames", "cache", "segment", "active suggest")
INTERRUPTIONS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def in_campaign(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.faults) for name in names]


class Campaign:
    """Jobs, what their uninterrupted runs leave, and how often a restart was equal to it."""

    def __init__(self, jobs):
        self.jobs, self.known, self.counts = jobs, {}, {}

    def straight(self, name):
        """Contents, number of renames and seconds of an uninterrupted run."""
        if name not in self.known:
            out = self.jobs.folder / f"straight {name}"
            start = time.perf_counter()
            ended = run(self.jobs[name].args(out))
            assert ended.code == 0, ended.error
            seconds = time.perf_counter() - start
            self.known[name] = contents(out, self.jobs[name].ignore), ended.events, seconds
        return self.known[name]

    def restart(self, name, out, fault):
        """Start a command again: it must end well, and its result must be that of an uninterrupted run."""
        again = run(self.jobs[name].args(out))
        found = (
            differences(self.straight(name)[0], contents(out, self.jobs[name].ignore)) if again.code == 0 else []
        )
        equal = again.code == 0 and not found
        self.counts.setdefault((name, fault), Counter()).update(["equal" if equal else "different"])
        assert again.code == 0, again.error
        assert found == []
        assert not [path for path in out.rglob("*") if path.name == ".lock" or path.name.endswith(".part")]

    def print(self):
        for (name, fault), count in self.counts.items():
            print(f"{name:24} {fault:34} tried {count.total():3}  equal {count['equal']:3}  different "
                  f"{count['different']:3}")  # fmt: skip


@pytest.fixture(scope="module")
def campaign(tiny, tmp_path_factory):
    made = Campaign(Jobs(tiny, tmp_path_factory.mktemp("jobs")))
    yield made
    made.print()


def check_line(ended, code, words):
    """A command has ended with a code and one line that says why, and no traceback."""
    assert ended.code == code, ended.error
    assert "Traceback" not in ended.error, ended.error
    lines = [line for line in ended.error.replace("\r", "\n").splitlines() if line.startswith("alan: ")]
    assert words in lines[-1], ended.error


@pytest.mark.parametrize("name", Jobs.names)
def test_killed_at_a_rename(campaign, name, tmp_path):
    _, events, _ = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2))
    assert ended.code == -signal.SIGKILL
    campaign.restart(name, tmp_path / "out", "SIGKILL in the middle")


@pytest.mark.faults
@pytest.mark.parametrize("name", Jobs.names)
def test_killed_before_and_after_renames(campaign, name, tmp_path):
    _, events, _ = campaign.straight(name)
    places = sorted({round(1 + n * (events - 1) / (POINTS - 1)) for n in range(POINTS)})
    for at in places:
        for after in (False, True):
            out = tmp_path / f"{at}{after}"
            ended = run(campaign.jobs[name].args(out), Plan(at=at, after=after))
            assert ended.code == -signal.SIGKILL
            campaign.restart(name, out, f"SIGKILL {'after' if after else 'before'} a rename")
            shutil.rmtree(out)


@pytest.mark.faults
@pytest.mark.parametrize("name", Jobs.names)
def test_killed_at_random(campaign, name, tmp_path):
    draw = random.Random(name)
    seconds = campaign.straight(name)[2]
    for n in range(POINTS):
        out = tmp_path / str(n)
        ended = run(campaign.jobs[name].args(out), Plan(delay=draw.uniform(0, seconds)))
        assert ended.code in (-signal.SIGKILL, 0), ended.error
        campaign.restart(name, out, "SIGKILL at random")
        shutil.rmtree(out)


@pytest.mark.parametrize("number", INTERRUPTIONS)
@pytest.mark.parametrize("name", in_campaign(Jobs.names, QUICK))
def test_interrupted(campaign, name, number, tmp_path):
    _, events, _ = campaign.straight(name)
    ended = run(campaign.jobs[name].args(tmp_path / "out"), Plan(at=(events + 1) // 2, number=number))
    check_line(ended, INTERRUPTIONS[number], "interrupted")
    campaign.restart(name, tmp_path / "out", signal.Signals(number).name)


@pytest.mark.faults
@pytest.mark.parametrize("name", Jobs.names)
def test_interrupted_at_random(campaign, name, tmp_path):
    draw = random.Random(name)
    seconds = campaign.straight(name)[2]
    for n in range(POINTS // 2):
        for number, code in INTERRUPTIONS.items():
            out = tmp_path / f"{n}-{number}"
            delay = draw.uniform(0.05, seconds)
            ended = run(campaign.jobs[name].args(out), Plan(delay=delay, number=number))
            if ended.code not in (0, -number):  # it had ended, or had not begun
                check_line(ended, code, "interrupted")
            campaign.restart(name, out, f"{signal.Signals(number).name} at random")
            shutil.rmtree(out)


@pytest.mark.parametrize("name", in_campaign(Jobs.names, QUICK))
def test_two_at_once(campaign, name, tmp_path):
    """The first is stopped in the middle; the second names it and leaves its work alone; the first then ends."""
    _, events, _ = campaign.straight(name)
    job, out = campaign.jobs[name], tmp_path / "out"
    first = Running(job.args(out), Plan(at=(events + 1) // 2, number=signal.SIGSTOP))
    try:
        assert first.wait() == 0
        second = run(job.args(out))
        if not job.shared:
            check_line(second, 2, f"process {first.pid} of ")
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()
    assert ended.code == 0, ended.error
    assert "Traceback" not in ended.error
    campaign.restart(name, out, "two at once, the first stopped")


@pytest.mark.parametrize("name", in_campaign(Jobs.names, QUICK))
def test_no_space_at_a_rename(campaign, name, tmp_path):
    _, events, _ = campaign.straight(name)
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


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("name", Jobs.names)
def test_a_full_disk(campaign, name, share, disk, tmp_path):
    """Room for a part of the result; with more room, the same command completes it."""
    campaign.straight(name)
    kept = campaign.jobs.folder / f"straight {name}"
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    out = disk(max(8192, int(share * size))) / "out"
    ended = run(campaign.jobs[name].args(out))
    if ended.code == 0:
        pytest.skip("it had room enough")
    check_line(ended, 2, "")
    assert any(word in ended.error for word in ("space", "free")), ended.error
    disk(64 * 2**20 + 20 * size)
    campaign.restart(name, out, "a full disk")


@pytest.mark.faults
@pytest.mark.parametrize("name", Jobs.names)
def test_a_read_only_disk(campaign, name, disk, tmp_path):
    campaign.straight(name)
    out = disk(2**28) / "out"
    disk("ro")
    ended = run(campaign.jobs[name].args(out))
    check_line(ended, 2, "read-only")
    disk("rw")
    campaign.restart(name, out, "a read-only disk")
