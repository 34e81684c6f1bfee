#!/usr/bin/env python3
"""Renders the charts and checks what comes out, and that the plain manifests say the same.

Needs helm-python-sdk and kubernetes-validate. One line per check; exit code 1 when one fails.

    check.py                        all checks
    check.py --write-configs DIR    also writes the configuration file of every rendering, for `edgemesh config validate`
    check.py --write-manifests      writes deploy/kubernetes anew from the charts, then checks
"""

import argparse
import sys
from pathlib import Path

# The folder is part of the repository: nothing compiled is left in it.
sys.dont_write_bytecode = True

import helm_python

import charts
import folder
from harness import CHECKS, RENDERED, Failure, Rendered, expect
from renderings import RENDERINGS


def write_configs(target):
    target.mkdir(parents=True, exist_ok=True)
    for item in RENDERED.values():
        if item.rendering.runs:
            name, text = item.config_file()
            (target / f"{item.name}.{name}").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description="Checks deploy/.")
    parser.add_argument("--write-configs", type=Path, metavar="DIR")
    parser.add_argument("--write-manifests", action="store_true")
    arguments = parser.parse_args()
    if arguments.write_manifests:
        folder.write_manifests()
    for rendering in RENDERINGS:
        expect(rendering.name not in RENDERED, f"two renderings are named {rendering.name}")
        try:
            RENDERED[rendering.name] = Rendered(rendering)
        except helm_python.HelmError as error:
            print(f"FAILED  {rendering.chart} does not render {rendering.name}: {error}")
            return 1
    failed = 0
    for function in CHECKS:
        try:
            note = function()
            print(f"ok      {function.__name__}{f' ({note})' if note else ''}")
        except (Failure, LookupError, OSError, StopIteration, TypeError, ValueError, helm_python.HelmError) as error:
            failed += 1
            told = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            print(f"FAILED  {function.__name__}: {told}")
    if arguments.write_configs:
        write_configs(arguments.write_configs)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold, {len(RENDERED)} renderings, Kubernetes {', '.join(charts.VERSIONS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
