//! Exec, Attach and PortForward: the request, validated into a streaming session.

use criquet_proto::cri;
use criquet_stream::Session;

use crate::fault::{Fault, Result};
use crate::runtime::Runtime;

/// Validates an Exec request.
///
/// # Errors
/// No such container, not running, or streams that make no sense.
pub fn exec(runtime: &Runtime, request: cri::ExecRequest) -> Result<Session> {
    let container = runtime.containers.get(&request.container_id)?;
    container.require_running("exec in")?;
    if request.cmd.is_empty() {
        return Err(Fault::invalid("cmd is empty: an exec needs a command"));
    }
    streams(request.tty, request.stdin, request.stdout, request.stderr)?;
    Ok(Session::Exec {
        container: container.id.clone(),
        command: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    })
}

/// Validates an Attach request.
///
/// # Errors
/// As [`exec`].
pub fn attach(runtime: &Runtime, request: cri::AttachRequest) -> Result<Session> {
    let container = runtime.containers.get(&request.container_id)?;
    container.require_running("attach to")?;
    let (tty, stdin) = container.with_record(|record| (record.config.tty, record.config.stdin));
    streams(request.tty, request.stdin, request.stdout, request.stderr)?;
    Ok(Session::Attach {
        container: container.id.clone(),
        tty,
        // Input for a container without stdin goes nowhere; the client is not refused for it, as with containerd.
        stdin: request.stdin && stdin,
        stdout: request.stdout,
        stderr: request.stderr && !tty,
    })
}

/// Validates a PortForward request.
///
/// # Errors
/// No such pod, not ready, or a port that is none.
pub fn port_forward(runtime: &Runtime, request: &cri::PortForwardRequest) -> Result<Session> {
    let sandbox = runtime.sandboxes.get(&request.pod_sandbox_id)?;
    if sandbox.phase() != crate::sandbox::record::Phase::Ready {
        return Err(Fault::failed_precondition(format!(
            "pod sandbox {:?} is not ready",
            sandbox.id
        )));
    }
    let port = |port: &i32| {
        u16::try_from(*port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Fault::invalid(format!("port {port} is none")))
    };
    let ports = request.port.iter().map(port).collect::<Result<Vec<u16>>>()?;
    Ok(Session::PortForward {
        sandbox: sandbox.id.clone(),
        ports,
    })
}

fn streams(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<()> {
    if tty && stderr {
        return Err(Fault::invalid(
            "tty and stderr together: a terminal has one output",
        ));
    }
    if !(stdin || stdout || stderr) {
        return Err(Fault::invalid("one of stdin, stdout and stderr must be set"));
    }
    Ok(())
}
