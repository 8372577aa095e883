"""Writes OCI image layouts whose bytes depend on nothing but what is in them."""

import gzip
import hashlib
import io
import json
import os
import platform
import stat
import tarfile

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CREATED = "2024-01-01T00:00:00Z"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer:
    """A layer under construction: files by path, parents made as they are needed, owner root unless said."""

    def __init__(self):
        self.entries = {}

    def add(self, path, kind, mode, data=b"", target="", owner=(0, 0)):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory(parent)
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.size, info.linkname = kind, mode, len(data), target
        info.uid, info.gid = owner
        self.entries[path] = (info, data)
        return self

    def directory(self, path, mode=0o755, owner=(0, 0)):
        return self.add(path, tarfile.DIRTYPE, mode, owner=owner)

    def file(self, path, data, mode=0o644, owner=(0, 0)):
        return self.add(path, tarfile.REGTYPE, mode, data if isinstance(data, bytes) else data.encode(), owner=owner)

    def symlink(self, path, target):
        return self.add(path, tarfile.SYMTYPE, 0o777, target=target)

    def hardlink(self, path, target):
        return self.add(path, tarfile.LNKTYPE, 0o755, target=target.strip("/"))

    def copy(self, path, source, mode=None):
        with open(source, "rb") as file:
            return self.file(path, file.read(), stat.S_IMODE(os.stat(source).st_mode) if mode is None else mode)

    def pack(self):
        """(compressed bytes, digest of the bytes before compression)"""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
            # In the order of making: a hard link comes after its target, a file after its folder.
            for info, data in self.entries.values():
                tar.addfile(info, io.BytesIO(data))
        raw = raw.getvalue()
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as gz:
            gz.write(raw)
        return packed.getvalue(), sha256(raw)


class Layout:
    """One folder that holds many images, each under its reference name."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = os.path.join(folder, "blobs", "sha256")
        self.manifests = []
        self.packed = {}
        os.makedirs(self.blobs, exist_ok=True)

    def blob(self, data, media):
        digest = sha256(data)
        with open(os.path.join(self.blobs, digest.split(":")[1]), "wb") as file:
            file.write(data)
        return {"mediaType": media, "digest": digest, "size": len(data)}

    def image(self, name, layers, config):
        descriptors, ids = [], []
        for layer in layers:
            if id(layer) not in self.packed:
                data, diff_id = layer.pack()
                self.packed[id(layer)] = (self.blob(data, LAYER), diff_id, layer)
            descriptor, diff_id, _ = self.packed[id(layer)]
            descriptors.append(descriptor)
            ids.append(diff_id)
        settings = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], **config}
        document = {
            "created": CREATED,
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": ids},
            "history": [{"created": CREATED, "created_by": "hack/images"} for _ in ids],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(document).encode(), CONFIG),
            "layers": descriptors,
        }
        entry = self.blob(json.dumps(manifest).encode(), MANIFEST)
        entry["platform"] = {"architecture": ARCHITECTURE, "os": "linux"}
        self.manifests.append({**entry, "annotations": {"org.opencontainers.image.ref.name": name}})

    def finish(self):
        with open(os.path.join(self.folder, "oci-layout"), "w", encoding="ascii") as file:
            json.dump({"imageLayoutVersion": "1.0.0"}, file)
        with open(os.path.join(self.folder, "index.json"), "w", encoding="ascii") as file:
            json.dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests}, file)


def archive(folder, name, path):
    """Packs one image of a layout as an OCI archive, as `image load` reads it."""
    with open(os.path.join(folder, "index.json"), encoding="ascii") as file:
        index = json.load(file)
    wanted = [m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == name]
    if not wanted:
        raise SystemExit(f"images: the layout has no image named {name}")
    blobs = lambda digest: os.path.join("blobs", "sha256", digest.split(":")[1])
    with open(os.path.join(folder, blobs(wanted[0]["digest"])), "rb") as file:
        manifest = json.load(file)
    digests = [wanted[0]["digest"], manifest["config"]["digest"]] + [m["digest"] for m in manifest["layers"]]
    with tarfile.open(path, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member, document in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", {**index, "manifests": wanted})):
            data = json.dumps(document).encode()
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for digest in dict.fromkeys(digests):
            tar.add(os.path.join(folder, blobs(digest)), blobs(digest))
