#!/bin/bash
# LSF. From the project's folder, after 2A has prepared the images below BASE_DIR:
#
#   bsub -J vae                           cloud/lsf.sh vae          the autoencoder first
#   bsub -J model -w 'done(vae)'          cloud/lsf.sh diffusion    then one class-conditional model
#   bsub -J "model[1-6]" -w 'done(vae)'   cloud/lsf.sh diffusion    or one model a class, six classes
#
# bsub reads the #BSUB lines of a file that it gets on its standard input or, with -Zs, by name; where yours does
# neither, put them on the command line. Further flags go to the script. Two minutes before the run limit (-W) the
# job gets USR1, saves and ends with 99, which -Q takes for "back into the queue"; -r starts it again on another
# host when its own fails.
#BSUB -o stepwise-%J-%I.log
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

cd "${LS_SUBCWD:-.}" || exit 2
. cloud/job.sh

kind=${1:-}
shift
number=()
if [ "$kind" = diffusion ]; then number=("${LSB_JOBINDEX:-0}"); fi
stage "$kind" "${number[@]}" "$@"
exit $?
