#!/bin/bash
# Trains on all machines of a Cloud TPU slice. Run it on your own machine, from the checkout, logged in with gcloud:
#
#   export TPU=NAME ZONE=us-west4-a
#   launch/tpu_pod.sh --config=googlenet --config.data.data_dir=gs://BUCKET/tensorflow_datasets \
#       --config.data.cache_dir=/tmp/jaxcnn_data --workdir=gs://BUCKET/runs/googlenet
#   launch/tpu_pod.sh follow     # show the output again after a lost connection, which does not stop training
#   launch/tpu_pod.sh stop       # send SIGTERM to all processes: they save, and the first command resumes
#
# docs/pods.md shows how to make the bucket and the slice. The slice's service account needs the role
# storage.objectUser on the bucket; no key is copied. Each machine keeps the data that it has read in data.cache_dir
# on its own disk, up to data.cache_gb. Without it, every epoch reads the bucket.
#
# The script replaces ~/jaxcnn on each machine by the current commit plus your changes to tracked files. It installs
# Python and jaxcnn[tpu,gcs] in ~/jaxcnn-venv, which needs internet access and takes minutes the first time;
# PYTHON=/path/to/python uses an existing environment instead.
#
# The workdir is in a bucket or on a file system that all machines mount, such as Filestore or another NFS share.

set -euo pipefail

fail() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

[ "$#" -gt 0 ] || fail "no arguments; for usage: head -22 $0"
command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
if [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then fail "which slice? export TPU=NAME ZONE=us-west4-a"; fi

# A shell condition, evaluated on the machines: is a run in progress?
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
  /* | gs://*/*) ;;
  *) fail "give a folder in a bucket, or a shared one: --workdir=gs://BUCKET/runs/NAME; got '$workdir'" ;;
esac

# A clone of one commit, so that run.json can record the commit.
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
uv pip install --quiet --python $python --constraint constraints.txt --editable '.[tpu,gcs]'"
[ -z "${PYTHON:-}" ] || install=

on_all "set -e
if $running; then echo \"\$(hostname) is already training: launch/tpu_pod.sh follow, or stop\" >&2; exit 1; fi
rm -rf ~/jaxcnn
tar -xzf ~/jaxcnn.tgz -C ~
cd ~/jaxcnn
$install
: >~/jaxcnn.log
nohup $python -u main.py --distributed=auto $(printf '%q ' "$@") >>~/jaxcnn.log 2>&1 </dev/null &
echo \$! >~/jaxcnn.pid
tail --pid=\$! -n +1 -f ~/jaxcnn.log
wait \$!"
