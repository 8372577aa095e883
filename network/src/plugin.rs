//! One run of one plugin binary (CNI specification, section 2). The only place that starts programs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::config::is_name;
use crate::{Error, Result};

/// A result is a few hundred bytes.
const STDOUT_BYTES_MAX: u64 = 1024 * 1024;
/// What a plugin complains is shown, its debug log is not.
const STDERR_BYTES_MAX: u64 = 64 * 1024;
const STDERR_SHOWN_CHARS: usize = 512;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGKILL: i32 = 9;

/// What the plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// kubelet gives a whole RunPodSandbox four minutes (`--runtime-request-timeout` of two, twice); plugins
    /// that talk to an API server may take most of one.
    fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Add => 110,
            Self::Del | Self::Gc => 60,
            Self::Check => 30,
            Self::Status => 10,
            Self::Version => 5,
        })
    }
}

/// The attachment that a run is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) pod_id: &'a str,
    /// Empty: the namespace is gone.
    pub(crate) netns: &'a Path,
    pub(crate) arguments: &'a str,
}

/// The binary of a plugin.
///
/// # Errors
/// It is in none of the folders.
pub(crate) fn find(bin_dirs: &[PathBuf], kind: &str) -> Result<PathBuf> {
    if !is_name(kind) {
        return Err(Error(format!("plugin type {kind:?} is not the name of a file")));
    }
    bin_dirs
        .iter()
        .map(|dir| dir.join(kind))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let dirs: Vec<String> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            Error(format!("plugin {kind} is not in {}", dirs.join(", ")))
        })
}

/// Runs a plugin and gives what it printed.
///
/// # Errors
/// It cannot be run, fails, takes too long, or prints what is not JSON. The text begins with the plugin's name.
pub(crate) async fn run(
    bin_dirs: &[PathBuf],
    kind: &str,
    verb: Verb,
    input: &Value,
    target: Option<Target<'_>>,
) -> Result<Value> {
    run_within(bin_dirs, kind, verb, input, target, verb.timeout()).await
}

async fn run_within(
    bin_dirs: &[PathBuf],
    kind: &str,
    verb: Verb,
    input: &Value,
    target: Option<Target<'_>>,
    timeout: Duration,
) -> Result<Value> {
    let path = find(bin_dirs, kind)?;
    let failed = |what: String| Error(format!("plugin {kind}: {} {what}", verb.name()));
    let mut child = command(&path, bin_dirs, verb, target)
        .spawn()
        .map_err(|error| failed(format!("could not start {}: {error}", path.display())))?;
    // Its own group, so that what it delegates to can be ended with it.
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let finished = tokio::time::timeout(timeout, converse(&mut child, input.to_string())).await;
    let (status, stdout, stderr) = match finished {
        Ok(Ok(finished)) => finished,
        Ok(Err(error)) => {
            end(&mut child, group).await;
            return Err(failed(format!("failed: {error}")));
        }
        Err(_) => {
            end(&mut child, group).await;
            return Err(failed(format!(
                "did not finish within {} s and was ended",
                timeout.as_secs_f32()
            )));
        }
    };
    if !status.success() {
        return Err(failed(format!(
            "failed: {}",
            complaint(&stdout, &stderr, &status.to_string())
        )));
    }
    if stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&stdout).map_err(|error| failed(format!("printed what is not JSON: {error}")))
}

