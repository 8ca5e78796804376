#!/bin/sh
# A tree of links laid out as the wheel is, in build/types: tools that read source do not see editable installs.
set -eu
cd "$(dirname "$0")/.."
tree=build/types
rm -rf "$tree"
mkdir -p "$tree/cupel"
for part in client/*; do
    case $part in *__pycache__) ;; *) ln -s "../../../$part" "$tree/cupel/$(basename "$part")" ;; esac
done
python - <<'PY' | while read -r name folder; do ln -s "../../../$folder" "$tree/cupel/$name"; done
import tomllib
for package, folder in tomllib.load(open("pyproject.toml", "rb"))["tool"]["setuptools"]["package-dir"].items():
    if package.count(".") == 1:
        print(package.removeprefix("cupel."), folder)
PY
