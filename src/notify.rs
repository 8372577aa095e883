//! What systemd is told (sd_notify(3)): ready, alive, ending. Without `NOTIFY_SOCKET` nothing is done.
//!
//! The variables stay in the daemon's own environment: shims are started with an empty one, plugins with theirs.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::fault::Result;

/// A message is dropped when systemd does not take it by then.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// A check that says no is repeated this often in the time of one tick: what is wrong may pass.
const RETRIES: u32 = 5;

/// Who watches over this process.
#[derive(Debug)]
pub(crate) struct Notifier {
    address: Option<SocketAddr>,
    /// Silence that systemd takes for death.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As systemd's variables say.
    pub(crate) fn from_environment() -> Self {
        Self::of(|name| std::env::var_os(name), std::process::id())
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let address = variable("NOTIFY_SOCKET").and_then(|socket| {
            let address = address(&socket);
            if address.is_none() {
                tracing::warn!(
                    ?socket,
                    "NOTIFY_SOCKET is neither a path nor an abstract name; nobody is told"
                );
            }
            address
        });
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        // A parent's variables are not meant for its children.
        let ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| ours && *microseconds > 0);
        Self {
            address,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Whether anybody listens.
    pub(crate) fn is_watched(&self) -> bool {
        self.address.is_some()
    }

    /// Requests are answered from now on.
    pub(crate) async fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}")).await;
    }

    /// This process is about to end.
    pub(crate) async fn ending(&self) {
        self.say("STOPPING=1\nSTATUS=ends; containers go on").await;
    }

    /// Says twice in the watchdog's time that this process makes progress, whenever `check` proves it with a line for
    /// `systemctl status`. One that fails or takes too long is silence. Never returns; without a watchdog it does
    /// nothing.
    pub(crate) async fn watch<F: Future<Output = Result<String>>>(&self, check: impl Fn() -> F) {
        let (true, Some(watchdog)) = (self.is_watched(), self.watchdog) else {
            return std::future::pending().await;
        };
        let period = watchdog / 2;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for _ in 0..RETRIES {
                match timeout(period, check()).await {
                    Ok(Ok(status)) => {
                        self.say(&format!("WATCHDOG=1\nSTATUS={status}")).await;
                        break;
                    }
                    Ok(Err(fault)) => {
                        tracing::warn!(%fault, "no progress; systemd will restart the daemon if that lasts")
                    }
                    Err(_) => {
                        tracing::warn!("no answer to myself; systemd will restart the daemon if that lasts");
                    }
                }
                sleep(period / RETRIES).await;
            }
        }
    }

    async fn say(&self, message: &str) {
        let Some(address) = &self.address else { return };
        // A connection of its own each time: systemd may have been started anew.
        let sent = async {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(address)?;
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UnixDatagram::from_std(socket)?;
            socket.send(message.as_bytes()).await
        };
        match timeout(SEND_DEADLINE, sent).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "systemd could not be told"),
            Err(_) => tracing::warn!("systemd takes no message"),
        }
    }
}

/// A path, or with `@` an abstract name.
fn address(socket: &OsString) -> Option<SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(socket).ok(),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    fn notifier(variables: &[(&str, &str)]) -> Notifier {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(found.1))
        };
        Notifier::of(find, 7)
    }

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn listener(name: &str) -> UnixDatagram {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let time = ("WATCHDOG_USEC", "2000000");
        assert_eq!(notifier(&[time]).watchdog, Some(Duration::from_secs(2)));
        assert_eq!(
            notifier(&[time, ("WATCHDOG_PID", "7")]).watchdog,
            Some(Duration::from_secs(2))
        );
        for other in ["8", "x", ""] {
            assert_eq!(notifier(&[time, ("WATCHDOG_PID", other)]).watchdog, None);
        }
        for usec in ["0", "", "soon", "-1"] {
            assert_eq!(notifier(&[("WATCHDOG_USEC", usec)]).watchdog, None);
        }
    }

    #[test]
    fn addresses_are_paths_and_abstract_names() {
        for (socket, known) in [
            ("/run/x", true),
            ("@x", true),
            ("vsock:2:1", false),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(
                notifier(&[("NOTIFY_SOCKET", socket)]).is_watched(),
                known,
                "{socket}"
            );
        }
        assert!(!notifier(&[]).is_watched());
    }

    #[tokio::test]
    async fn messages_are_sent() {
        let name = format!("criquet-test-notify-{}", std::process::id());
        let socket = listener(&name);
        let notifier = notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]);
        notifier.ready("serves").await;
        notifier.ending().await;
        assert_eq!(received(&socket).as_deref(), Some("READY=1\nSTATUS=serves"));
        assert!(received(&socket).unwrap().starts_with("STOPPING=1\n"));
        drop(socket);
        // Nobody listens any more: a warning.
        notifier.ready("serves").await;
    }

    #[tokio::test]
    async fn only_progress_feeds_the_watchdog() {
        let name = format!("criquet-test-watchdog-{}", std::process::id());
        let socket = listener(&name);
        let address = format!("@{name}");
        let notifier = notifier(&[("NOTIFY_SOCKET", &address), ("WATCHDOG_USEC", "20000")]);
        let time = Duration::from_millis(200);
        // Neither a check that fails nor one that hangs.
        timeout(time, notifier.watch(|| async { Err(Fault::internal("no")) }))
            .await
            .unwrap_err();
        timeout(time, notifier.watch(std::future::pending))
            .await
            .unwrap_err();
        assert_eq!(received(&socket), None);
        timeout(time, notifier.watch(|| async { Ok("well".into()) }))
            .await
            .unwrap_err();
        for _ in 0..2 {
            assert_eq!(received(&socket).as_deref(), Some("WATCHDOG=1\nSTATUS=well"));
        }
    }
}
