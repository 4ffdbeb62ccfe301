#!/usr/bin/env bash
# Train 6, run 4 to 24, over 3 seeds: speakers and listeners of several kinds, over the graph.
# Finished runs are not trained again.
source "$(dirname "$0")/../runs.sh"
RUNS=${RUNS:-runs/complex_speaker_listener}
FRAMES=${FRAMES:-200000}
WORLD=(env=vmas/custom env.scenario=experiments.complex_speaker_listener.scenario:Scenario)
for seed in 0 1 2; do train "relation-$seed" "${WORLD[@]}" n_agents=6 "frames=$FRAMES" model=relation topology=complete "seed=$seed"; done
$PY -m gcoord.evaluate "run=[$RUNS/relation-0,$RUNS/relation-1,$RUNS/relation-2]" 'n_agents=[4,6,12,24]' \
  out=experiments/complex_speaker_listener
