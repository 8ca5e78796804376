#!/bin/sh
# Make the environment in .venv and install Cupel into it; does nothing when that is already done.
#   tools/setup.sh           what running needs
#   tools/setup.sh dev       what testing needs as well
set -eu
cd "$(dirname "$0")/.."
extra=${1:-run}
venv=${VENV:-.venv}
stamp="$venv/.installed-$extra"

wanted=$({ cat pyproject.toml; echo "$extra"; } | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

is_right() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && is_right "$candidate"; then python=$candidate; break; fi
done

target=.
if [ "$extra" = dev ]; then target='.[dev]'; fi

if command -v uv >/dev/null 2>&1; then
    # uv reads none of pip's settings: a folder of wheels named there is handed on. Without one, ask for torch's
    # CPU build: the default build brings gigabytes of CUDA that the CPU engine does not use.
    links=$( { pip config get :env:.find-links || pip config get global.find-links; } 2>/dev/null | tail -n 1 || true)
    if [ -n "$links" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}"
    elif [ "$(uname)" = Linux ]; then torch="--torch-backend ${UV_TORCH_BACKEND:-cpu}"; fi
    echo "Setting up $venv with uv ..." >&2
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "${python:-3.13}" "$venv"
    # shellcheck disable=SC2086  # the option and its value are two words
    uv pip install --quiet --python "$venv/bin/python" ${torch:-} --editable "$target" ||
        uv pip install --quiet --python "$venv/bin/python" --editable "$target"
else
    if [ -z "$python" ]; then
        echo "Cupel needs Python 3.11, 3.12 or 3.13. Type: sudo apt install python3 python3-venv   (macOS: brew install python@3.13)" >&2
        exit 1
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "Python's venv module is missing. Type: sudo apt install $(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv" >&2
        exit 1
    fi
    echo "Setting up $venv (a few minutes the first time) ..." >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$target"
fi
echo "$wanted" > "$stamp"
