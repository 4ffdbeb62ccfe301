#!/usr/bin/env bash
# Makes benchmarks/.venv-peers, the peers' own interpreter: BenchMARL pins versions that must not reach ours.
# Usage: benchmarks/peers/setup.sh [python]
# On a machine without CUDA, PIP_EXTRA_INDEX_URL can name an index that holds the smaller CPU build of torch.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$here/../.venv-peers"
"${1:-python3.11}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --constraint "$here/constraints.txt" benchmarl vmas torch-geometric
"$venv/bin/python" -c "import torch, torchrl, benchmarl, vmas, torch_geometric"
