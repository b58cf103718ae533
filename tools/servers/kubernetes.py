"""A Kubernetes of one node, which is this machine: on loopback, in a directory that is thrown away.

It sees folders of its own where kubelets and containers keep their files on every machine. Only empty folders of
containerd stay below ``/run``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from astronomer.lab.tls import issue
from tools.servers import MissingServerError
from tools.servers.owner import LOOPBACK, free_port

__all__ = ["MISSING", "Cluster", "lacking", "started"]

OWN = ("kube-apiserver", "kube-scheduler", "kubelet")
OTHERS = ("etcd", "containerd", "ctr", "runc", "unshare")
MISSING = (
    "no Kubernetes: {what} cannot be found. KUBERNETES_BINARIES names the folder of kube-apiserver, kube-scheduler and "
    "kubelet (Debian has the rest: `apt-get install etcd-server containerd runc`)"
)
BUSY = "this machine runs pods already, and a second kubelet would end them"
NODE, ADMIN, SYSTEM = "this-machine", "admin", "k8s.io"
STARTING, STOPPING = 120.0, 30.0
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# The kubelet sets these, and does not start where it cannot. It is given copies, so that the machine's own ones stay.
KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
}
# What is hard-wired in a kubelet, which empties it of all that is not its own: pods' logs, sockets of devices.
FOLDERS = ("/var/lib", "/var/log")
PRIVATELY = """
for one in "$1"/*; do mount --bind "$one" "/proc/sys/$(basename "$one" | tr . /)"; done
for one in $2; do mkdir -p "$1.own$one"; mount --bind "$1.own$one" "$one"; done
shift 2; exec "$@"
"""


def program(name: str) -> str | None:
    """Where one of the programs is; Kubernetes' own ones are asked for, not found by chance."""
    folder = os.environ.get("KUBERNETES_BINARIES", "")
    return shutil.which(name, path=folder if name in OWN else f"{folder}{os.pathsep}{os.environ['PATH']}")


def lacking() -> str | None:
    """What has to be installed first, or done; ``None`` if nothing has to."""
    if missing := [name for name in (*OWN, *OTHERS) if not program(name)]:
        return MISSING.format(what=", ".join(missing))
    if os.geteuid():
        return "a node is run by root"
    # A kubelet ends what its own API server does not know in the groups that all kubelets share.
    return BUSY if any((one / "cgroup.procs").read_text() for one in _groups()) else None


@dataclass(frozen=True)
class Cluster:
    """Where it is, and who may do what there.

    :param users: their tokens; the administrator's is among them.
    """

    directory: Path
    users: dict[str, str] = field(default_factory=lambda: {ADMIN: secrets.token_urlsafe(16)}, repr=False)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def socket(self) -> Path:
        """By which containerd is reached."""
        return self.directory / "containerd.sock"

    def ask(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        """Ask the API server as the administrator.

        :raises httpx.HTTPError: it does not answer, or refuses.
        """
        headers = {"Authorization": f"Bearer {self.users[ADMIN]}"}
        trusted = ssl.create_default_context(cafile=self.directory / "ca.pem")
        with httpx.Client(verify=trusted, timeout=30) as client:
            answer = client.request(method, f"{self.url}{path}", headers=headers, json=document)
        answer.raise_for_status()
        return dict(answer.json())

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """Return the pods of a namespace."""
        return list(self.ask("GET", f"/api/v1/namespaces/{namespace}/pods")["items"])

    def kubeconfig(self, user: str, folder: Path | None = None) -> Path:
        """Write the file by which a user's programs find it.

        :param folder: where it goes; the cluster's own one otherwise.
        """
        authority = (self.directory / "ca.pem").read_bytes()
        (ca := (folder or self.directory) / "kubernetes-ca.pem").write_bytes(authority)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url, "certificate-authority": str(ca)}}],
            "users": [{"name": user, "user": {"token": self.users[user]}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": user}}],
            "current-context": "here",
        }
        path = (folder or self.directory) / f"{user}.kubeconfig"
        path.touch(0o600)
        path.write_text(json.dumps(document))
        return path

    def containerd(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Tell containerd something about the pods' images and containers."""
        command = [
            str(program("ctr")),
            "--address",
            str(self.socket),
            "--namespace",
            SYSTEM,
            *map(str, words),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def load(self, archive: Path) -> str:
        """Give the node an image that ``podman save`` or ``docker save`` has written; returns its name there.

        :raises RuntimeError: it is none.
        """
        done = self.containerd("images", "import", archive)
        if done.returncode or not (found := re.search(r"unpacking (\S+) \(sha256:", done.stdout)):
            raise RuntimeError(f"{archive} cannot be imported:\n{done.stdout}{done.stderr}")
        return found[1]

    def commands(self, pause: str) -> dict[str, list[str]]:
        """Write what the programs read; returns what runs each of them, in order.

        :param pause: the image of the container that holds a pod together.
        """
        state, peers = (f"https://{LOOPBACK}:{free_port()}" for _ in range(2))
        made, authority = issue(self.directory, "etcd"), self.directory / "ca.pem"
        return {
            # Whoever writes here starts pods, as root if they like: it takes a certificate.
            "etcd": [
                *(str(program("etcd")), "--data-dir", str(self.directory / "etcd")),
                *("--listen-client-urls", state, "--advertise-client-urls", state),
                *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
                *("--initial-cluster", f"default={peers}"),
                *("--cert-file", str(made.chain), "--key-file", str(made.key)),
                *("--peer-cert-file", str(made.chain), "--peer-key-file", str(made.key)),
                *("--client-cert-auth", "--trusted-ca-file", str(authority)),
                *("--peer-client-cert-auth", "--peer-trusted-ca-file", str(authority)),
            ],
            "containerd": [
                *self._privately(),
                *(str(program("containerd")), "--config", str(self._containerd(pause))),
            ],
            "kube-apiserver": [
                *self._api_server(),
                *(f"--etcd-servers={state}", f"--etcd-cafile={authority}"),
                *(f"--etcd-certfile={made.chain}", f"--etcd-keyfile={made.key}"),
            ],
            "kube-scheduler": [
                *(str(program("kube-scheduler")), "--kubeconfig", str(self.kubeconfig(ADMIN))),
                *("--leader-elect=false", f"--bind-address={LOOPBACK}", f"--secure-port={free_port()}"),
                *(["--port=0"] if _version() < (1, 23) else []),  # without encryption, on all addresses
            ],
            "kubelet": self._kubelet(),
        }

    def _privately(self) -> list[str]:
        """What goes before a command that is to see copies of the machine's settings, and folders of its own."""
        (kernel := self.directory / "kernel").mkdir(exist_ok=True)
        for name, value in KERNEL.items():
            (kernel / name.replace("/", ".")).write_text(f"{value}\n")
        words = ["--mount", "sh", "-ec", PRIVATELY, "sh", str(kernel), " ".join(FOLDERS)]
        return [str(program("unshare")), *words]

    def _api_server(self) -> list[str]:
        made = issue(self.directory, "kube-apiserver")
        tokens = self.directory / "tokens.csv"
        tokens.touch(0o600)
        group = {ADMIN: ",system:masters"}
        lines = [f"{token},{user},{user}{group.get(user, '')}\n" for user, token in self.users.items()]
        tokens.write_text("".join(lines))
        return [
            str(program("kube-apiserver")),
            *(f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}", f"--secure-port={self.port}"),
            *("--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--tls-cert-file={made.chain}", f"--tls-private-key-file={made.key}"),
            *(f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--anonymous-auth=false"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={made.key}", f"--service-account-signing-key-file={made.key}"),
            # Both wait for a controller manager, and there is none.
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        ]

    def _containerd(self, pause: str) -> Path:
        (networks := self.directory / "net.d").mkdir()
        (networks / "none.conflist").write_text(
            json.dumps({"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]})
        )
        path = self.directory / "containerd.toml"
        # Not every root may protect a process from the end of memory.
        path.write_text(f"""
version = 2
root = "{self.directory}/containerd"
state = "{self.directory}/run"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.internal.v1.opt"]
path = "{self.directory}/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{networks}"
""")
        return path

    def _kubelet(self) -> list[str]:
        path = self.directory / "kubelet.json"
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": LOOPBACK,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": "/",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "healthzPort": 0,
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "port": free_port(),
            "resolvConf": "",
        }
        path.write_text(json.dumps(settings))
        endpoint = f"--container-runtime-endpoint=unix://{self.socket}"
        old = ["--container-runtime=remote"] if _version() < (1, 24) else []
        return [
            *self._privately(),
            *(str(program("kubelet")), f"--config={path}", f"--kubeconfig={self.kubeconfig(ADMIN)}"),
            *(f"--hostname-override={NODE}", f"--root-dir={self.directory / 'kubelet'}"),
            *(f"--cert-dir={self.directory / 'pki'}", endpoint, *old),
        ]

    def ready(self) -> bool:
        """Whether it takes pods."""
        try:
            conditions = self.ask("GET", f"/api/v1/nodes/{NODE}")["status"]["conditions"]
        except httpx.HTTPError:
            return False
        return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)

    def empty(self) -> None:
        """End every container; they would go on without the kubelet."""
        for name in self.containerd("tasks", "list", "--quiet").stdout.split():
            self.containerd("tasks", "delete", "--force", name)


@contextmanager
def started(pause: str, users: Sequence[str] = ()) -> Iterator[Cluster]:
    """Run one for the block, which gets it when the node is ready; a pod needs its image, and ``pause``, loaded.

    :param pause: the image of the container that holds a pod together.
    :param users: who has a token, beside the administrator; they may do nothing yet.
    :raises MissingServerError: there is none on this machine; the message says what to do.
    :raises RuntimeError: it does not start; what its programs have said is in the message.
    """
    if missing := lacking():
        raise MissingServerError(missing)
    tokens = {user: secrets.token_urlsafe(16) for user in (ADMIN, *users)}
    # A socket's path has at most 107 characters.
    with ExitStack() as stack:
        cluster = Cluster(Path(tempfile.mkdtemp(prefix="astronomer-k8s-")), tokens)
        stack.callback(shutil.rmtree, cluster.directory, ignore_errors=True)
        stack.callback(_forget_groups, set(_groups()))
        running: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in cluster.commands(pause).items():
            log = stack.enter_context((cluster.directory / f"{name}.log").open("wb"))
            # A session of its own: Ctrl-C is for us, and they end in an order.
            one = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            running[name] = one
            stack.callback(_stop, one)
            if name == "containerd":  # the kubelet, which would start them again, has ended by then
                stack.callback(cluster.empty)
        _wait(cluster, running)
        yield cluster


def _wait(cluster: Cluster, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + STARTING
    while not cluster.ready():
        ended = [name for name, one in running.items() if one.poll() is not None]
        if ended or time.monotonic() > until:
            told = "\n".join(
                (cluster.directory / f"{name}.log").read_text()[-2000:] for name in ended or running
            )
            raise RuntimeError(f"Kubernetes has not started; ended: {ended or 'nothing'}.\n{told}")
        time.sleep(0.5)


def _stop(one: subprocess.Popen[bytes]) -> None:
    one.terminate()
    try:
        one.wait(STOPPING)
    except subprocess.TimeoutExpired:
        one.kill()
        one.wait()


def _groups() -> list[Path]:
    """The control groups that a kubelet makes and leaves; those inside come first."""
    tops = [top for level in ("", "*/") for top in CONTROL_GROUPS.glob(f"{level}kubepods*")]
    found = (one for top in tops for one in (top, *top.rglob("*")) if one.is_dir())
    return sorted(found, key=lambda one: len(one.parts), reverse=True)


def _forget_groups(before: Collection[Path]) -> None:
    for one in _groups():
        if one not in before:
            with suppress(OSError):
                one.rmdir()


def _version() -> tuple[int, int]:
    told = subprocess.run(
        [str(program("kubelet")), "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"v(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)
