//! Names of sysctls that belong to a pod: which of its namespaces each one is in.

/// The namespace of a pod that a sysctl belongs to (sysctl(5), namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`.
    Ipc,
    /// `net.*`.
    Network,
}

/// The longest name; the kernel's own are below 100 bytes.
const NAME_BYTES_MAX: usize = 256;

/// Whose `name` is.
///
/// # Errors
/// It is no name like `net.core.somaxconn`, or it belongs to no namespace of a pod: setting it would change the host.
pub fn owner(name: &str) -> Result<Owner, String> {
    let shaped = name.len() <= NAME_BYTES_MAX
        && name.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        });
    if !shaped {
        return Err(format!(
            "sysctl {name:?} is not a name like \"net.core.somaxconn\""
        ));
    }
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    if ipc || name == "kernel.sem" {
        Ok(Owner::Ipc)
    } else if name.starts_with("net.") {
        Ok(Owner::Network)
    } else {
        Err(format!("sysctl {name:?} belongs to no namespace of a pod"))
    }
}
