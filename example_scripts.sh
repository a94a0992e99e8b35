#!/usr/bin/env bash
# Examples, small and full-size.   bash example_scripts.sh PART   runs one part; without PART, lists them.
set -eu
cd "$(dirname "$0")"

METHODS="SGD unif-SGD p-SGD c-SGD selective-backprop dro"
DATA_DIR=${DATA_DIR:-datasets}

# Make the runs of a part, then print their table, even if some of them failed:   sweep PART FLAGS
sweep() {
    local part=$1 status=0
    shift
    python sweep.py --results-dir "results/$part" --data-dir "$DATA_DIR" "$@" || status=$?
    case " $* " in *" --dry-run "*) return $status ;; esac
    [ $status -gt 1 ] || python -m plots "results/$part"
    return $status
}

# Six methods, two augmentations, three budgets and three seeds on scikit-learn's digits.
demo() {
    sweep demo --jobs 2 --method $METHODS --augmentation standard ricap --budget 0.2 0.5 1.0 \
        --seed 1 2 3 --batch-size 64 --epochs 20 "$@"
}

# The six methods on all of CIFAR-10 with a narrow network: what two CPU cores do in two hours.
cpu() {
    sweep cpu --jobs 2 --dataset cifar10 --model resnet18-w16 --epochs 8 --budget 0.2 \
        --method $METHODS --seed 1 2 3 "$@"
}

# Hardness weighting on long-tailed Fashion-MNIST: what it does for the rarest classes.
robustness() { sweep robustness --jobs 2 --grid sweeping/robustness.toml "$@"; }

# Every method at equal steps and at equal compute; two of them need files made of earlier runs.
rivals() {
    local first=results/rivals_first dry=
    case " $* " in *" --dry-run "*) dry=--dry-run ;; esac
    python sweep.py --results-dir $first --data-dir "$DATA_DIR" --jobs 2 \
        --grid sweeping/rivals_first.toml $dry
    if [ -z "$dry" ]; then
        python -m methods.scores $first/whole --score forgetting,k-center --out $first/scores.npz
        python -m methods.scores $first/half --score irreducible-loss --out $first/irreducible.npz
    fi
    sweep rivals --jobs 2 --grid sweeping/rivals.toml "$@"
}

# The published study's own commands (Arazo et al. 2021); each wants a GPU.
published() { sweep published --grid sweeping/published.toml "$@"; }

# The study's grid on one data set: ResNet-18, 200 epochs; wants many hours of many GPUs.
study() {
    sweep "$1" --dataset "$1" --method $METHODS --augmentation standard mixup ricap randaugment \
        --budget 0.2 0.3 0.5 1.0 --seed 1 2 3 "${@:2}"
}
cifar10() { study cifar10 "$@"; }
cifar100() { study cifar100 "$@"; }
svhn() { study svhn "$@"; }
mini-imagenet() { study mini-imagenet "$@"; }

case "${1:-}" in
    demo | cpu | robustness | rivals | published | cifar10 | cifar100 | svhn | mini-imagenet)
        source ./setup.sh requirements.txt
        "$@"
        ;;
    "")
        cat <<LIST
bash example_scripts.sh PART [OPTION ...], where PART is one of:
  demo           108 runs: six methods, two augmentations, three budgets, three seeds on
                 scikit-learn's digits; ten minutes on two cores, no download
  cpu            18 runs: six methods, three seeds on CIFAR-10 with a narrow network, budget 0.2;
                 about two hours on a CPU
  robustness     33 runs: dro, SGD and unif-SGD, three seeds on long-tailed Fashion-MNIST, with and
                 without wrong labels; about an hour on a CPU
  rivals         28 runs: all methods on CIFAR-10 with a narrow network, budget 0.3, at equal steps
                 and at equal compute, after two that they need; about an hour on a CPU
  published      the published study's own four commands; GPU
  cifar10, cifar100, svhn, mini-imagenet
                 288 runs each, the study's grid: six methods, four augmentations, budgets 0.2,
                 0.3, 0.5 and 1.0, three seeds, ResNet-18, 200 epochs; GPU
and OPTION one of sweep.py's, such as --dry-run, --jobs 4, --shard 1/8 or --ray.
Data sets are downloaded to DATA_DIR (now: $DATA_DIR), but for mini-imagenet, which has to be
put there. A part that was stopped goes on where it was when it is started again.
LIST
        ;;
    *)
        echo "example_scripts.sh: no part named $1; without arguments it lists them" >&2
        exit 2
        ;;
esac
