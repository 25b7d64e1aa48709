#!/bin/bash
# Trains on all machines of a Cloud TPU slice. Runs on your own machine, from the checkout, with gcloud logged in:
#
#   export TPU=NAME ZONE=us-west4-a
#   launch/tpu_pod.sh --config=googlenet --config.data.source=folder:/mnt/shared/imagenet \
#       --workdir=/mnt/shared/runs/googlenet
#   launch/tpu_pod.sh follow     # what they print, after the connection was lost; training does not end with it
#   launch/tpu_pod.sh stop       # SIGTERM to all: they save, and the same command goes on from there
#
# The checkout, as git has it plus your changes to files that it tracks, takes the place of ~/jaxcnn on each machine,
# and Python and jaxcnn[tpu] are installed in ~/jaxcnn-venv, which takes minutes the first time and the internet.
# PYTHON=/path/to/python uses an environment that is there instead.
#
# The workdir is one folder that all machines see: a Filestore or other NFS share, mounted on each. jaxcnn does
# not write to gs://. The data may lie on the share too, or at the same path on each machine.

set -euo pipefail

fail() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

[ "$#" -gt 0 ] || fail "no arguments; how to use it: head -20 $0"
command -v gcloud >/dev/null || fail "gcloud is not on this machine: https://cloud.google.com/sdk/docs/install"
if [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then fail "which slice? export TPU=NAME ZONE=us-west4-a"; fi

# On the machines: what runs, if it does.
# shellcheck disable=SC2016
running='pid=$(cat ~/jaxcnn.pid 2>/dev/null || echo 0); grep -q main.py "/proc/$pid/cmdline" 2>/dev/null'

case $1 in
  follow)
    on_all "if $running; then tail --pid=\"\$pid\" -n 20 -f ~/jaxcnn.log; else tail -n 20 ~/jaxcnn.log; fi"
    exit
    ;;
  stop)
    on_all "if $running; then kill -TERM \"\$pid\"; tail --pid=\"\$pid\" -n 0 -f ~/jaxcnn.log; fi"
    exit
    ;;
esac

workdir=
for argument in "$@"; do
  case $argument in --workdir=*) workdir=${argument#--workdir=} ;; esac
done
case $workdir in
  /*) ;;
  gs://*) fail "jaxcnn does not write to $workdir; give a folder that all machines see: --workdir=/mnt/shared/runs/NAME" ;;
  *) fail "give a folder that all machines see, whole: --workdir=/mnt/shared/runs/NAME; got '$workdir'" ;;
esac

# A clone of one commit, so that run.json can say which it was.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git clone --quiet --depth=1 "file://$(git rev-parse --show-toplevel)" "$copy/jaxcnn"
git diff --quiet HEAD || git diff --binary HEAD | git -C "$copy/jaxcnn" apply --index
tar -czf "$copy/jaxcnn.tgz" -C "$copy" jaxcnn
gcloud compute tpus tpu-vm scp "$copy/jaxcnn.tgz" "$TPU:jaxcnn.tgz" --zone="$ZONE" --worker=all

python=${PYTHON:-\$HOME/jaxcnn-venv/bin/python}
install="
export PATH=\$HOME/.local/bin:\$PATH
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x $python ] || uv venv --quiet --python 3.11 ~/jaxcnn-venv
uv pip install --quiet --python $python --constraint constraints.txt --editable '.[tpu]'"
[ -z "${PYTHON:-}" ] || install=

on_all "set -e
if $running; then echo \"\$(hostname) trains already: launch/tpu_pod.sh follow, or stop\" >&2; exit 1; fi
rm -rf ~/jaxcnn
tar -xzf ~/jaxcnn.tgz -C ~
cd ~/jaxcnn
$install
: >~/jaxcnn.log
nohup $python -u main.py --distributed=auto $(printf '%q ' "$@") >>~/jaxcnn.log 2>&1 </dev/null &
echo \$! >~/jaxcnn.pid
tail --pid=\$! -n +1 -f ~/jaxcnn.log
wait \$!"
