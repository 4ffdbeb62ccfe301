# Sourced by the run.sh of studies: commands run from the repository's root, one thread each.
#   train FOLDER OVERRIDE...  trains the run $RUNS/FOLDER unless it is finished; one that was stopped goes on.
#   three_seeds OVERRIDE...   trains $RUNS/0, 1 and 2 with these seeds, two at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PY=${PY:-.venv/bin/python}
export OMP_NUM_THREADS=1
train() {
  if grep -qs '"status": "finished"' "$RUNS/$1/summary.json"; then return; fi
  if [ -d "$RUNS/$1/checkpoints/last" ]; then $PY -m gcoord.train "resume=$RUNS/$1"; return; fi
  rm -rf "${RUNS:?}/$1" # stopped before its first checkpoint
  $PY -m gcoord.train "run_dir=$RUNS/$1" "${@:2}"
}
three_seeds() {
  train 0 "$@" seed=0 & train 1 "$@" seed=1
  wait
  train 2 "$@" seed=2
}