fn command(path: &Path, bin_dirs: &[PathBuf], verb: Verb, target: Option<Target<'_>>) -> Command {
    let mut command = Command::new(path);
    let search: Vec<&str> = bin_dirs.iter().filter_map(|dir| dir.to_str()).collect();
    command
        .env_clear()
        // Plugins look for iptables and the like.
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
        .env("CNI_COMMAND", verb.name())
        .env("CNI_PATH", search.join(":"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true);
    if let Some(target) = target {
        command
            .env("CNI_CONTAINERID", target.pod_id)
            .env("CNI_NETNS", target.netns)
            .env("CNI_IFNAME", crate::native::INTERFACE)
            .env("CNI_ARGS", target.arguments);
    }
    command
}

async fn converse(
    child: &mut Child,
    input: String,
) -> std::io::Result<(std::process::ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async move {
        if let Some(mut stdin) = stdin {
            // One that fails early, or needs no input, does not read it.
            match stdin.write_all(input.as_bytes()).await {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(
        write,
        collect(stdout, STDOUT_BYTES_MAX, true),
        collect(stderr, STDERR_BYTES_MAX, false)
    )?;
    Ok((child.wait().await?, stdout, stderr))
}

/// Reads to the end, keeping `max` bytes; more is an error if `strict`.
async fn collect(from: Option<impl AsyncRead + Unpin>, max: u64, strict: bool) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return Ok(kept) };
    (&mut from).take(max).read_to_end(&mut kept).await?;
    let more = tokio::io::copy(
        &mut from.take(if strict { 1 } else { u64::MAX }),
        &mut tokio::io::sink(),
    )
    .await?;
    if strict && more > 0 {
        return Err(std::io::Error::other(format!("it printed more than {max} bytes")));
    }
    Ok(kept)
}

/// Kills the plugin with its group and reaps it. The group's number cannot be another's: the leader is
/// not reaped yet.
async fn end(child: &mut Child, group: Option<i32>) {
    if let Some(group) = group.filter(|_| child.id().is_some())
        && let Err(error) = criquet_sys::signal::kill_group(group, SIGKILL)
    {
        tracing::debug!(group, %error, "a plugin's group was gone");
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "a plugin was gone");
    }
}

/// The plugin's error object as a sentence; else what it wrote; else its exit status.
fn complaint(stdout: &[u8], stderr: &[u8], status: &str) -> String {
    let object: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let (message, details) = (text("msg"), text("details"));
    if !message.is_empty() || !details.is_empty() {
        let sentence = [message, details]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ");
        let code = object.get("code").and_then(Value::as_u64).unwrap_or_default();
        return match meaning(code) {
            Some(meaning) => format!("{sentence} ({meaning})"),
            None => sentence,
        };
    }
    let written = String::from_utf8_lossy(if stderr.is_empty() { stdout } else { stderr });
    let written: String = written.trim().chars().take(STDERR_SHOWN_CHARS).collect();
    if written.is_empty() {
        status.to_owned()
    } else {
        format!("{status}: {written}")
    }
}

/// The well-known error codes (CNI specification, section 5).
fn meaning(code: u64) -> Option<&'static str> {
    Some(match code {
        1 => "incompatible CNI version",
        2 => "unsupported field in the configuration",
        3 => "the container is unknown or does not exist",
        4 => "an environment variable is invalid",
        5 => "input or output failed",
        6 => "the configuration could not be decoded",
        7 => "the network configuration is invalid",
        11 => "try again later",
        50 => "the plugin is not available",
        51 => "the plugin is not available, and attached containers may have limited connectivity",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script that ends by itself gets so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn script(text: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        // By another process: what this one had open for writing, a child of another test may still have, and then
        // it cannot be executed.
        let mut install = std::process::Command::new("install");
        install
            .args(["-m", "755"])
            .arg(&path)
            .arg(dir.path().join("test"));
        assert!(install.status().unwrap().success());
        let dirs = vec![dir.path().to_owned()];
        (dir, dirs)
    }

    async fn run_script(text: &str, timeout: Duration) -> Result<Value> {
        let (_dir, dirs) = script(text);
        run_within(&dirs, "test", Verb::Status, &Value::Null, None, timeout).await
    }

    #[tokio::test]
    async fn an_error_object_becomes_a_sentence() {
        let text = r#"echo '{"code":7,"msg":"bad subnet","details":"no mask"}'; exit 1"#;
        let error = run_script(text, PATIENCE).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "plugin test: STATUS failed: bad subnet: no mask (the network configuration is invalid)"
        );
        let error = run_script("echo oops >&2; exit 3", PATIENCE)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3: oops"), "{error}");
    }

    #[tokio::test]
    async fn a_stuck_plugin_is_ended_with_its_children() {
        let running = run_script("sleep 3600 & sleep 3600", Duration::from_millis(200));
        let ended = tokio::time::timeout(PATIENCE, running).await;
        let error = ended.expect("it is not waited for").unwrap_err().to_string();
        assert!(error.contains("did not finish"), "{error}");
    }

    #[tokio::test]
    async fn a_flood_is_refused() {
        let error = run_script("cat /dev/zero", PATIENCE)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("printed more than"), "{error}");
    }

    #[tokio::test]
    async fn garbage_is_refused_and_the_environment_is_clear() {
        assert!(run_script("echo nonsense", PATIENCE).await.is_err());
        let value = run_script(
            r#"env | grep -q CARGO && echo '"leak"' || echo '"clear"'"#,
            PATIENCE,
        )
        .await;
        assert_eq!(value.unwrap(), "clear");
    }

    #[test]
    fn a_type_is_one_file_name() {
        for kind in ["../../bin/sh", "a/b", "", "..", ".hidden"] {
            assert!(find(&["/bin".into()], kind).is_err(), "{kind}");
        }
        assert!(find(&["/nowhere".into(), "/bin".into()], "sh").is_ok());
    }
}
