"""The wheel, installed into a fresh environment and used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PARTS = ("alan", "configs", "checkpoints", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["data-files"]


class Installed:
    """A fresh environment with the wheel; its dependencies are those of the environment that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheel = build(folder)
        venv.create(folder / "venv", symlinks=True)
        self.bin = folder / "venv" / "bin"
        run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps",
            "--python", self.bin / "python", self.wheel, cwd=folder)  # fmt: skip
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "venv" / "lib" / version / "site-packages"
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (site / "dependencies.pth").write_text("\n".join(paths), encoding="utf-8")  # without its own .pth files

    def __call__(self, *args: object) -> str:
        """Run the installed command and return its standard output."""
        return run(self.bin / "alan", *args, cwd=self.folder)


def build(folder):
    """Build the wheel from a copy of the sources, without fetching anything."""
    source = folder / "source"
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    return folder / run(sys.executable, "-c", BUILD, folder, cwd=source).splitlines()[-1]


def run(*command, cwd):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("wheel"))


def shipped_files():
    """Configurations and weights of the checkout, as paths from its root."""
    folders = [ROOT / "configs", ROOT / "checkpoints"]
    return {
        path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*") if path.is_file()
    }


def test_every_shipped_file_is_declared():
    declared = {
        path.relative_to(ROOT).as_posix(): target
        for target, globs in DATA.items()
        for g in globs
        for path in ROOT.glob(g)
    }
    assert set(declared) == shipped_files(), "add the new folder to tool.setuptools.data-files in pyproject.toml"
    for path, target in declared.items():
        assert target == f"share/alan/{Path(path).parent}"


def test_the_wheel_contains_every_file(installed):
    """The files beside the package, and all of the package: modules, stubs, templates, tables."""
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
    assert {name.partition(".data/data/share/alan/")[2] for name in names} - {""} == shipped_files()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "alan").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("alan/")} == {
        name for name in package if "__pycache__" not in name
    }


def test_the_installed_package_is_imported(installed):
    code = "import alan; from alan.shipped import shipped, shipped_configs as configs\n"
    code += "print(alan.__file__, *shipped().values(), *configs().values())"
    for path in run(installed.bin / "python", "-c", code, cwd=installed.folder).split():
        assert Path(path).is_relative_to(installed.folder / "venv"), path
    assert installed("--version").split()[0] == "alan"
    assert "sim/small" in installed("configs")
    assert "alan-sim-small.safetensors" in installed("doctor")


def test_shipped_weights_segment_frames(installed):
    pictures = installed.folder / "pictures"
    pictures.mkdir()
    for seed in range(2):
        frame = np.random.default_rng(seed).integers(0, 255, (96, 128), np.uint8)
        Image.fromarray(frame).save(pictures / f"frame{seed}.png")
    installed("segment", "--input", pictures, "--out", "segments")
    assert len(list((installed.folder / "segments" / "masks").glob("*.png"))) == 2
