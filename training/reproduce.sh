#!/usr/bin/env bash
# The runs that would settle the paper's table on UCF-101: views x training sizes x seeds, each tested at every size.
set -euo pipefail

usage='usage: training/reproduce.sh --store STORE [--source DIR --splits DIR] [options]
  --store STORE     the store with the views of training/reproduce.toml
  --source DIR      the videos, and
  --splits DIR      their lists: makes the store first, or adds its missing views
  --out DIR         for runs, results and the table [runs/reproduce]
  --arch "A ..."    backbones [resnet50 mobilenet_v3_large efficientnet_b1 swin_b]
  --views "V ..."   [full centre-75 mocrop actor-75 centre-50 actor-50]
  --sizes "S ..."   sides of the input in training, px; each training is tested at all of them [192 224]
  --seeds "N ..."   [0 1 2]
  --split N         [1]
  --epochs N        [100]
  --flags "F ..."   further flags of training.train
  --cpu             without a GPU, in fp32; else in bf16
  --dry-run         print the commands and run none
Run the same command again to resume. docs/method.md says what it costs.'

here=$(dirname "$0")
store='' source='' splits='' out=runs/reproduce split=1 epochs=100 flags='' machine=--amp dry=''
archs='resnet50 mobilenet_v3_large efficientnet_b1 swin_b'
views='full centre-75 mocrop actor-75 centre-50 actor-50' sizes='192 224' seeds='0 1 2'

fail() { echo "error: $1; see $0 --help" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --help) echo "$usage"; exit ;;
        --cpu) machine=--cpu; shift; continue ;;
        --dry-run) dry=1; shift; continue ;;
        --store | --source | --splits | --out | --arch | --views | --sizes | --seeds | --split | --epochs | --flags) ;;
        *) fail "unknown argument '$1'" ;;
    esac
    [ $# -gt 1 ] && [ -n "$2" ] || fail "$1 needs a value"
    case $1 in
        --arch) archs=$2 ;;
        *) printf -v "${1#--}" %s "$2" ;;
    esac
    shift 2
done
[ -n "$store" ] || fail '--store is missing: the store with the views of training/reproduce.toml'
[ -z "$source" ] || [ -n "$splits" ] || fail '--splits is missing: the lists of the videos in --source'

run() {
    printf '%q ' "$@" | sed 's/ $/\n/'
    [ -n "$dry" ] || "$@"
}

# shellcheck disable=SC2086  # lists of words are split on purpose
main() {
    local arch size view seed folder resume
    if [ -n "$source" ]; then
        run mocrop preprocess --source "$source" --splits "$splits" --store "$store" --recipe "$here/reproduce.toml"
    fi
    for seed in $seeds; do for arch in $archs; do for size in $sizes; do for view in $views; do
        folder=$out/runs/$arch-$view-$size-seed$seed
        resume=''
        [ ! -e "$folder/last.pt" ] || resume=--resume
        run python -m training.train --store "$store" --split "$split" --view "$view" --arch "$arch" \
            --input-size "$size" --epochs "$epochs" --eval-freq 0 --seed "$seed" $machine $flags \
            --output-dir "$folder" $resume
        run python -m training.test --store "$store" --split "$split" --view "$view" --weights "$folder/model.pt" \
            --input-size $sizes $machine --output-dir "$out/results"
    done; done; done; done
    run python -m training.results "$out/results" --format markdown
}

main
