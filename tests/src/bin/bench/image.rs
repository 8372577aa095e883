//! A large image in a registry of its own.

use std::fs;

use criquet_tests::{Registry, run, workspace};

use crate::target::Target;

/// Where the large image's registry listens.
const PORT: u16 = 5001;

/// The large image, served.
pub(crate) struct Large {
    pub(crate) name: String,
    _registry: Registry,
}

impl Large {
    /// Serves the image in the calling thread's network namespace, where the target is; makes it when it is not there.
    pub(crate) fn serve(target: &Target) -> Large {
        let folder = workspace().join(".work/bench");
        fs::create_dir_all(&folder).expect("create the large image's folder");
        let registry = Registry::empty(&folder, "large", PORT, "");
        let name = format!("{}/large:1", registry.address);
        let done = folder.join("registry-large/.done");
        if !done.exists() {
            eprintln!("bench: making the large image");
            let layout = folder.join("layout");
            let program = workspace().join("hack/large-image");
            run(program, &[&layout.to_string_lossy()]).ok();
            let source = format!("oci:{}:large", layout.display());
            let destination = format!("docker://{name}");
            run(
                "skopeo",
                &[
                    "--insecure-policy",
                    "copy",
                    "--quiet",
                    "--dest-tls-verify=false",
                    "--preserve-digests",
                    &source,
                    &destination,
                ],
            )
            .ok();
            fs::remove_dir_all(&layout).expect("remove the layout");
            fs::write(&done, "").expect("note that the image is there");
        }
        let hosts = target.place().folder.join("certs.d").join(&registry.address);
        fs::create_dir_all(&hosts).expect("create a hosts folder");
        let text = format!("server = \"http://{}\"\n", registry.address);
        fs::write(hosts.join("hosts.toml"), text).expect("write hosts.toml");
        Large {
            name,
            _registry: registry,
        }
    }
}
