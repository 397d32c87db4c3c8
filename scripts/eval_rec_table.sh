#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The table of referring expressions: a model before (asked plainly) and after GRPO on four sets, with 95 % intervals.
# Variables: MODEL (Qwen/Qwen2.5-VL-3B-Instruct) CHECKPOINT (the trained model; needed) DATA_ROOT (data/rec_jsons_processed)
# COCO_ROOT (data/coco) REFGTA_ROOT (data/refgta) SAMPLE_NUM (500) LOGS_DIR (logs) NUM_PROCESSES (GPUs of this machine);
# flags go to both evaluations.  `r1-mllm data prepare rec` fetches the data.
# Without a GPU, and with nothing given, it evaluates the models of `scripts/quickstart.sh` on rendered scenes, after
# making them if they are not there.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded() {
    say "No GPU here and nothing else given: running the embedded default (rendered scenes, the quickstart's models)."
    set_up_cpu
    folder=${OUTPUT_DIR:-runs/quickstart}
    if ! [ -d "$folder/final" ]; then
        say "Training them first ..."
        "$python" -m r1_mllm quickstart --task rec --output_dir "$folder"
    fi
    scenes=$folder/table
    mkdir -p "$scenes"
    render trained_kind --seed 101 --max_objects 2
    render more_figures --seed 102 --max_objects 3
    render larger_pictures --seed 103 --max_objects 2 --side 112
    render single_figure --seed 104 --max_objects 1
    cat >"$scenes/sets.yaml" <<END
in_domain:
  - {name: trained_kind, path: $scenes/trained_kind/test.json}
  - {name: single_figure, path: $scenes/single_figure/test.json}
out_of_domain:
  - {name: more_figures, path: $scenes/more_figures/test.json}
  - {name: larger_pictures, path: $scenes/larger_pictures/test.json}
END
    for name in warm_start final; do
        "$python" -m r1_mllm eval --task rec --model_path "$folder/$name" --model_name "$name" \
            --eval_sets "$scenes/sets.yaml" --sample_num 0 --logs_dir "$scenes" --max_new_tokens 40 \
            --prompt_template "$root/r1_mllm/quickstart/prompts.yaml"
    done
    "$python" -m r1_mllm table --csv "$scenes/table.csv" \
        --columns trained_kind single_figure more_figures larger_pictures \
        --row "before=$scenes/rec_results_{dataset}_warm_start_r1_100.json" \
        --row "R1=$scenes/rec_results_{dataset}_final_r1_100.json"
}

# render NAME FLAG...: a held-out set of scenes.
render() {
    name=$1
    shift
    if [ -e "$scenes/$name/test.json" ]; then return 0; fi
    "$python" -m r1_mllm data synthesize --task rec --out "$scenes/$name" --num 1 --num_test "${NUM:-512}" \
        --side 84 "$@" >/dev/null
}

# evaluate MODEL LABEL METHOD FLAG...: the four sets.
evaluate() {
    model=$1
    label=$2
    method=$3
    shift 3
    for part in "$COCO_ROOT refcoco_val refcocop_val refcocog_val" "$REFGTA_ROOT refgta_subsample"; do
        images=${part%% *}
        # The names are a list of words on purpose.
        # shellcheck disable=SC2086
        "$python" "$root/eval/test_rec.py" --model_path "$model" --model_name "$label" --method "$method" \
            --data_root "$DATA_ROOT" --image_root "$images" --sample_num "$SAMPLE_NUM" --seed 42 \
            --logs_dir "$LOGS_DIR" --steps "$STEPS" --num_processes "$NUM_PROCESSES" "$@" \
            --test_datasets ${part#* }
    done
}

if [ "$(count_gpus)" -eq 0 ] && [ -z "${MODEL:-}${CHECKPOINT:-}" ] && [ $# -eq 0 ]; then
    embedded
    exit 0
fi
set_up
[ -n "${CHECKPOINT:-}" ] || fail 64 "set CHECKPOINT to the model that GRPO left (OUTPUT_DIR of run_grpo_rec.sh)"
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
DATA_ROOT=${DATA_ROOT:-data/rec_jsons_processed}
COCO_ROOT=${COCO_ROOT:-data/coco}
REFGTA_ROOT=${REFGTA_ROOT:-data/refgta}
SAMPLE_NUM=${SAMPLE_NUM:-500}
LOGS_DIR=${LOGS_DIR:-logs}
STEPS=${STEPS:-500}
found=$(count_gpus)
NUM_PROCESSES=${NUM_PROCESSES:-$((found > 0 ? found : 1))}
evaluate "$MODEL" table-baseline baseline "$@"
evaluate "$CHECKPOINT" table-r1 r1 "$@"
"$python" -m r1_mllm table --csv "$LOGS_DIR/rec_table.csv" \
    --columns "refcoco_val=refcoco val" "refcocop_val=refcoco+ val" "refcocog_val=refcocog val" "refgta_subsample=RefGTA" \
    --row "baseline=$LOGS_DIR/rec_results_{dataset}_table-baseline_baseline_$STEPS.json" \
    --row "R1=$LOGS_DIR/rec_results_{dataset}_table-r1_r1_$STEPS.json"
