#!/usr/bin/env bash
# Examples, small and full-size.   bash example_scripts.sh PART   runs one part; without PART, lists them.
set -eu
cd "$(dirname "$0")"

METHODS="SGD unif-SGD p-SGD c-SGD selective-backprop dro"
DATA_DIR=${DATA_DIR:-datasets}

# Make the run results/NAME with the given flags, unless it is finished; go on with it if it was stopped.
run() {
    local name=$1
    shift
    echo "--- $name"
    if [ "$(cat "results/$name/status" 2>/dev/null)" = finished ]; then
        echo "finished already"
    else
        python train.py --experiment-name "$name" "$@"
    fi
}

# The six methods at two budgets on scikit-learn's digits: a real comparison in about three minutes.
demo() {
    for budget in 0.2 0.5; do
        for method in $METHODS; do
            run "demo/${method}_b$budget" --method "$method" --budget "$budget" \
                --batch-size 64 --epochs 30 | grep -v ^epoch
        done
    done
    python -m plots results/demo
}

# The six methods on all of CIFAR-10 with a narrow network: what two CPU cores do in under an hour.
cpu() {
    for method in $METHODS; do
        run "cpu/${method}_b0.2" --dataset cifar10 --data-dir "$DATA_DIR" --model resnet18-w16 \
            --epochs 8 --budget 0.2 --method "$method"
    done
    python -m plots results/cpu
}

# The published study's own commands (Arazo et al. 2021), unchanged; each wants a GPU.
published() {
    python3 train.py --epoch 200 --dataset "cifar10" --num_classes 10 \
        --augmentation "ricap" --method "unif-SGD" --budget 0.3 \
        --experiment_name unif-SGD_cifar10_ricap_b03
    python3 train.py --epoch 200 --dataset "cifar100" --num_classes 100 \
        --augmentation "mixup" --method "p-SGD" --budget 0.3 \
        --experiment_name p-SGD_cifar100_mixup_b03
    python3 train.py --epoch 200 --dataset "svhn" --num_classes 10 \
        --augmentation "randaugment" --method "p-SGD" --budget 0.3 \
        --experiment_name p-SGD_svhn_randaugment_b03
    python3 train.py --epoch 200 --dataset "mini-imagenet" --num_classes 100 \
        --augmentation "standard" --method "unif-SGD" --budget 0.3 \
        --experiment_name unif-SGD_mini-imagenet_standard_b03
}

# The study's grid on one data set: every method, augmentation and budget, ResNet-18, 200 epochs.
grid() {
    for method in $METHODS; do
        for augmentation in standard mixup ricap randaugment; do
            for budget in 0.2 0.3 0.5 1.0; do
                run "$1/${method}_${augmentation}_b$budget" --dataset "$1" \
                    --data-dir "$DATA_DIR" --method "$method" \
                    --augmentation "$augmentation" --budget "$budget"
            done
        done
    done
}
cifar10() { grid cifar10; }
cifar100() { grid cifar100; }
svhn() { grid svhn; }
mini-imagenet() { grid mini-imagenet; }

case "${1:-}" in
    demo | cpu | published | cifar10 | cifar100 | svhn | mini-imagenet)
        source ./setup.sh requirements.txt
        "$1"
        ;;
    "")
        cat <<LIST
bash example_scripts.sh PART, where PART is one of:
  demo           six methods, two budgets, scikit-learn's digits; minutes on a CPU, no download
  cpu            six methods on CIFAR-10 with a narrow network, budget 0.2; under an hour on a CPU
  published      the published study's own four commands; GPU
  cifar10, cifar100, svhn, mini-imagenet
                 the study's grid: methods x augmentations x budgets, ResNet-18, 200 epochs; GPU
Data sets are downloaded to DATA_DIR (now: $DATA_DIR), but for mini-imagenet, which has to be
put there. A part that was stopped goes on where it was when it is started again.
LIST
        ;;
    *)
        echo "example_scripts.sh: no part named $1; without arguments it lists them" >&2
        exit 2
        ;;
esac
