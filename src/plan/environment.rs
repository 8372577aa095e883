//! The environment of the first process.

/// Where programs are looked for when neither image nor request say so: as Docker, containerd and CRI-O.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a terminal is called.
const TERM: &str = "xterm";

/// NAME=VALUE entries in the order in which names first appeared; a later value replaces an earlier one.
#[derive(Debug, Default)]
struct Environment(Vec<(Vec<u8>, Vec<u8>)>);

impl Environment {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.0.push((name.to_vec(), value.to_vec())),
        }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }
}

/// Builds the environment: defaults, then the image's entries, then the request's. Nothing comes from the
/// daemon's own environment, also not through a malformed entry (CVE-2026-57231): such entries are left out.
#[must_use]
pub fn environment(
    image: &[String],
    request: &[(String, Vec<u8>)],
    hostname: &str,
    home: &[u8],
    terminal: bool,
) -> Vec<Vec<u8>> {
    let mut env = Environment::default();
    env.set(b"PATH", PATH.as_bytes());
    if terminal {
        env.set(b"TERM", TERM.as_bytes());
    }
    env.set(b"HOSTNAME", hostname.as_bytes());
    for entry in image {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') => {
                env.set(name.as_bytes(), value.as_bytes());
            }
            _ => {}
        }
    }
    for (name, value) in request {
        env.set(name.as_bytes(), value);
    }
    if !env.has(b"HOME") {
        env.set(b"HOME", home);
    }
    env.0
        .into_iter()
        .map(|(name, value)| [name, value].join(&b'='))
        .collect()
}

/// The environment of an exec: the container's, with TERM where a terminal needs it.
#[must_use]
pub fn for_exec(container: &[Vec<u8>], terminal: bool) -> Vec<Vec<u8>> {
    let mut env = container.to_vec();
    if terminal && !env.iter().any(|entry| entry.starts_with(b"TERM=")) {
        env.push([b"TERM".as_slice(), TERM.as_bytes()].join(&b'='));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(env: Vec<Vec<u8>>) -> Vec<String> {
        env.into_iter()
            .map(|entry| String::from_utf8(entry).unwrap())
            .collect()
    }

    #[test]
    fn later_values_win_and_broken_entries_are_left_out() {
        let image = [
            "A=1",
            "PATH=/bin",
            "SECRET",
            "*",
            "",
            "=x",
            "B=x=y",
            "HOSTNAME=img",
        ]
        .map(str::to_owned);
        let request = [("A".to_owned(), b"\xff2".to_vec()), ("C".to_owned(), vec![])];
        let env = environment(&image, &request, "pod", b"/root", false);
        assert_eq!(env[2], b"A=\xff2");
        let rest = text(env.into_iter().filter(|e| !e.starts_with(b"A=")).collect());
        assert_eq!(rest, ["PATH=/bin", "HOSTNAME=img", "B=x=y", "C=", "HOME=/root"]);
    }

    #[test]
    fn terminals_have_a_name() {
        let env = text(environment(&[], &[], "h", b"/", true));
        assert_eq!(
            env,
            [
                format!("PATH={PATH}"),
                "TERM=xterm".into(),
                "HOSTNAME=h".into(),
                "HOME=/".into()
            ]
        );
        let exec = text(for_exec(&[b"A=1".to_vec()], true));
        assert_eq!(exec, ["A=1", "TERM=xterm"]);
        assert_eq!(text(for_exec(&[b"TERM=vt100".to_vec()], true)), ["TERM=vt100"]);
    }
}
