#!/usr/bin/env bash
# When: before any training: a frozen pretrained backbone says which labels are wrong; they are corrected, then trained on.
# Needs: what recipes/imagefolder.yaml needs. Options behind the script's name go to the training.
# Resume: the same command; features, audit and training go on where they were.
# Change: DATA, BACKBONE, POLICY (drop, relabel, weight), SIZE (pixels). Review runs/audit_first/audit/report.html in a
#   browser, save its decisions, and run the same again with DECISIONS=decisions.json: the training begins anew on what
#   they have changed, and the one before is kept beside it.
#   DATA=photos BACKBONE=timm:vit_small_patch14_dinov2.lvd142m recipes/audit_first.sh
set -euo pipefail
config=$(realpath "$(dirname "$0")/imagefolder.yaml")
data=$(realpath "${DATA:?name your images: DATA=photos recipes/audit_first.sh}")
run=${RUN:-runs/audit_first}
decisions=${DECISIONS:+$(realpath "$DECISIONS")}
mkdir -p "$run"
export LIGHTNING_NOISY_RECIPE=audit_first # W&B runs are named after it and the file behind --config
cd "$run"

lightning-noisy audit --data.source "$data" --backbone "${BACKBONE:-timm:resnet50.a1_in1k}" --output audit \
  ${SIZE:+--data.image_size "$SIZE"}
lightning-noisy apply --audit audit --policy "${POLICY:-relabel}" ${decisions:+"--decisions=$decisions"} \
  --output cleaned.parquet
if ! cmp -s cleaned.parquet trained_on.parquet; then # other labels than the training there is of
  [ ! -e runs ] || mv runs "runs.before.$(date +%Y%m%d-%H%M%S)"
  cp cleaned.parquet trained_on.parquet
fi
lightning-noisy fit --config "$config" --data.source cleaned.parquet "$@" \
  $([ -f runs/imagefolder/checkpoints/last.ckpt ] && echo --ckpt_path last)
