#!/usr/bin/env bash
# Makes benchmarks/.venv-stepping, the interpreter of stepping.py's peers: TorchRL pins a tensordict that is not ours.
# Usage: benchmarks/peers/setup_stepping.sh [python]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$here/../.venv-stepping"
"${1:-python3.11}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 torchrl==0.14.1 pettingzoo==1.27.0 supersuit==3.11.0 \
    gymnasium==1.4.0 pymunk==7.3.1 numpy==2.4.6 pygame scipy
