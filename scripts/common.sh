# SPDX-License-Identifier: Apache-2.0
# Read by the other scripts (". common.sh"): finds or makes a Python that has what r1_mllm needs, and starts training.
# Plain POSIX shell.  The caller's working directory stays; relative paths mean what they mean to the user.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
needed="paddle setuptools numpy safetensors tokenizers huggingface_hub jinja2 PIL yaml pyarrow math_verify tyro tqdm"
needed="$needed visualdl matplotlib pycocotools numba"
needed_for_tests="pytest pytest_timeout xdist hypothesis ruff sklearn"
gpu_index="https://www.paddlepaddle.org.cn/packages/stable/cu126/"

say() { printf '%s\n' "$*"; }

fail() {
    code=$1
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$code"
}

# Number of NVIDIA GPUs of this machine.
count_gpus() {
    if command -v nvidia-smi >/dev/null 2>&1; then nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true; else echo 0; fi
}

# supports PYTHON: is it a version Paddle has wheels for?
supports() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# has PYTHON MODULE...: does it find every module?
has() {
    python_asked=$1
    shift
    supports "$python_asked" && "$python_asked" -c 'import sys
from importlib.util import find_spec
sys.exit(any(find_spec(name) is None for name in sys.argv[1:]))' "$@" >/dev/null 2>&1
}

# find_python EXTRAS MODULE...: sets $python; takes the active environment if it has everything, else .venv.
find_python() {
    extras=$1
    shift
    for python in python python3 "$root/.venv/bin/python"; do
        if command -v "$python" >/dev/null 2>&1 && has "$python" "$@"; then break; fi
        python=
    done
    if [ -z "$python" ]; then make_environment "$extras" "$@"; fi
    PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # this checkout, whatever else is installed
    export PYTHONPATH
}

make_environment() {
    extras=$1
    shift
    python=$root/.venv/bin/python
    if ! [ -x "$python" ]; then
        for base in python3 python python3.13 python3.12 python3.11 python3.10; do
            if command -v "$base" >/dev/null 2>&1 && supports "$base"; then break; fi
            base=
        done
        [ -n "$base" ] || fail 69 "Python 3.10, 3.11, 3.12 or 3.13 is needed (Paddle has no wheel for others)"
        say "Making the environment $root/.venv with $(command -v "$base") ..."
        "$base" -m venv "$root/.venv" || fail 69 "\"$base -m venv\" failed; on Debian and Ubuntu: apt install python3-venv"
    fi
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
    say "Installing r1_mllm [$extras] and what it needs into $root/.venv (about 1.2 GB, some minutes) ..."
    install "$extras" || { say "That failed; trying once more ..." && install "$extras"; } ||
        fail 69 "pip could not install; is the package index reachable?  Its last lines above say more"
    has "$python" "$@" || fail 69 "after installing, $python still misses one of: $*"
    say "Installed."
}

install() {
    set -- "$1" --quiet --disable-pip-version-check -e "$root[$1]"
    case $1 in *gpu*) set -- "$@" --extra-index-url "$gpu_index" ;; esac
    shift
    "$python" -m pip install "$@"
}

# Everything the CPU jobs and the tests need.
# The names are lists of words on purpose.
# shellcheck disable=SC2086
set_up_cpu() { find_python cpu,dev,digits $needed $needed_for_tests; }

# shellcheck disable=SC2086
set_up() { if [ "$(count_gpus)" -gt 0 ]; then find_python gpu,dev,digits $needed; else set_up_cpu; fi; }

# accumulate: sets GRADIENT_ACC, unless it is set, so that all devices together make up BATCH_SIZE.
accumulate() {
    GRADIENT_ACC=${GRADIENT_ACC:-$((BATCH_SIZE / (PER_DEVICE_BATCH_SIZE * GPUS * NNODES)))}
    if [ "$GRADIENT_ACC" -lt 1 ]; then GRADIENT_ACC=1; fi
}

# help_if_asked COMMAND FLAG...: prints the command's help instead of doing anything, if that is among the flags.
help_if_asked() {
    asked=$1
    shift
    for word in "$@"; do
        case $word in -h | --help) exec "$python" -m r1_mllm "$asked" --help ;; esac
    done
}

# train TASK FLAG...: what run_grpo_TASK.sh does; the caller has set MODEL DATASET IMAGE_ROOT OUTPUT_DIR and the others.
train() {
    accumulate
    task=$1
    shift
    set -- --task "$task" --model_name_or_path "$MODEL" --dataset_name "$DATASET" --image_root "$IMAGE_ROOT" \
        --output_dir "$OUTPUT_DIR" --num_generations "$NUM_GENERATIONS" \
        --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps "$GRADIENT_ACC" "$@"
    help_if_asked grpo "$@"
    [ -e "$DATASET" ] || fail 65 "data set $DATASET is not there; get it with: $python -m r1_mllm data prepare $task"
    persist grpo "$@"
}

