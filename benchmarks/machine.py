"""What a number was measured on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def describe() -> str:
    """Processor, cores, commit."""
    model = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        model = f"{named.get('model name', model)} (family {named.get('cpu family')}, model {named.get('model')})"
        flags = ", AVX-512-VNNI" if "avx512_vnni" in text else ", AVX2" if " avx2 " in text else ""
        cores = text.count("processor\t")
    else:
        import os

        cores = os.cpu_count() or 1
    return f"{model}{flags}, {cores} cores, Python {platform.python_version()}, commit {find_commit()}"


def find_commit() -> str:
    """The commit that is measured, "-dirty" if anything but results differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs", ":!*.md"
    )
    return f"{commit}-dirty" if changed else commit
