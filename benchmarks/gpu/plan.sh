#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The checks and measurements on a GPU, in groups of less than 10 minutes. See README.md.
#
#   bash benchmarks/gpu/plan.sh GROUP...      first correct ranks speed pytorch functions training
#
# OUT      folder of logs and results.jsonl (default: gpu_results)
# TORCH    Python with PyTorch for the card, for the group pytorch (default: python3 of PATH)
# DEVICE   cudnn, or cpu to try the plan itself
set -u
cd "$(dirname "$0")/../.."
out=${OUT:-gpu_results} device=${DEVICE:-cudnn} scripts=benchmarks/gpu
data=${DATA:-gpu_results/data} # graphs and images, too large to keep
export OUT="$out"
mkdir -p "$out" "$data"

# PyTorch runs in the environment from before env.sh.
torch=${TORCH:-$(command -v python3)}
before=(env "PATH=$PATH" "LD_LIBRARY_PATH=${LD_LIBRARY_PATH-}")
pack=${POINTDET_GPU:-$HOME/pointdet_gpu}
if [ -f "$pack/env.sh" ]; then
    . "$pack/env.sh"
fi
export PYTHONPATH=$PWD/src
python=$(command -v python3)
if [ ! -f "$pack/env.sh" ] && [ -x .venv/bin/python ]; then
    python=.venv/bin/python
    PATH=$PWD/.venv/bin:$PATH
fi
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
failed=()

# run NAME SECONDS COMMAND...: the command's output is also in OUT/NAME.log.
run() {
    local name=$1 seconds=$2
    shift 2
    echo "=== $name: $*"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || failed+=("$name (status $status)")
}

# check NAME SECONDS SCRIPT ARGUMENT...
check() {
    local name=$1 seconds=$2 script=$3
    shift 3
    run "$name" "$seconds" "$python" "$scripts/$script" --device "$device" --results "$out/results.jsonl" "$@"
}

# Three networks whose speed has a goal. On a CPU one is enough to try the plan, and half takes minutes.
goals=resnet_18,dlav0,cornernet_hourglass half="half NHWC" kinds="float NCHW,half NHWC"
if [ "$device" = cpu ]; then
    goals=resnet_18 half="float NCHW" kinds="float NCHW"
fi

first() {
    [ "$device" = cpu ] || run nvidia-smi 30 nvidia-smi
    check check 120 check.py
    check operations 240 operations.py
}

correct() {
    check networks 360 networks.py
    [ "$device" = cpu ] ||
        run precision 200 "$python" -m pytest tests/training/test_precision.py -k cudnn -n 6 --maxfail 5
}

ranks() {
    local cards
    cards=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    local launch=("$(command -v mpirun)" --bind-to none --oversubscribe)
    nccl=("$python" "$scripts/nccl.py" --device "$device" --results "$out/results.jsonl")
    run nccl_1 90 "${launch[@]}" -n 1 "${nccl[@]}"
    if [ "$cards" -gt 1 ]; then
        run "nccl_$cards" 120 "${launch[@]}" -n "$cards" "${nccl[@]}"
    else
        run nccl_2_on_one_card 120 "${launch[@]}" -n 2 "${nccl[@]}" --share-card
    fi
}

speed() {
    check speed 330 speed.py --only "$goals" --kinds "$kinds"
    NNABLA_CUDA_ALLOW_TF32=1 check speed_tf32 200 speed.py --only "$goals" --kinds "float NCHW"
}

pytorch() {
    check dump 240 dump.py "$data/graphs" --only "$goals"
    local torch_device=cuda
    [ "$device" = cudnn ] || torch_device=cpu
    run pytorch 330 "${before[@]}" "$torch" "$scripts/torch_side.py" --device "$torch_device" "$data"/graphs/*.json
}

functions() {
    check functions 280 function_times.py --only "$goals" --kinds "$half"
}

# The quickstart on the card, in float and in half: loader, validation, checkpoint, evaluation, export.
training() {
    local images=${IMAGES:-1000} folder=$data/training
    local common=(--data_dir "$folder/shapes" --extension_module "$device")
    run shapes 60 "$python" -m pointdet.data.shapes "$folder/shapes" --size 128 --train "$images"
    local last=half
    [ "$device" = cudnn ] || last=float
    for kind in float $([ "$last" = float ] || echo half); do
        local mixed=false
        [ "$kind" = float ] || mixed=true
        run "training_$kind" 200 "$python" src/main.py ctdet --train-config cfg/quickstart.yaml "${common[@]}" \
            -o "$folder/$kind" --set train.batch_size=8 --set train.workers=6 \
            --set mixed_precision.mixed_precision=$mixed --set mixed_precision.channel_last=$mixed
        cp "$folder/$kind/journal.csv" "$out/journal_$kind.csv"
    done
    for place in "$device" cpu; do # the same checkpoint on the card and on the CPU
        run "evaluation_on_$place" 60 "$python" src/test.py ctdet --checkpoint "$folder/$last/checkpoints/best" \
            --data_dir "$folder/shapes" --split test --extension_module "$place" --save_dir "$folder/on_$place"
    done
    run export 60 "$python" src/save_nnp.py ctdet --checkpoint "$folder/$last/checkpoints/best" \
        --extension_module "$device" --save_dir "$folder/export"
}

for group in "$@"; do
    case $group in
        first | correct | ranks | speed | pytorch | functions | training) "$group" ;;
        *) echo "unknown group $group; groups: first correct ranks speed pytorch functions training" >&2 && exit 2 ;;
    esac
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all commands succeeded: $*"
