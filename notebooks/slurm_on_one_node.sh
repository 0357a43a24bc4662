# Starts a Slurm of one node, runs the batch `smoke` through it, and stops it: to try the command for a cluster.
#
#     sudo sh notebooks/slurm_on_one_node.sh
#
# Needs Debian's slurm-wlm and the package snakemake-executor-plugin-slurm in .venv. It is for a machine that has no Slurm
# of its own: it writes /etc/slurm/slurm.conf, and removes it. Records and logs go into a temporary folder.
set -eu
if ! command -v slurmctld > /dev/null; then
    echo "Skipped: Slurm is not installed (apt install slurm-wlm)."
    exit 0
fi
if [ -e /etc/slurm/slurm.conf ]; then
    echo "Left alone: this machine has a Slurm of its own, by /etc/slurm/slurm.conf."
    exit 1
fi
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
folder=$(mktemp -d)
node=$(hostname -s)
mkdir "$folder/state" "$folder/spool"
cat > /etc/slurm/slurm.conf <<END
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free --mega | awk '/^Mem:/ {print int(0.9 * $2)}')
PartitionName=all Nodes=$node Default=YES
END
trap 'pkill slurmd; pkill slurmctld; rm -f /etc/slurm/slurm.conf' EXIT
pgrep munged > /dev/null || { mkdir -p /run/munge; munged --force; }
slurmctld -i
slurmd
sleep 3
sinfo
# Without accounting, as here, finished jobs are seen by squeue only.
snakemake smoke --snakefile notebooks/Snakefile --directory . --executor slurm --slurm-status-command squeue --jobs 2 \
    --default-resources mem_mb=2000 runtime=30 \
    --config runs="$folder/runs" weights="$folder/weights" executed="$folder/executed"
echo "Records:"
ls "$folder"/runs/*
