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
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    return f"{model}{flags}, {cores} cores, Python {platform.python_version()}, commit {commit or 'unknown'}"
