#!/bin/bash
# LSF. From the project's folder, after 2A has prepared the images below BASE_DIR:
#
#   STAGE=vae bsub -J vae < cloud/lsf.sh                                      the autoencoder first
#   STAGE=diffusion bsub -J model -w 'done(vae)' < cloud/lsf.sh               then one class-conditional model
#   STAGE=diffusion bsub -J "model[1-6]" -w 'done(vae)' < cloud/lsf.sh        or one model a class, six classes
#
# On standard input, because bsub reads the #BSUB lines of a file that it is given by name only where LSF was
# configured so (LSB_BSUB_PARSE_SCRIPT); by name, the words can follow it instead of STAGE. Further flags go to the
# script: STAGE="vae --image-size 64". Two minutes before the run limit (-W) the job gets USR1, saves and ends with
# 99, which -Q takes for "back into the queue"; -r starts it again on another host when its own fails.
#BSUB -o stepwise-%J-%I.out
#BSUB -n 8
#BSUB -R "span[hosts=1] rusage[mem=4GB]"
#BSUB -gpu "num=1"
#BSUB -W 4:00
#BSUB -wa USR1
#BSUB -wt 2
#BSUB -Q 99
#BSUB -r

# export BASE_DIR=/scratch/$USER/stepwise
# export GPUS=1   (and as many in -gpu)
# export DEVICE=cpu   (where there are no GPUs; then without -gpu)

cd "${LS_SUBCWD:-.}" || exit 2
# shellcheck disable=SC2086  # words, to be split
[ $# -gt 0 ] || set -- ${STAGE:-}
trap '' USR2  # LSF sends it at the limit and kills ten minutes later: nothing to die of
. cloud/job.sh
# A log of our own: of a run that is requeued by its exit code, LSF does not keep the output.
exec >>"$BASE_DIR/stepwise-${LSB_JOBID:-0}-${LSB_JOBINDEX:-0}.log" 2>&1

kind=${1:-}
shift
number=()
if [ "$kind" = diffusion ]; then number=("${LSB_JOBINDEX:-0}"); fi
stage "$kind" "${number[@]}" "$@"
exit $?
