//! A terminal of a test's own, with a program on it, as a person sits before one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A busy machine takes its time from a key to its echo.
const PATIENCE: Duration = Duration::from_secs(crate::PATIENCE_S);

/// The master's side of a terminal, and the program that has it as its own.
pub struct Terminal {
    master: File,
    program: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts `command` as the leader of a session whose terminal this is.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new())
            .expect("ptsname")
            .into_string()
            .expect("a name");
        let slave = || {
            File::options()
                .read(true)
                .write(true)
                .open(&name)
                .expect("open the terminal")
        };
        let master = File::from(master);
        resize(&master, columns, rows);
        let program = Command::new("setsid")
            .args(["--ctty"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("start a program on a terminal");
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (master.try_clone().expect("dup"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // An error is the end: nobody has the other side open any more.
            while let Ok(read @ 1..) = from.read(&mut piece) {
                to.lock()
                    .expect("screen")
                    .push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        });
        Terminal {
            master,
            program,
            screen,
        }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Changes the window's size, as dragging its corner does.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.master, columns, rows);
    }

    /// Waits until `text` was shown since the last call, and forgets all up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut screen = self.screen.lock().expect("screen");
            if let Some(at) = screen.find(text) {
                screen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < end, "{text:?} is not shown: {:?}", *screen);
            drop(screen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What was shown since the last [`Terminal::expect`].
    pub fn shown(&self) -> String {
        self.screen.lock().expect("screen").clone()
    }

    /// Waits for the program's end: its exit code, -1 after a signal.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().expect("wait") {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < end,
                "the program does not end: {:?}",
                self.shown()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn resize(master: &File, columns: u16, rows: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master.as_fd(), size).expect("set the window's size");
}
