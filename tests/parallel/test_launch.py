"""The launch scripts: they parse, use flags that exist, and call fake cluster commands as intended."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxcnn.training import schema

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ("slurm.sbatch", "tpu_pod.sh")


def start(script, *arguments, cwd=ROOT, **environment):
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def fake_program(folder, name, text):
    """Writes the bash script `text` as program `name`; returns a PATH that finds it first."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_show_their_usage(script):
    checked = subprocess.run(
        ["bash", "-n", str(LAUNCH / script)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    head = (LAUNCH / script).read_text().split("\n\n")[0]
    assert f"launch/{script} --config=" in head


def job_of(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def container_of(jobset):
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def test_the_jobset_is_consistent():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job, container = job_of(jobset), container_of(jobset)
    pod = job["template"]["spec"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["parallelism"] == job["completions"] == rows * columns // 4
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert f"kubectl create serviceaccount {pod['serviceAccountName']}\n" in text
    cache = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "cache"]
    assert f"--config.data.cache_dir={cache[0]}" in container["args"]
    # The keys of the config exist, and the cache is smaller than its volume, in GiB.
    given = [a.replace("gs://BUCKET", "gs://my-bucket") for a in container["args"]]
    overrides = [a.removeprefix("--config.") for a in given if "config." in a]
    limit = next(v for v in pod["volumes"] if v["name"] == "cache")["emptyDir"]["sizeLimit"]
    config = schema.read_resolved("googlenet", overrides)[1]
    assert config["data"]["cache_gb"] * 1e9 < int(limit.removesuffix("Gi")) * 2**30
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # The host name of JobSet's first pod, which is the coordinator, and the number of pods.
    first = f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}-0-0"
    assert f'"{first}.{jobset["metadata"]["name"]}:8476"' in text
    assert f'name: JAX_NUM_PROCESSES, value: "{job["completions"]}"' in text


def flags(text):
    """The flags of all main.py commands, and of all commands of scripts that pass theirs on to it."""
    joined = text.replace("\\\n", " ")
    typed = re.findall(r"(?:main\.py|launch/[\w.]+) (.*)", joined)
    return {flag for line in typed for flag in re.findall(r"--(\w+)", line)}


def test_flags_exist():
    usage = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"--(\w+)", usage))
    command = container_of(yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text()))
    assert command["command"][-1] == "main.py"
    named = flags(f"main.py {' '.join(command['args'])}")
    for script in SCRIPTS:
        named |= flags((LAUNCH / script).read_text())
    assert {"distributed", "config", "workdir"} <= named
    assert named <= known


@pytest.mark.parametrize("code", [0, 1, 3, 143])
def test_slurm_requeues_only_stopped_jobs(tmp_path, code):
    path = fake_program(tmp_path, "srun", f'printf "%s\\n" "$@" >{tmp_path}/srun.txt; exit {code}')
    fake_program(tmp_path, "scontrol", f'echo "$@" >{tmp_path}/scontrol.txt')
    done = start(
        "slurm.sbatch",
        "--config=vgg_e",
        "--config.data.source=folder:/my data",
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="3",
        **path,
    )
    assert done.returncode == code, done.stderr
    typed = (tmp_path / "srun.txt").read_text().splitlines()
    assert "--cpus-per-task=3" in typed
    assert typed[typed.index("main.py") + 1 :] == [
        "--distributed=auto", "--config=vgg_e", "--config.data.source=folder:/my data",
    ]  # fmt: skip
    queued = tmp_path / "scontrol.txt"
    assert queued.exists() == (code == 143)
    if queued.exists():
        assert queued.read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "for usage"),
        (("--config=vgg_e",), "a folder in a bucket, or a shared one"),
        (("--config=vgg_e", "--workdir=runs/a"), "got 'runs/a'"),
        (("--config=vgg_e", "--workdir=gs://bucket"), "got 'gs://bucket'"),
    ],
)
def test_tpu_pod_rejects_wrong_usage(tmp_path, arguments, why):
    path = fake_program(tmp_path, "gcloud", "exit 1")
    done = start("tpu_pod.sh", *arguments, TPU="t", ZONE="z", **path)
    assert done.returncode == 2
    assert why in done.stderr


# Two machines, folders w0 and w1; each command runs in both.
GCLOUD = r"""
set -e
case $4 in
  scp) for w in w0 w1; do cp "$5" "$MACHINES/$w/${6#*:}"; done ;;
  ssh)
    for a in "$@"; do case $a in --command=*) command=${a#--command=} ;; esac; done
    for w in w0 w1; do
      (export HOME=$MACHINES/$w; cd; bash -c "$command" >>"$MACHINES/$w.txt" 2>&1) & started+=($!)
    done
    for one in "${started[@]}"; do wait "$one"; done ;;
esac
"""
# Waits for SIGTERM, like a training run.
MAIN = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("given", sys.argv[1:], flush=True)
if "--workdir=/short" not in sys.argv:
    signal.pause()
"""


def wait_for(path, text):
    for _ in range(200):
        if path.exists() and text in path.read_text():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(f"{text!r} did not appear in {path}")


@pytest.mark.skipif(sys.platform != "linux", reason="the fake machines run Linux")
def test_tpu_pod_copies_starts_and_stops(tmp_path):
    """The checkout has a fake main.py with an uncommitted change."""
    path = fake_program(tmp_path, "gcloud", GCLOUD)
    machines = [tmp_path / name for name in ("w0", "w1")]
    checkout = tmp_path / "checkout"
    for folder in (*machines, checkout):
        folder.mkdir()
    git = ["git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e@x"]
    (checkout / "main.py").write_text("an older one")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "main.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=one"], check=True)
    (checkout / "main.py").write_text(MAIN)
    settings = path | {"TPU": "t", "ZONE": "z", "MACHINES": str(tmp_path), "PYTHON": sys.executable}

    def pod(*arguments):
        return start("tpu_pod.sh", *arguments, cwd=checkout, **settings)

    done = pod("--config.data.source=folder:/my data", "--workdir=/short")
    assert (done.returncode, done.stderr) == (0, "")
    given = (
        "given ['--distributed=auto', '--config.data.source=folder:/my data', '--workdir=/short']"
    )
    for machine in machines:
        assert given in machine.with_suffix(".txt").read_text()
        commits = [
            subprocess.run(
                ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, check=True
            ).stdout
            for folder in (checkout, machine / "jaxcnn")
        ]
        assert commits[0] == commits[1]

    training = subprocess.Popen(
        ["bash", str(LAUNCH / "tpu_pod.sh"), "--workdir=/long"],
        cwd=checkout,
        env=os.environ | settings,
    )
    for machine in machines:
        wait_for(machine / "jaxcnn.log", "/long")
        wait_for(machine / "jaxcnn.pid", "\n")
    again = pod("--workdir=/long")
    assert again.returncode == 1
    assert (
        "is already training: launch/tpu_pod.sh follow, or stop"
        in machines[0].with_suffix(".txt").read_text()
    )
    assert pod("stop").returncode == 0
    assert training.wait(timeout=30) == 143
