#!/usr/bin/env bash
# dgn on sisl/pursuit, 4 agents, 3 seeds against the random policy's interval; then 8 and 16 agents.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/pursuit}
FRAMES=${FRAMES:-40000}
three_seeds experiment=pursuit_dgn "frames=$FRAMES" env.workers=0
EPISODES=16
$PY -m gcoord.evaluate "run=[$RUNS/0,$RUNS/1,$RUNS/2]" 'n_agents=[4,8,16]' "episodes=$EPISODES" num_envs=8 epsilon=0.05 out=experiments/pursuit
$PY experiments/curves.py experiments/pursuit/results.csv experiments/pursuit/curves.png "$RUNS"/0 "$RUNS"/1 "$RUNS"/2
