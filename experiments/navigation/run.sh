#!/usr/bin/env bash
# Train 4, run 4 to 32: relation kernel and MLP over 3 seeds, and a team of 16 from scratch with the same frames.
# Two runs at a time, one thread each. About 20 minutes on 2 cores; finished runs are not trained again.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/navigation}
FRAMES=${FRAMES:-100000}
seeds() { for seed in 0 1 2; do train "$1-$seed" "frames=$FRAMES" "${@:2}" "seed=$seed"; done; }
{ seeds relation n_agents=4 model=relation; seeds mlp n_agents=4 model=mlp; } &
seeds scratch n_agents=16 model=relation num_envs=32
wait
$PY -m gcoord.evaluate "run=[$RUNS/relation-0,$RUNS/relation-1,$RUNS/relation-2,$RUNS/mlp-0,$RUNS/mlp-1,$RUNS/mlp-2]" \
  "scratch.runs=[$RUNS/scratch-0,$RUNS/scratch-1,$RUNS/scratch-2]" 'n_agents=[4,8,16,32]' out=experiments/navigation
