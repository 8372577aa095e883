//! A connection to systemd's manager, for one errand: nothing is kept open, so nothing has to be found again.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::message::{Body, Kind, Message, Target, call};
use crate::fault::{self, Fault, OrFault, Result};

/// The system bus, where systemd's manager is known by its name.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// The manager itself, for hosts and moments without a bus.
const PRIVATE: &str = "/run/systemd/private";
/// The answer to the authentication is a word and a UUID.
const AUTH_BYTES_MAX: usize = 512;
/// Read at once.
const READ_BYTES: usize = 4096;

const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};
const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
/// The only signal that is listened to.
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    buffer: Vec<u8>,
    serial: u32,
    /// Jobs that ended, with their results.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects to the system bus, or to the manager.
    ///
    /// # Errors
    /// `Unavailable`: neither is there.
    pub(super) async fn connect() -> Result<Self> {
        match Self::open(Path::new(SYSTEM_BUS), true).await {
            Ok(bus) => Ok(bus),
            Err(first) => Self::open(Path::new(PRIVATE), false)
                .await
                .map_err(|second| Fault::unavailable(format!("{first}; {second}"))),
        }
    }

    async fn open(path: &Path, shared: bool) -> Result<Self> {
        let doing = || format!("connecting to {path:?}");
        let stream = UnixStream::connect(path)
            .await
            .or_fault(fault::Kind::Unavailable, doing)?;
        let mut bus = Self {
            stream,
            buffer: Vec::new(),
            serial: 0,
            ended: Vec::new(),
        };
        bus.authenticate()
            .await
            .map_err(|fault| fault.while_doing(doing()))?;
        if shared {
            bus.ask(BUS, "Hello", "", Body::default()).await?;
            bus.ask(BUS, "AddMatch", "s", Body::default().text(JOB_REMOVED))
                .await?;
        }
        Ok(bus)
    }

    /// EXTERNAL: the kernel tells the peer who we are; the uid is sent as the hexadecimal of its decimal digits.
    async fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let digits: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {digits}\r\nBEGIN\r\n").as_bytes())
            .await?;
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                if line.starts_with(b"OK ") {
                    return Ok(());
                }
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                return Err(Fault::new(
                    fault::Kind::PermissionDenied,
                    format!("the bus does not let us in: {line:?}"),
                ));
            }
            if self.buffer.len() > AUTH_BYTES_MAX {
                return Err(Fault::unavailable("it does not speak D-Bus"));
            }
            self.read().await?;
        }
    }

    /// Tells the manager that we listen to jobs: else it does not speak of them.
    ///
    /// # Errors
    /// The manager refused.
    pub(super) async fn subscribe(&mut self) -> Result<()> {
        self.manager("Subscribe", "", Body::default()).await.map(drop)
    }

    /// Calls a method of the manager.
    ///
    /// # Errors
    /// What the manager answered, with a kind of ours; `Unavailable`: the connection broke.
    pub(super) async fn manager(&mut self, member: &str, signature: &str, body: Body) -> Result<Message> {
        self.ask(MANAGER, member, signature, body).await
    }

    /// Waits for the end of the job that a call answered with.
    ///
    /// # Errors
    /// The job did not end well.
    pub(super) async fn job(&mut self, answer: &Message) -> Result<()> {
        let job = answer
            .texts(1)?
            .pop()
            .ok_or_else(|| Fault::internal("systemd answered without a job"))?;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(Fault::internal(format!("systemd's job ended as {other:?}"))),
                };
            }
            let message = self.receive().await?;
            self.note(&message)?;
        }
    }

    async fn ask(&mut self, target: Target, member: &str, signature: &str, body: Body) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        self.write(&call(serial, target, member, signature, body)).await?;
        loop {
            let message = self.receive().await?;
            match message.kind {
                Kind::Return if message.reply_serial == serial => return Ok(message),
                Kind::Error if message.reply_serial == serial => return Err(refused(member, &message)),
                _ => self.note(&message)?,
            }
        }
    }

    /// `JobRemoved(u id, o job, s unit, s result)`. Other signals are nothing to us.
    fn note(&mut self, message: &Message) -> Result<()> {
        if message.kind == Kind::Signal
            && message.member == "JobRemoved"
            && let [job, _unit, result] = message.texts(3)?.as_slice()
        {
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = Message::take(&mut self.buffer)? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        // On the heap: an array would make every future around this one large.
        self.buffer.reserve(READ_BYTES);
        let count = self
            .stream
            .read_buf(&mut self.buffer)
            .await
            .or_fault(fault::Kind::Unavailable, || "reading from the bus".into())?;
        if count == 0 {
            return Err(Fault::unavailable("the bus closed the connection"));
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .await
            .or_fault(fault::Kind::Unavailable, || "writing to the bus".into())
    }
}

fn refused(member: &str, message: &Message) -> Fault {
    let kind = match message.error.as_str() {
        "org.freedesktop.systemd1.NoSuchUnit" => fault::Kind::NotFound,
        "org.freedesktop.systemd1.UnitExists" => fault::Kind::AlreadyExists,
        "org.freedesktop.DBus.Error.AccessDenied" => fault::Kind::PermissionDenied,
        "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NoReply" => {
            fault::Kind::Unavailable
        }
        _ => fault::Kind::Internal,
    };
    // An error says its reason in its first text, if it has one.
    let reason = message.texts(1).ok().and_then(|mut texts| texts.pop());
    let reason = reason.unwrap_or_else(|| message.error.clone());
    Fault::new(kind, format!("systemd refused {member}: {reason}"))
}
