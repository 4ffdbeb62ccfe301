#!/usr/bin/env bash
# qmix on mpe/simple_spread, 3 agents, 3 seeds against the random policy's interval; then 8 and 16 agents.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/spread}
FRAMES=${FRAMES:-40000}
three_seeds experiment=spread_qmix "frames=$FRAMES" env.workers=0
EPISODES=100
$PY -m gcoord.evaluate "run=[$RUNS/0,$RUNS/1,$RUNS/2]" 'n_agents=[3,8,16]' "episodes=$EPISODES" num_envs=8 out=experiments/spread_qmix
$PY experiments/curves.py experiments/spread_qmix/results.csv experiments/spread_qmix/curves.png "$RUNS"/0 "$RUNS"/1 "$RUNS"/2
