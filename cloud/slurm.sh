#!/bin/bash
# Slurm. From the project's folder, after 2A has prepared the images below BASE_DIR:
#
#   sbatch cloud/slurm.sh vae                                              the autoencoder first
#   sbatch --dependency=afterok:JOB cloud/slurm.sh diffusion               then one class-conditional model
#   sbatch --dependency=afterok:JOB --array=1-6 cloud/slurm.sh diffusion   or one model a class, six classes
#
# Further flags go to the script: sbatch cloud/slurm.sh vae --image-size 64. Two minutes before the limit the
# training saves and the job goes back into the queue, as it does when a node is taken away.
#SBATCH --job-name=stepwise
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

# export BASE_DIR=/scratch/$USER/stepwise
# export GPUS=1   (and as many in --gres)
# export DEVICE=cpu   (where there are no GPUs; then without --gres)

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
. cloud/job.sh

kind=${1:-}
shift
number=()
if [ "$kind" = diffusion ]; then number=("${SLURM_ARRAY_TASK_ID:-0}"); fi
stage "$kind" "${number[@]}" "$@"
code=$?
if [ $code -eq $REQUEUE ]; then
    job=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
    # not SLURM_JOB_ID in an array: one of its tasks has the number of the whole array
    scontrol requeue "$job" || exit 1
    exit 0
fi
exit $code
