#!/usr/bin/env bash
# Makes benchmarks/.venv-waterworld and benchmarks/.venv-prison, interpreters for worlds that left PettingZoo long ago.
# Usage: benchmarks/peers/setup_originals.sh [python 3.11] [python 3.9]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
waterworld="$here/../.venv-waterworld" prison="$here/../.venv-prison"
"${1:-python3.11}" -m venv "$waterworld"
"$waterworld/bin/python" -m pip install --quiet pettingzoo==1.25.0 "pymunk==6.11.1" "numpy==2.4.6" "gymnasium==1.4.0" pygame scipy
"${2:-python3.9}" -m venv "$prison"
"$prison/bin/python" -m pip install --quiet "gym==0.23.1" "numpy==1.23.5" pygame
"$prison/bin/python" -m pip install --quiet --no-deps pettingzoo==1.17.0
