//! Which program runs, with which arguments.

use criquet_image::ImageConfig;

use crate::container::config::ContainerConfig;
use crate::fault::{Fault, Result};

/// The request's command replaces the image's entrypoint and its command; the request's args replace the
/// image's command alone (Kubernetes, "Define a Command and Arguments").
///
/// # Errors
/// Neither says what to run.
pub fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<Vec<u8>>> {
    let (command, args) = if config.command.is_empty() {
        let args = if config.args.is_empty() {
            &image.cmd
        } else {
            &config.args
        };
        (&image.entrypoint, args)
    } else {
        (&config.command, &config.args)
    };
    words(command.iter().chain(args))
}

/// A command line of at least a program.
///
/// # Errors
/// It is empty, or a word holds NUL.
pub fn words<'a>(words: impl Iterator<Item = &'a String>) -> Result<Vec<Vec<u8>>> {
    let words: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).collect();
    if words.iter().any(|word| word.contains(&0)) {
        return Err(Fault::invalid("the command contains a NUL byte"));
    }
    match words.first() {
        None => Err(Fault::invalid(
            "no command: neither the request nor the image names one",
        )),
        Some(program) if program.is_empty() => {
            Err(Fault::invalid("the command's program is an empty string"))
        }
        Some(_) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_replaces_the_image() {
        let list = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let image = ImageConfig {
            entrypoint: list(&["/e"]),
            cmd: list(&["c"]),
            ..ImageConfig::default()
        };
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["/e", "c"]),
            (&[], &["a"], &["/e", "a"]),
            (&["/x"], &[], &["/x"]),
            (&["/x"], &["a"], &["/x", "a"]),
        ];
        for (command, arguments, want) in cases {
            let config = ContainerConfig {
                command: list(command),
                args: list(arguments),
                ..ContainerConfig::default()
            };
            let got = args(&config, &image).unwrap();
            assert_eq!(
                got,
                want.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>(),
                "{command:?} {arguments:?}"
            );
        }
        assert!(args(&ContainerConfig::default(), &ImageConfig::default()).is_err());
        let empty = ContainerConfig {
            command: list(&[""]),
            ..ContainerConfig::default()
        };
        assert!(args(&empty, &image).is_err());
    }
}
