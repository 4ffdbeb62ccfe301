#!/usr/bin/env bash
# When what was learnt small is bad: teams of 3 on native/target, right and turned round, go on at 12 agents, with and
# without edge gates and an annealed closeness to what they were. 3 seeds, two runs at a time, one thread each.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/bad_transfer}
FRAMES=${FRAMES:-20000}
study=$RUNS
for model in relation gated; do
  RUNS=$study/$model
  three_seeds env=native/target algo=mappo "model=$model" n_agents=3 "frames=${SMALL:-90000}" \
    evaluation.frames=30000 evaluation.episodes=50 evaluation.num_envs=50
  for seed in 0 1 2; do
    [ -d "$study/$model-turned/$seed" ] || $PY experiments/bad_transfer/corrupt.py "$RUNS/$seed" "$study/$model-turned/$seed"
  done
done
play() {
  $PY -m gcoord.evaluate "run=$study/$1" 'n_agents=[12]' "out=$study/scale/$2" "modes=$3" "fine_tune.frames=$FRAMES" \
    "scratch.frames=$FRAMES" "episodes=${EPISODES:-100}" "processes=${PROCESSES:-2}" "${@:4}"
}
near=(fine_tune.near.weight=1)
play relation plain '[zero_shot,fine_tuned,scratch]'
play gated gated_near '[zero_shot,fine_tuned,scratch]' "${near[@]}"
play relation-turned turned_plain '[zero_shot,fine_tuned]'
play gated-turned turned_gated_near '[zero_shot,fine_tuned]' "${near[@]}"
play relation-turned turned_near '[zero_shot,fine_tuned]' "${near[@]}"
play gated-turned turned_gated '[zero_shot,fine_tuned]'
$PY experiments/bad_transfer/page.py "$study/scale"
