"""The test images: what critest, the system tests and hack/run pull, made of Debian's packages.

usage: catalogue.py PACKAGES OUT [NAME...]
    PACKAGES  a folder into which the Debian packages were unpacked
    OUT       the OCI layout to write; every image is named by its reference
"""

import os
import re
import subprocess
import sys
import tempfile

from layout import ARCHITECTURE, Layer, Layout

HERE = os.path.dirname(os.path.abspath(__file__))
E2E = "registry.k8s.io/e2e-test-images/"
CRI_TOOLS = "gcr.io/k8s-staging-cri-tools/"

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
www-data:x:33:
nogroup:x:65534:
"""


def libraries(binary, packages):
    """The libraries of a binary by the loader's own word, those of the unpacked packages first."""
    folders = [os.path.join(packages, f) for f in ("lib", "usr/lib", f"usr/lib/{os.uname().machine}-linux-gnu")]
    told = subprocess.run(
        ["ldd", binary],
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(folders), "LC_ALL": "C"},
        check=True, capture_output=True, text=True,
    ).stdout
    if "not found" in told:
        raise SystemExit(f"images: {binary} lacks a library:\n{told}")
    return sorted(set(re.findall(r"(/\S+) \(0x", told)))


class Root(Layer):
    """A layer of programs with their libraries."""

    def __init__(self, packages):
        super().__init__()
        self.packages = packages

    def program(self, path, source):
        for library in libraries(source, self.packages):
            # The loader is asked for by its full path, the libraries by name in /lib.
            place = library if os.path.basename(library).startswith("ld-") else "/lib/" + os.path.basename(library)
            if place.strip("/") not in self.entries:
                self.copy(place, library, 0o755)
        return self.copy(path, source, 0o755)


def compile_static(name):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, name)
        subprocess.run(["gcc", "-static", "-Os", "-s", "-Wl,--build-id=none", "-o", out, f"{HERE}/{name}.c"], check=True)
        with open(out, "rb") as file:
            return file.read()


def base(packages):
    """A small system around busybox."""
    root = Root(packages)
    for path in ("bin", "dev", "etc", "home", "lib", "lib64", "proc", "run", "sys", "usr/bin", "usr/sbin", "var/www"):
        root.directory(path)
    root.directory("root", 0o700)
    for path in ("tmp", "var/tmp"):
        root.directory(path, 0o1777)
    root.symlink("var/run", "/run")
    # The dynamic busybox: Debian's static one runs its own applets without a look at /bin, so that a masked
    # /bin/ls would still list.
    busybox = os.path.join(packages, "bin/busybox")
    root.program("bin/busybox", busybox)
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
    for applet in listed.split():
        if applet != "busybox":
            # Hard links, not symbolic ones: a mask over one applet must not hide them all.
            root.hardlink("bin/" + applet, "bin/busybox")
    for name in ("pgrep", "ipcs", "ipcmk", "ipcrm"):
        root.program("usr/bin/" + name, os.path.join(packages, "usr/bin", name))
    root.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    root.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    root.file("www/index.html", "hello from busybox\n")
    return root


def nginx(packages, port):
    root = Root(packages)
    root.program("usr/sbin/nginx", os.path.join(packages, "usr/sbin/nginx"))
    for path in ("var/log/nginx", "var/lib/nginx"):
        root.directory(path)
    with open(f"{HERE}/nginx.conf", encoding="ascii") as file:
        root.file("etc/nginx/nginx.conf", file.read().replace("@PORT@", str(port)))
    return root.file("usr/share/nginx/html/index.html", "<title>Welcome to nginx!</title>\n")


def small(name):
    """A layer that makes an image differ from its base."""
    return Layer().file("etc/test-image", name + "\n")


def catalogue(packages):
    """Reference -> (layers, config)."""
    system = base(packages)
    shell = {"Cmd": ["sh"]}
    serve = {"Entrypoint": ["nginx", "-e", "/dev/stderr", "-g", "daemon off;"]}
    images = {
        E2E + "busybox:1.29-2": ([system], shell),
        E2E + "nginx:1.14-2": ([system, nginx(packages, 80)], serve),
        E2E + "httpd:2.4.39-4": ([system, small("httpd")],
                                 {"Cmd": ["sh", "-c", "echo httpd serves; exec httpd -f -vv -p 80 -h /www"]}),
        E2E + "nonewprivs:1.3": ([system, Layer().file("nnp", compile_static("nonewprivs"), 0o4755)], {"Entrypoint": ["/nnp"]}),
        CRI_TOOLS + "hostnet-nginx-" + ARCHITECTURE: ([system, nginx(packages, 12003)], serve),
        "docker.io/library/busybox": ([system, small("library")], shell),
    }
    pause = Layer().file("pause", compile_static("pause"), 0o755)
    alone = {"Entrypoint": ["/pause"], "User": "65535:65535"}
    images["registry.k8s.io/pause:3.9"] = images["k8s.gcr.io/pause:3.9"] = ([pause], alone)
    images["registry.k8s.io/pause:3.10"] = ([pause, small("pause 3.10")], alone)

    # One layer object per image of the same content: same image, same digest.
    tags, tag = small("tags"), small("tag")
    for version in "123":
        images[f"{CRI_TOOLS}test-image-tags:{version}"] = ([system, tags], shell)
        images[f"{CRI_TOOLS}test-image-{version}"] = ([system, small(version)], shell)
    images[CRI_TOOLS + "test-image-tag:test"] = ([system, tag], shell)
    images[CRI_TOOLS + "test-image-tag:all"] = ([system, small("all")], shell)
    images[CRI_TOOLS + "test-image-latest"] = ([system, small("latest")], shell)
    for name, user in (("uid", "1002"), ("username", "www-data"), ("uid-group", "1003:1004"), ("username-group", "www-data:1004")):
        images[f"{CRI_TOOLS}test-image-user-{name}"] = ([system], {**shell, "User": user})
    known = Layer()
    known.file("etc/passwd", PASSWD + "default-user:x:1000:1000::/home/default-user:/bin/sh\n")
    known.file("etc/group", GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")
    images[CRI_TOOLS + "test-image-predefined-group"] = ([system, known], {**shell, "User": "1000"})
    return images


def main():
    packages, out, *names = sys.argv[1:]
    if names == ["busybox"]:
        # hack/run wants one image and has no compiler for the others.
        images = {"docker.io/library/busybox": ([base(packages)], {"Cmd": ["sh"]})}
    else:
        images = catalogue(packages)
    layout = Layout(out)
    for name, (layers, config) in images.items():
        layout.image(name if ":" in name else name + ":latest", layers, config)
    layout.finish()
    print("\n".join(m["annotations"]["org.opencontainers.image.ref.name"] for m in layout.manifests))


main()
