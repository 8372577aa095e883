"""The images of Kubernetes' end-to-end tests, on top of the test images' busybox.

usage: catalogue.py IMAGES TOOLS OUT
    IMAGES  the OCI layout that hack/images/build made
    TOOLS   the folder with the built agnhost
    OUT     the OCI layout to write; every image is named by its reference
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from layout import INDEX, MANIFEST, Layer, Layout, sha256  # noqa: E402

E2E = "registry.k8s.io/e2e-test-images/"
BUSYBOX = E2E + "busybox:1.29-2"
NGINX = E2E + "nginx:1.14-2"
NNP = E2E + "nonewprivs:1.3"
PAUSE = "registry.k8s.io/pause:3.10"

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh
"""
GROUP = """root:x:0:
daemon:x:1:
nogroup:x:65534:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
"""


class Made:
    """The images of another layout."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "index.json"), encoding="ascii") as file:
            manifests = json.load(file)["manifests"]
        self.images = {m["annotations"]["org.opencontainers.image.ref.name"]: m["digest"] for m in manifests}

    def blob(self, digest):
        with open(os.path.join(self.folder, "blobs", *digest.split(":")), "rb") as file:
            return file.read()

    def layers(self, name):
        """The layers of an image, as Layout takes them."""
        return [Packed(self.blob(layer["digest"])) for layer in json.loads(self.blob(self.images[name]))["layers"]]


class Packed:
    """A layer that is packed already."""

    def __init__(self, data):
        self.data = data

    def pack(self):
        return self.data, sha256(gzip.decompress(self.data))


class Programs(Layer):
    """A layer of the machine's programs with their libraries."""

    def program(self, path, name):
        source = shutil.which(name)
        if source is None:
            raise SystemExit(f"images: {name} is not installed")
        told = subprocess.run(["ldd", source], env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, check=True,
                              capture_output=True, text=True).stdout
        for library in sorted(set(re.findall(r"(/\S+) \(0x", told))):
            place = library if os.path.basename(library).startswith("ld-") else "/lib/" + os.path.basename(library)
            if place.strip("/") not in self.entries:
                self.copy(place, library, 0o755)
        return self.copy(path, source, 0o755)


def shell():
    """A /bin/sh that chooses between busybox and bash: sh.c says why."""
    layer = Programs().program("bin/bash", "bash")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "sh")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sh.c")
        subprocess.run(["gcc", "-static", "-Os", "-s", "-Wl,--build-id=none", "-o", out, source], check=True)
        return layer.copy("bin/sh", out, 0o755)


def served(layer, made):
    """The pause image where agnhost's own registry looks for it (its prepare_registry.sh)."""
    manifest = json.loads(made.blob(made.images[PAUSE]))
    folder = "var/registry/pause/"

    def put(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        layer.file(f"{folder}{kind}/sha256/{digest[:2]}/{digest}/data", data)
        return "sha256:" + digest

    for descriptor in [manifest["config"], *manifest["layers"]]:
        put("blobs", made.blob(descriptor["digest"]))
    manifest = made.blob(made.images[PAUSE])
    platform = {"architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux"}
    entry = {"mediaType": MANIFEST, "digest": put("manifests", manifest), "size": len(manifest), "platform": platform}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    layer.file(folder + "manifests/testing", put("manifests", json.dumps(index).encode()) + "\n")
    return layer


def agnhost(made, tools):
    """What its Dockerfile has and specs use."""
    layer = Programs()
    for place, name in (("usr/bin/curl", "curl"), ("usr/bin/dig", "dig"), ("usr/bin/nc", "nc.openbsd"),
                        ("usr/bin/socat", "socat"), ("usr/sbin/ss", "ss"), ("sbin/ip", "ip")):
        layer.program(place, name)
    # Over busybox's own.
    layer.hardlink("bin/nc", "usr/bin/nc").hardlink("bin/ip", "sbin/ip")
    layer.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    layer.directory("uploads")
    for name in ("localhost.crt", "localhost.key"):
        layer.copy(name, os.path.join(tools, "agnhost-" + name), 0o644)
    served(layer, made)
    program = Layer().copy("agnhost", os.path.join(tools, "agnhost"), 0o755).symlink("agnhost-2", "agnhost")
    return [layer, program]


def catalogue(made, tools):
    """Reference -> (layers, config)."""
    busybox = [*made.layers(BUSYBOX), shell()]
    command = {"Cmd": ["sh"]}
    serve = {"Entrypoint": ["nginx", "-e", "/dev/stderr", "-g", "daemon off;"]}
    tester = [*busybox, *agnhost(made, tools)]
    images = {}
    for version in ("1.36.1-1", "1.37.0-1", "1.37.0-2"):
        images[E2E + "busybox:" + version] = (busybox, command)
    for version in ("2.55", "2.63.0", "2.66.1"):
        images[E2E + "agnhost:" + version] = (tester, {"Entrypoint": ["/agnhost"], "Cmd": ["pause"]})
    for version in ("1.15-4", "1.27.0-2", "1.28.0-2"):
        images[E2E + "nginx:" + version] = (made.layers(NGINX), serve)
    debian = Programs().program("bin/hostname", "hostname").program("usr/bin/dig", "dig")
    for version in ("2.0.0", "2.1.1"):
        images[E2E + "glibc-dns-testing:" + version] = ([*busybox, debian], command)
    images[E2E + "nonroot:1.5"] = (busybox, {**command, "User": "1234"})
    setuid = Layer().symlink("usr/local/bin/nnp", "/nnp")
    images[E2E + "nonewprivs:1.4"] = ([*made.layers(NNP), setuid], {"Cmd": ["nnp"]})
    images[E2E + "ipc-utils:1.4"] = (busybox, command)
    images[E2E + "httpd:2.4.38-4"] = (busybox, {"Cmd": ["sh", "-c", "exec httpd -f -vv -p 80 -h /www"]})
    images["registry.k8s.io/pause:3.10.2"] = (made.layers(PAUSE), {"Entrypoint": ["/pause"], "User": "65535:65535"})
    return images


def main():
    images, tools, out = sys.argv[1:]
    layout = Layout(out)
    for name, (layers, config) in catalogue(Made(images), tools).items():
        layout.image(name, layers, config)
    layout.finish()
    print("\n".join(m["annotations"]["org.opencontainers.image.ref.name"] for m in layout.manifests))


if __name__ == "__main__":
    main()
