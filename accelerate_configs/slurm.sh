#!/usr/bin/env bash
# Any recipe on the nodes of a Slurm job, under any launch file:
#   sbatch --nodes 2 --gpus-per-node 8 accelerate_configs/slurm.sh rbft_trl/sft.py recipes/stage1.yaml [--key value ...]
#   LAUNCH_FILE=accelerate_configs/zero2.yaml sbatch --nodes 2 ... (default: multi_node.yaml)
# Submit from the repository's folder with the environment active; all nodes must see the same folders. Two minutes before
# the time limit, and on `scancel --signal TERM --batch JOB`, every training process gets SIGTERM.
#SBATCH --job-name=rbft
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%j.log
set -uo pipefail
if [ $# -lt 2 ]; then
  echo "usage: sbatch [options] $0 ENTRY.py RECIPE.yaml [--key value ...]" >&2
  exit 2
fi
export LAUNCH_FILE=${LAUNCH_FILE:-accelerate_configs/multi_node.yaml}
if [ ! -f "$LAUNCH_FILE" ] || [ ! -f "$1" ]; then
  echo "error: no launch file '$LAUNCH_FILE' or no entry '$1' here; submit from the repository's folder" >&2
  exit 2
fi
export NODES=$SLURM_JOB_NUM_NODES
export PROCESSES=$((NODES * ${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}))
export MAIN_PORT=${MAIN_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
MAIN_IP=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_IP

# On each node. SIGTERM goes to the training processes, not to their launcher, which would kill them after 30 s.
# shellcheck disable=SC2016
node='
accelerate launch --config_file "$LAUNCH_FILE" --num_machines "$NODES" --num_processes "$PROCESSES" \
  --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_IP" --main_process_port "$MAIN_PORT" "$@" &
launcher=$!
trap "pkill -TERM -P $launcher; again=1" TERM  # a signal ends `wait`, so wait again
again=1; while [ "$again" = 1 ]; do again=0; wait "$launcher"; code=$?; done
exit "$code"'

srun --ntasks-per-node=1 bash -c "$node" node "$@" &
step=$!
trap 'kill -TERM "$step"; again=1' TERM # srun hands it to its tasks
again=1; while [ "$again" = 1 ]; do again=0; wait "$step"; code=$?; done
exit "$code"
