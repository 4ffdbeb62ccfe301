#!/usr/bin/env bash
# dgn on sisl/pursuit, 4 agents, 3 seeds against the random policy's interval; then 8 and 16 agents.
set -euo pipefail
cd "$(dirname "$0")/../.."
PY=${PY:-.venv/bin/python}
RUNS=${RUNS:-runs/pursuit}
FRAMES=${FRAMES:-40000}
export OMP_NUM_THREADS=1
train() { [ -f "$RUNS/$1/policy.json" ] || $PY -m gcoord.train experiment=pursuit_dgn "frames=$FRAMES" "seed=$1" "run_dir=$RUNS/$1" env.workers=0; }
train 0 & train 1
wait
train 2
EPISODES=16
$PY -m gcoord.evaluate "run=[$RUNS/0,$RUNS/1,$RUNS/2]" 'n_agents=[4,8,16]' "episodes=$EPISODES" num_envs=8 epsilon=0.05 out=experiments/pursuit
$PY experiments/curves.py experiments/pursuit/results.csv experiments/pursuit/curves.png "$RUNS"/0 "$RUNS"/1 "$RUNS"/2
