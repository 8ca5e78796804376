"""Build the wheel from the sdist, hold its contents against git, and use it outside the repository.

A forgotten sub-package works when installed editable and is missing from the wheel; only this notices.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USE = """
import torch, cupel
from cupel.protocol import program
from cupel.protocol.arithmetic import self_test
from cupel.network.ipfs import cid_of

self_test("cpu")
doubled = program.trace(lambda x: x + x, (torch.ones(3),))
assert program.run(program.Program.from_bytes(doubled.to_bytes()), (torch.ones(3),)).tolist() == [2.0] * 3
assert cid_of(b"hello world") == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
print("used", cupel.__file__)
"""


def expected_files() -> set[str]:
    """Paths inside the wheel that git's files map to."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = settings["package-data"]
    folders = {folder: package.replace(".", "/") for package, folder in settings["package-dir"].items()}
    tracked = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    expected = set()
    for path in map(Path, tracked.split()):
        inside = Path(folders[path.parts[0]], *path.parts[1:])
        patterns = data.get(".".join(inside.parts[:-1]), [])
        if path.suffix == ".py" or any(path.match(pattern) for pattern in patterns):
            expected.add(str(inside))
    return expected


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        # `build` makes the sdist, then the wheel out of it, not out of the working tree.
        subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = out.glob("*.whl")
        inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        missing, extra = expected_files() - inside, inside - expected_files()
        if missing or extra:
            sys.exit(f"the wheel differs from git: missing {sorted(missing)}, extra {sorted(extra)}")
        environment = out / "environment"
        venv.create(environment, with_pip=False)
        # Dependencies come from this environment through a path file; its editable Cupel does not, because path
        # files inside a folder that was added by a path file are not read.
        site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
        )
        python = environment / "bin" / "python"
        subprocess.run([python, "-c", USE], cwd=out, check=True)
        for arguments in (["--version"], ["doctor"], ["demo", "--help"]):
            code = f"import sys; sys.argv = ['cupel', *{arguments!r}]; from cupel.cli import main; main()"
            subprocess.run([python, "-c", code], cwd=out, check=True)
    print(f"wheel holds {len(inside)} files, as git does; used outside the repository")


if __name__ == "__main__":
    main()
