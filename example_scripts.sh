#!/usr/bin/env bash
# Examples, small and full-size.   bash example_scripts.sh PART   runs one part; without PART, lists them.
set -eu
cd "$(dirname "$0")"

METHODS="SGD unif-SGD p-SGD c-SGD selective-backprop dro"
DATA_DIR=${DATA_DIR:-datasets}

is_dry() { [[ " $* " == *" --dry-run "* ]]; }

# Make the runs of a part, then print their table, even if some of them failed:   sweep PART FLAGS
sweep() {
    local part=$1 status=0
    shift
    python sweep.py --results-dir "results/$part" --data-dir "$DATA_DIR" "$@" || status=$?
    if is_dry "$@"; then return $status; fi
    [ $status -gt 1 ] || python -m plots "results/$part"
    return $status
}

# Check the published claims against the runs of a part:   claims PART FLAGS
claims() {
    if ! is_dry "${@:2}"; then python -m plots.claims "results/$1"; fi
}

# Six methods, two augmentations, three budgets and three seeds on scikit-learn's digits.
demo() {
    sweep demo --jobs 2 --method $METHODS --augmentation standard ricap --budget 0.2 0.5 1.0 \
        --seed 1 2 3 --batch-size 64 --epochs 20 "$@"
}

# The files of scores that coreset and rho-loss need, from two runs on CIFAR-10.   scoring FLAGS-OF-THE-PART
scoring() {
    local runs=results/scoring dry=
    [ ! -e $runs/scores.npz ] || [ ! -e $runs/irreducible.npz ] || return 0
    if is_dry "$@"; then dry=--dry-run; fi
    python sweep.py --results-dir $runs --data-dir "$DATA_DIR" --jobs 2 --grid configs/scoring.toml $dry
    [ -z "$dry" ] || return 0
    python -m engine.scores $runs/whole --score forgetting,k-center --out $runs/scores.npz
    python -m engine.scores $runs/half --score irreducible-loss --out $runs/irreducible.npz
}

# All scores of CIFAR-10's training images, from three runs, and how they agree.
scores() {
    local folder=results/scores dry= names=forgetting,el2n,aum,dyn-unc,dual,dual-mean
    [ ! -e $folder/features.npz ] || return 0
    if is_dry "$@"; then dry=--dry-run; fi
    python sweep.py --results-dir $folder --data-dir "$DATA_DIR" --jobs 2 --eval-every 5 --grid configs/scores.toml $dry
    [ -z "$dry" ] || return 0
    local runs=($folder/cifar10_SGD_*) make="python -m engine.scores --data-dir $DATA_DIR"
    names+=,tdds-30,tdds-50,tdds-70,tdds-80,tdds-90,grand,entropy,margin,least-confidence,moderate
    $make "${runs[@]}" --score $names --half --out $folder/cifar10.npz
    $make "${runs[0]}" --score k-center --out $folder/k-center.npz
    $make "${runs[@]}" --score el2n,aum --features --out $folder/features.npz
    python -m plots correlations $folder/cifar10.npz $folder/k-center.npz
}

# Plain SGD at several lengths of training, from which those of part cpu were chosen.
lengths() { sweep lengths --jobs 2 --grid configs/lengths.toml "$@"; }

# The study on all of CIFAR-10 and Fashion-MNIST with a narrow network: what two CPU cores do.
cpu() {
    scoring "$@"
    sweep cpu --jobs 2 --eval-every 2 --grid configs/cpu.toml "$@"
    claims cpu "$@"
}

# Search for a short training that memorises its training set, as the published study's long one does.
regimes() { sweep regimes --jobs 2 --eval-every 20 --grid configs/regimes.toml "$@"; }

# The study in the regime of the published one, where training sets are memorised.
by_heart() {
    local folder=results/by_heart half=results/scoring/by-heart-half names=forgetting,el2n,dyn-unc,dual,dual-mean
    local part=(--dataset cifar10 --model resnet10-w16 --train-images 5000 --amp bf16 --data-dir "$DATA_DIR")
    sweep by_heart --jobs 2 --eval-every 20 --grid configs/by_heart.toml "$@"
    if ! is_dry "$@" && [ ! -e $folder/irreducible.npz ]; then
        local runs=($folder/cifar10_SGD_standard_n5000_b1_s[123]_*) make="python -m engine.scores --data-dir $DATA_DIR"
        $make "${runs[@]}" --score $names,aum,tdds-70,entropy,moderate --features --out $folder/scores.npz
        $make "${runs[0]}" --score k-center --out $folder/k-center.npz
        [ -e $half/model.pt ] || python train.py "${part[@]}" --validation 2500 --eval-every 20 \
            --results-dir results/scoring --experiment-name by-heart-half
        $make $half --score irreducible-loss --out $folder/irreducible.npz
    fi
    sweep by_heart --jobs 2 --eval-every 20 --grid configs/by_heart_scored.toml "$@"
    claims by_heart "$@"
    if ! is_dry "$@"; then
        python -m plots published $folder
        python -m plots gains results/{cpu,rivals,long,fresh} $folder --out $folder/gains
    fi
}

# The cells of the published study in that regime on 100 classes.
by_heart_mini() {
    sweep by_heart_mini --jobs 2 --eval-every 20 --grid configs/by_heart_mini.toml "$@"
    claims by_heart_mini "$@"
}

# Fewer cells of it, with runs five times as long: what the short ones cannot say.
long() {
    sweep long --jobs 2 --eval-every 5 --grid configs/long.toml "$@"
    claims long "$@"
}

# What its first seeds show of dro and p-SGD, on seeds of their own.
fresh() {
    sweep fresh --jobs 2 --eval-every 5 --grid configs/fresh.toml "$@"
    claims fresh "$@"
}

