#!/usr/bin/env bash
# When: you want to know which labels are wrong, correct them, and train again on the cleaned ones.
# Needs: what recipes/imagefolder.yaml needs. Options behind the script's name go to both trainings.
# Resume: the same command; trainings and the audit go on where they were.
# Change: DATA, POLICY (drop, relabel, weight). Review runs/audit/audit/report.html in a browser, save its decisions, and
#   run the same again with DECISIONS=decisions.json: what was done is not done again, but for the last training where
#   they have changed what it is of; the one before is kept beside it.
#   DATA=photos recipes/audit.sh --model.backbone timm:resnet50.a1_in1k
set -euo pipefail
config=$(realpath "$(dirname "$0")/imagefolder.yaml")
data=$(realpath "${DATA:?name your images: DATA=photos recipes/audit.sh}")
run=${RUN:-runs/audit}
decisions=${DECISIONS:+$(realpath "$DECISIONS")}
mkdir -p "$run"
export LIGHTNING_NOISY_RECIPE=audit # W&B runs are named after it and the file behind --config
cd "$run"

train() { # a folder, its data, options
  mkdir -p "$1"
  (cd "$1" && lightning-noisy fit --config "$config" --data.source "$2" "${@:3}" \
    $([ -f runs/imagefolder/checkpoints/last.ckpt ] && echo --ckpt_path last))
}

train noisy "$data" "$@"
lightning-noisy audit --ckpt_path noisy/runs/imagefolder/checkpoints/last.ckpt --output audit
lightning-noisy apply --audit audit --policy "${POLICY:-relabel}" ${decisions:+"--decisions=$decisions"} \
  --output cleaned.parquet
if ! cmp -s cleaned.parquet trained_on.parquet; then # other labels than the second training there is of
  [ ! -e cleaned ] || mv cleaned "cleaned.before.$(date +%Y%m%d-%H%M%S)"
  cp cleaned.parquet trained_on.parquet
fi
train cleaned "$PWD/cleaned.parquet" "$@"
