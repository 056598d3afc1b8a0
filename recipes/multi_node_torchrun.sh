#!/usr/bin/env bash
# When: several machines without a scheduler. One that drops out is waited for, and all go on from the last checkpoint.
# Needs: on every machine the same folder (checkpoints are read from it) and the same environment; an open port on the first.
# Change: HEAD (the first machine's name), NODES (machines), PROCESSES (GPUs of each), PORT (29500), and the options, which are
#         those of `fit`.
# Run this on every machine:
#   HEAD=gpu01 NODES=2 PROCESSES=8 recipes/multi_node_torchrun.sh --config recipes/resnet50_ddp.yaml --data.source photos/
# Each shows its first process; the others write to runs/logs/MACHINE/, or where LOGS says.
# If the machines have several network cards, name the one to use: NCCL_SOCKET_IFNAME=eth0 (GLOO_SOCKET_IFNAME on CPUs).
# Where a machine does not know itself by the name in HEAD, say on the first one RDZV_CONF=is_host=1 and is_host=0 on the others.
set -euo pipefail
: "${HEAD:?Expected HEAD to be the name or the address of the first machine, the same on all of them.}"
NODES=${NODES:-2}
PROCESSES=${PROCESSES:-8}
PORT=${PORT:-29500}
# torchrun waits for ever where another program has the port of the first machine. Only there can it be bound.
[[ ${RDZV_CONF:-} == *is_host=0* ]] || python3 - "$HEAD" "$PORT" <<'END'
import errno, socket, sys
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((sys.argv[1], int(sys.argv[2])))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Expected PORT to be a free port of the first machine, but {sys.argv[2]} is in use. Name another one.")
END
# The terminal shows the first process of this machine, the others write files.
LOGS=${LOGS:-runs/logs/$(hostname)}
OTHERS=$(seq -s, -f '%g:3' 1 $((PROCESSES - 1)))
# A store of its own for every start: in one that outlives a restart, the addresses of workers that are gone still stand.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export LIGHTNING_NOISY_RECIPE=multi_node_torchrun # W&B runs are named after it and the file behind --config
exec torchrun ${OTHERS:+--log-dir "$LOGS" --redirects "$OTHERS"} \
  --nnodes "$NODES" --nproc_per_node "$PROCESSES" --max_restarts "${MAX_RESTARTS:-3}" \
  --rdzv_backend c10d --rdzv_endpoint "$HEAD:$PORT" --rdzv_id "${JOB:-lightning-noisy}" \
  ${RDZV_CONF:+--rdzv_conf "$RDZV_CONF"} ${LOCAL_ADDR:+--local_addr "$LOCAL_ADDR"} \
  "$(command -v lightning-noisy)" fit "$@" \
  --trainer.num_nodes "$NODES" --trainer.devices "$PROCESSES" --ckpt_path last
