"""The images of a kind node's control plane, of its kube-proxy, DNS and network.

usage: images.py TREE TOOLS IMAGES OUT
    TREE    the node's Debian tree: programs and libraries come from it
    TOOLS   the folder with the built Kubernetes, etcd and CoreDNS
    IMAGES  the OCI layout of hack/images/build, for the pause image
    OUT     the OCI archive to write; every image is named by its reference
"""

import glob
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "hack", "images"))

from layout import Layer, Layout, sha256  # noqa: E402

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
# bash, what kube-proxy calls, and what the network's script does.
PROGRAMS = ("/bin/bash", "/bin/sleep", "/bin/mv", "/sbin/ip", "/usr/sbin/xtables-nft-multi", "/usr/sbin/nft",
            "/usr/sbin/conntrack")
PAUSE = "registry.k8s.io/pause:3.10"


class Quick(Layer):
    """A layer that is read once, here: little effort goes into its compression."""

    def pack(self):
        raw, packed = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for info, data in self.entries.values():
                tar.addfile(info, io.BytesIO(data))
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
            file.write(raw.getbuffer())
        return packed.getvalue(), sha256(raw.getbuffer())


class Debian(Quick):
    """A layer of programs of the tree, each with its libraries."""

    def __init__(self, tree):
        super().__init__()
        self.tree = tree

    def take(self, path):
        return self.copy(path, os.path.realpath(os.path.join(self.tree, path.lstrip("/"))))

    def program(self, path):
        told = subprocess.run(["chroot", self.tree, "ldd", path], capture_output=True, text=True, check=True).stdout
        for library in sorted(set(re.findall(r"(/\S+) \(0x", told))):
            if library.strip("/") not in self.entries:
                self.take(library)
        return self.take(path)


class Ready(Layer):
    """The layers of an image that is made already."""

    def __init__(self, data, diff_id):
        super().__init__()
        self.ready = (data, diff_id)

    def pack(self):
        return self.ready


def blob(folder, digest):
    with open(os.path.join(folder, "blobs", *digest.split(":")), "rb") as file:
        return file.read()


def pause(folder):
    """Layers and settings of the test images' pause."""
    with open(os.path.join(folder, "index.json"), encoding="ascii") as file:
        manifests = json.load(file)["manifests"]
    digest = next(m["digest"] for m in manifests if m["annotations"]["org.opencontainers.image.ref.name"] == PAUSE)
    manifest = json.loads(blob(folder, digest))
    config = json.loads(blob(folder, manifest["config"]["digest"]))
    packed = [blob(folder, layer["digest"]) for layer in manifest["layers"]]
    return [Ready(*both) for both in zip(packed, config["rootfs"]["diff_ids"])], config["config"]


def network(tree):
    """Programs of the node's network: iptables speaks nftables here, as criquet does."""
    layer = Debian(tree)
    for path in PROGRAMS:
        layer.program(path)
    # Loaded by name, so that the loader does not tell of them.
    for path in glob.glob(os.path.join(tree, "usr/lib/*/xtables/*.so")):
        layer.program("/" + os.path.relpath(path, tree))
    for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"):
        layer.symlink(f"usr/sbin/{name}", "xtables-nft-multi")
    layer.symlink("bin/sh", "bash")
    layer.directory("tmp", 0o1777)
    return layer


def conflist():
    """deploy's CNI configuration with the place of the subnet marked. The network's script masquerades by itself:
    between nodes pods keep their addresses."""
    with open(os.path.join(HERE, "..", "cni", "10-pods.conflist"), encoding="ascii") as file:
        document = json.load(file)
    bridge = document["plugins"][0]
    bridge["ipMasq"] = False
    bridge["ipam"]["ranges"] = [[{"subnet": "@SUBNET@"}]]
    return json.dumps(document, indent=2)


def catalogue(tree, tools, images):
    """Reference -> (layers, config). The names are those that kubeadm asks for."""
    wanted = subprocess.run([os.path.join(tools, "kubeadm"), "config", "images", "list", "--kubernetes-version",
                             os.environ["KUBERNETES_VERSION"]], capture_output=True, text=True, check=True)
    base = network(tree)
    made = {}
    for reference in wanted.stdout.split():
        name = reference.rsplit(":", 1)[0].rsplit("/", 1)[1]
        if name in KUBERNETES or name == "etcd":
            made[reference] = ([Quick().copy(f"usr/local/bin/{name}", os.path.join(tools, name), 0o755)],
                               {"Entrypoint": [name]})
        elif name == "kube-proxy":
            program = Quick().copy("usr/local/bin/kube-proxy", os.path.join(tools, name), 0o755)
            made[reference] = ([base, program], {"Entrypoint": [name]})
        elif name == "coredns":
            made[reference] = ([Quick().copy("coredns", os.path.join(tools, name), 0o755)],
                               {"Entrypoint": ["/coredns"], "WorkingDir": "/"})
        elif name == "pause":
            made[reference] = pause(images)
        else:
            raise SystemExit(f"deploy/kind: nobody here makes {reference}, which kubeadm wants")
    script = Quick().copy("usr/local/bin/kubectl", os.path.join(tools, "kubectl"), 0o755)
    script.copy("usr/local/bin/network", os.path.join(HERE, "network"), 0o755)
    script.file("etc/criquet/10-pods.conflist", conflist())
    made["localhost/criquet/kind-network:1"] = ([base, script], {"Entrypoint": ["/usr/local/bin/network"]})
    return made


def main():
    tree, tools, images, out = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as folder:
        layout = Layout(folder)
        for name, (layers, config) in catalogue(tree, tools, images).items():
            layout.image(name, layers, config)
        layout.finish()
        with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
            for member in ("oci-layout", "index.json", "blobs"):
                archive.add(os.path.join(folder, member), member)
    print("\n".join(m["annotations"]["org.opencontainers.image.ref.name"] for m in layout.manifests))


if __name__ == "__main__":
    main()
