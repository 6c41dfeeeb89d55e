"""What the benchmarks share: environments for peers, and the verdict on the targets."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def environment(name: str, packages: list[str]) -> Path | None:
    "Python of an environment under .bench/ with these packages; None where they can't be installed."
    place = HERE.parent / ".bench" / name
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
        )
        if done.returncode:
            print(f"{name} can't be installed here: {done.stderr.strip().splitlines()[-1]}")
            return None
        (place / "ready").touch()
    return python


def judge(targets: list[tuple[str, float, float, bool]]) -> int:
    "Print a line for each target (name, measured, goal, whether at least); 1 if one is short, else 0."
    short = 0
    for name, value, goal, at_least in targets:
        well = value >= goal if at_least else value <= goal
        short += not well
        sign, verdict = "≥" if at_least else "≤", "ok" if well else "short"
        print(f"target {name}: {value:.3g} (goal {sign} {goal:g}) {verdict}")
    return 1 if short else 0
