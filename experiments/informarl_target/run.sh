#!/usr/bin/env bash
# mappo on native/target, 3 agents, 3 seeds; then 3 to 50 agents in the same arena, with what others say cut off as well.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/informarl_target}
FRAMES=${FRAMES:-300000}
# A touch costs four times what it costs in the games that are played: else arriving earlier is worth running into things.
three_seeds env=native/target env.fine=20 algo=mappo n_agents=3 "frames=$FRAMES" "algo.lr_frames=$FRAMES" algo.lr_end=0.05 \
  algo.gamma=0.97 evaluation.frames=50000 evaluation.episodes=200 evaluation.num_envs=100
$PY -m gcoord.evaluate "run=$RUNS" 'n_agents=[3,7,10,15,50]' "episodes=${EPISODES:-400}" env.density=arena +env.fine=5 \
  'conditions=[none,cut:1]' "processes=${PROCESSES:-2}" out=experiments/informarl_target
