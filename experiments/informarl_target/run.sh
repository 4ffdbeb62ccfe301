#!/usr/bin/env bash
# mappo on native/target, 3 agents, 3 seeds; then 3 to 50 agents in the same arena, with what others say cut off as well.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/informarl_target}
FRAMES=${FRAMES:-90000}
three_seeds env=native/target algo=mappo n_agents=3 "frames=$FRAMES" \
  evaluation.frames=30000 evaluation.episodes=50 evaluation.num_envs=50
$PY -m gcoord.evaluate "run=$RUNS" 'n_agents=[3,7,10,15,50]' "episodes=${EPISODES:-100}" env.density=arena \
  'conditions=[none,cut:1]' out=experiments/informarl_target
