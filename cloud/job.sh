# What slurm.sh and lsf.sh share; sourced, not run. Four settings, from the environment:
#
#   BASE_DIR   where data, checkpoints and images lie: a folder that outlives the job (default: here)
#   GPUS       processes, one GPU each (default: 1)
#   DEVICE     --device of the scripts (default: cuda, so that a GPU that cannot be used is an error rather than days
#              on the CPU; cpu: for a cluster without GPUs)
#   PYTHON     the interpreter (default: .venv/bin/python if ./demo.sh or ./test.sh made it, else python)
#
# stage vae [flags of 3A]                   the autoencoder on all images
# stage diffusion NUMBER [flags of 3B]      NUMBER-th class folder, or with NUMBER 0 one class-conditional model
#
# A stage starts, goes on where it stopped, or finds that all is done. It returns 0 when the training is finished,
# 99 when SIGUSR1 ended it before (everything is saved: put the job back into the queue), 143 after SIGTERM (saved
# too, but somebody wants it to end; after a preemption the scheduler itself requeues), else the script's error.

BASE_DIR=${BASE_DIR:-.}
GPUS=${GPUS:-1}
DEVICE=${DEVICE:-cuda}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi
REQUEUE=99
child=
stopped=
early=
unset CDPATH  # with it, cd prints where it went
# torchrun handles no SIGUSR1 by itself: one that reaches it (LSF signals all processes of a job) would end it and
# leave its processes behind. And it gives them only 30 seconds to save.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
export PYTHONUNBUFFERED=1

stage() {
    local data="$BASE_DIR/training_data/corel"
    case "${1:-}" in
    vae)
        shift
        train vae_models codes/3A-train-vae-corel.py --data-dir training_data/corel/corel_all "$@"
        ;;
    diffusion)
        local number=${2:-0} folder=corel_all conditional=--class-conditional
        shift 2
        if [ "$number" -gt 0 ]; then
            folder=$(cd "$data" && printf '%s\n' class_*/ | sed -n "${number}p" | tr -d /)
            conditional=
            if [ -z "$folder" ] || [ ! -d "$data/$folder" ]; then
                echo "error: there is no class number $number in $data. Run 2A, or shorten the array." >&2
                return 2
            fi
        fi
        case " $* " in
        *" --output-dir"[=\ ]*)
            if [ "$number" -gt 0 ]; then
                echo "error: --output-dir would be the same for every class: leave it out, or give NUMBER 0." >&2
                return 2
            fi
            ;;
        esac
        # shellcheck disable=SC2086  # no word, or one
        train "diffusion_models/$folder" codes/3B-train-diffusion-from-scratch-corel.py \
            --vae-checkpoint vae_models/best_model.pt --image-dir "training_data/corel/$folder" $conditional "$@"
        ;;
    *)
        echo "error: give 'vae' or 'diffusion' as the first word, found '${1:-}'." >&2
        return 2
        ;;
    esac
}

train() {  # train OUTPUT_DIR SCRIPT FLAGS...
    local output=$1 code interrupted started flag before= summary ended
    for flag in "${@:3}"; do
        case $flag in
        --base-dir | --base-dir=* | --overwrite | --resume | --resume=*)
            echo "error: ${flag%%=*} cannot be given here: set BASE_DIR, or remove the folder of the run." >&2
            return 2
            ;;
        --output-dir=*) output=${flag#*=} ;;
        *) if [ "$before" = --output-dir ]; then output=$flag; fi ;;
        esac
        before=$flag
    done
    if [ "$stopped" = TERM ]; then return 143; fi  # in the stage before this one, which was just ready
    if [ -n "$stopped" ]; then return $REQUEUE; fi
    case $output in /*) summary=$output/summary.json ;; *) summary=$BASE_DIR/$output/summary.json ;; esac
    ended=$(cat "$summary" 2>/dev/null || :)  # written when a training ends by itself, removed when it goes on
    local command=("$PYTHON" -u)
    if [ "$GPUS" -gt 1 ]; then
        # a process that dies, or hangs in a step, ends all of them: once, they go on from last.pt
        command=("$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$GPUS" --max-restarts 1)
    fi
    trap 'pass_on USR1' USR1
    trap 'pass_on TERM' TERM INT
    "${command[@]}" "$2" --output-dir "$output" --base-dir "$BASE_DIR" --device "$DEVICE" --resume auto "${@:3}" &
    started=$!
    sleep 0.2 || sleep 0.2 || :  # until it is the command: a copy of this shell would lose it (a sleep may get one too)
    child=$started
    if [ -n "$early" ]; then pass_on "$early"; fi
    while  # a signal ends `wait` early, with a code of its own
        interrupted=
        wait "$child" && code=0 || code=$?
        [ -n "$interrupted" ]
    do :; done
    child=
    if [ -z "$stopped" ]; then return "$code"; fi
    if [ -f "$summary" ] && [ "$(cat "$summary")" != "$ended" ]; then return 0; fi  # it was just ready
    if [ "$stopped" = TERM ]; then return 143; fi
    return $REQUEUE
}

pass_on() {
    stopped=${stopped:-$1}
    interrupted=1
    if [ -n "$child" ]; then kill -s "$1" "$child" 2>/dev/null || :; else early=$1; fi  # for the child that starts
}