# Hardness weighting on long-tailed Fashion-MNIST: what it does for the rarest classes.
robustness() { sweep robustness --jobs 2 --grid configs/robustness.toml "$@"; }

# Selective backprop with and without a uniform start.
priming() { sweep priming --jobs 2 --eval-every 2 --grid configs/priming.toml "$@"; }

# Every method at equal steps and at equal compute.
rivals() {
    scores "$@"
    scoring "$@"
    sweep rivals --jobs 2 --eval-every 4 --grid configs/rivals.toml "$@"
}

# The ranking where each method has the learning rate that is best for it.
tuned() { sweep tuned --jobs 2 --grid configs/tuned.toml --tune lr=0.05,0.1,0.2 "$@"; }

# The published study's claims on CIFAR-10 at full size, most informative runs first; wants a GPU.
full() {
    sweep full --eval-every 10 --grid configs/full.toml "$@"
    claims full "$@"
}

# The published study's own commands (Arazo et al. 2021); each wants a GPU.
published() { sweep published --grid configs/published.toml "$@"; }

# The study's grid on one data set: ResNet-18, 200 epochs; wants many hours of many GPUs.
study() {
    sweep "$1" --dataset "$1" --method $METHODS --augmentation standard mixup ricap randaugment \
        --budget 0.2 0.3 0.5 1.0 --seed 1 2 3 "${@:2}"
}
cifar10() { study cifar10 "$@"; }
cifar100() { study cifar100 "$@"; }
svhn() { study svhn "$@"; }
mini-imagenet() { study mini-imagenet "$@"; }

# Hardness weighting in nnU-Net on 3D MRI:   nnunet FOLDER [OPTION ...]
nnunet() {
    local status=0
    if [ $# = 0 ]; then
        echo "example_scripts.sh: nnunet: give the folder Task04_Hippocampus of the Medical" \
            "Segmentation Decathlon (medicaldecathlon.com), unpacked" >&2
        exit 2
    fi
    source ./setup.sh requirements-nnunet.txt
    python -m segmentation.study "$@" --home "$DATA_DIR/nnunet" || status=$?
    if is_dry "$@" || [ $status -gt 1 ]; then return $status; fi
    python -m plots.segmentation results/hippocampus
    return $status
}

case "${1:-}" in
    nnunet) "$@" ;; # has requirements of its own
    demo | cpu | lengths | regimes | by_heart | by_heart_mini | long | fresh | robustness | priming | scores | rivals | tuned | full | published | cifar10 | cifar100 | svhn | mini-imagenet)
        source ./setup.sh requirements.txt
        "$@"
        ;;
    "")
        cat <<LIST
bash example_scripts.sh PART [OPTION ...], where PART is one of:
  demo           108 runs: six methods, two augmentations, three budgets, three seeds on
                 scikit-learn's digits; some minutes on two cores, no download
  cpu            243 runs: what importance sampling buys, on CIFAR-10 and Fashion-MNIST with a
                 narrow network, three seeds, after two runs for scores; a good two hours on two cores
  lengths        7 runs of plain SGD, by which the lengths of part cpu were chosen
  regimes        18 runs on parts of CIFAR-10, the search for a setting in which a narrow network
                 memorises its training set; some six hours of two cores
  by_heart       207 runs, then 42 runs by their scores: the published study's cells and all other methods
                 where 5,000 images of CIFAR-10 are memorised; twelve hours of two cores
  by_heart_mini  90 runs: the published study's cells in that regime on 4,000 images of mini-ImageNet,
                 100 classes; some four hours of two cores
  long           45 runs: what part cpu is too short for, on CIFAR-10, in runs five times as long;
                 an hour and a half on two cores
  fresh          18 runs: what part long shows of dro and p-SGD, tested on six other seeds; half an
                 hour on two cores
  robustness     33 runs: dro, SGD and unif-SGD, three seeds on long-tailed Fashion-MNIST, with and
                 without wrong labels; about an hour on a CPU
  priming        9 runs: selective-backprop with and without a uniform start beside SGD, on CIFAR-10,
                 three seeds; ten minutes on two cores
  scores         3 runs of a narrow network, 17 scores of each training image of CIFAR-10, and how
                 these agree; half an hour on two cores
  rivals         216 runs: all methods on CIFAR-10 with a narrow network, budget 0.3, at equal steps
                 and at equal compute, three seeds, after those of scores; three hours on two cores
  tuned          36 runs: six methods on CIFAR-10 with a narrow network, budget 0.2, each with the best
                 of three learning rates on held-out images; half an hour on two cores
  full           33 runs: the published study's claims on CIFAR-10, ResNet-18, 200 epochs, most
                 informative first; GPU
  published      the published study's own four commands; GPU
  cifar10, cifar100, svhn, mini-imagenet
                 288 runs each, the study's grid: six methods, four augmentations, budgets 0.2,
                 0.3, 0.5 and 1.0, three seeds, ResNet-18, 200 epochs; GPU
  nnunet FOLDER  24 runs of nnU-Net on the hippocampus of the Decathlon, whose folder is given, with
                 and without hardness weighting; about eight hours of two cores
and OPTION one of sweep.py's, such as --dry-run, --jobs 4, --shard 1/8 or --ray.
Data sets are downloaded to DATA_DIR (now: $DATA_DIR), but for mini-imagenet, which has to be
put there. A part that was stopped resumes where it was when it is started again; one whose runs
are in results/ already is not rerun: move its folder away to make them anew.
LIST
        ;;
    *)
        echo "example_scripts.sh: no part named $1; without arguments it lists them" >&2
        exit 2
        ;;
esac
