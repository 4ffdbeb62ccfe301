"""`make bench`: graphs, kernels, collection and training, each beside its peer, one after another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    for name in ("graphs", "kernels", "collection", "training"):
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