# fine_tune FLAG...: what run_sft*.sh do; the caller has set MODEL DATASET OUTPUT_DIR and the others.
fine_tune() {
    accumulate
    if [ -n "${IMAGE_ROOT:-}" ]; then set -- --image_root "$IMAGE_ROOT" "$@"; fi
    set -- --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR" \
        --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps "$GRADIENT_ACC" "$@"
    help_if_asked sft "$@"
    [ -e "$DATASET" ] || fail 65 "data set $DATASET is not there; set DATASET to a file of conversations (docs/sft.md)"
    persist sft "$@"
}

# stage FORM MODEL GENERATIONS EPOCHS FLAG...: what stage*.sh do; MODEL and GENERATIONS serve where no variable is set.
stage() {
    form=$1
    from=$2
    generations=$3
    epochs=$4
    shift 4
    unless_given $# "curriculum up to stage $form (rendered scenes)" \
        curriculum --config "$root/configs/curriculum.yaml" --until "$form"
    set_up
    NUM_GENERATIONS=${NUM_GENERATIONS:-$generations}
    defaults 1
    OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-3B-Curriculum/$form}
    set -- --form "$form" --model_name_or_path "${MODEL:-$from}" \
        --dataset_name "${DATASET:-$root/configs/data/curriculum_$form.yaml}" \
        --image_root "${IMAGE_ROOT:-data/curriculum/grpo_data/images}" \
        --output_dir "$OUTPUT_DIR" --num_generations "$NUM_GENERATIONS" \
        --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps "${GRADIENT_ACC:-1}" \
        --max_prompt_length 2048 --max_completion_length 256 --num_train_epochs "$epochs" --soft_iou False \
        --bf16 "$precision" --logging_steps 1 --save_steps 100 --data_seed 42 "$@"
    help_if_asked "curriculum stage" "$@"
    persist "curriculum stage" "$@"
}

# persist COMMAND FLAG...: start it, and start it again up to RESTARTS times when it ends with a failure that may pass.
persist() {
    job=$1
    shift
    tries=0
    until start "$@"; do
        code=$?
        case $code in 64 | 65 | 66 | 73 | 75 | 76 | 77 | 130) exit "$code" ;; esac # trying again would end the same way
        if [ "$tries" -ge "$RESTARTS" ]; then exit "$code"; fi
        tries=$((tries + 1))
        say "Training ended with code $code; restart $tries of $RESTARTS from the newest checkpoint."
        if [ "$tries" -eq 1 ]; then set -- "$@" --overwrite_output_dir False --resume_from_checkpoint auto; fi
    done
}

# start FLAG...: one process, or one per GPU through Paddle's launcher.
start() {
    if [ "$GPUS" -eq 1 ] && [ "$NNODES" -eq 1 ]; then
        "$python" -m r1_mllm "$job" "$@"
    elif [ "$NNODES" -eq 1 ]; then
        "$python" -m paddle.distributed.launch --nproc_per_node "$GPUS" --run_mode collective \
            --log_dir "$OUTPUT_DIR/paddle_distributed_logs" "$python" -m r1_mllm "$job" "$@"
    else
        "$python" -m paddle.distributed.launch --master "$MASTER_ADDR:$MASTER_PORT" --nnodes "$NNODES" \
            --rank "$NODE_RANK" --nproc_per_node "$GPUS" --run_mode collective \
            --log_dir "$OUTPUT_DIR/paddle_distributed_logs" "$python" -m r1_mllm "$job" "$@"
    fi
}

# unless_given COUNT WHAT WORD...: on a machine without a GPU, when no variable and none of COUNT flags says what to
# train, run the embedded WHAT, `r1-mllm WORD...`, instead of the rest of the script.
unless_given() {
    if [ "$(count_gpus)" -gt 0 ] || [ -n "${MODEL:-}${DATASET:-}${GPUS:-}" ] || [ "$1" -gt 0 ]; then return 0; fi
    say "No GPU here and nothing else given: running the embedded $2."
    shift 2
    set_up_cpu
    exec "$python" -m r1_mllm "$@" ${OUTPUT_DIR:+--output_dir "$OUTPUT_DIR"}
}

# embedded_default TASK FLAG...: the small model that run_grpo_*.sh train unless something is given.
embedded_default() {
    task=$1
    shift
    unless_given $# "default for $task (rendered scenes, a small Qwen2.5-VL)" quickstart --task "$task"
}

# defaults PER_DEVICE_BATCH_SIZE: the variables people know; GPUS is what the machine has.
defaults() {
    found=$(count_gpus)
    GPUS=${GPUS:-$found}
    if [ "$GPUS" -lt 1 ]; then GPUS=1; fi
    BATCH_SIZE=${BATCH_SIZE:-16}
    PER_DEVICE_BATCH_SIZE=${PER_DEVICE_BATCH_SIZE:-$1}
    NUM_GENERATIONS=${NUM_GENERATIONS:-8}
    NNODES=${NNODES:-1}
    NODE_RANK=${NODE_RANK:-0}
    MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
    MASTER_PORT=${MASTER_PORT:-8080}
    RESTARTS=${RESTARTS:-0}
    precision=False
    if [ "$found" -gt 0 ]; then precision=True; fi # bf16 on GPUs, float32 on a CPU
}
