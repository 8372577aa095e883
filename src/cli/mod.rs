//! The command line: the daemon's start, its checks, and a small client for people on the node.

mod client;
mod list;
mod pod;
mod wipe;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::fault::{Fault, OrFault, Result};

/// Where the client finds the daemon.
pub const DEFAULT_SOCKET: &str = "/run/criquet/criquet.sock";
/// The exit status of a wrong configuration or request; a container's own is passed on.
const EXIT_FAILURE: u8 = 1;

/// A Kubernetes container runtime.
#[derive(Debug, Parser)]
#[command(name = "criquet", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the CRI until SIGTERM. Containers outlive the daemon.
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Say whether this host and configuration can run pods, and what is missing.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// End all pods and remove the state of a daemon that does not run.
    Wipe {
        #[command(flatten)]
        file: ConfigFile,
        /// The images, too.
        #[arg(long)]
        images: bool,
    },
    /// Show or check the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the version.
    Version,
    /// Print the steps at which a debug build can be made to fail.
    #[command(hide = true)]
    FaultPoints,
    /// List containers with their pods.
    Ps {
        #[command(flatten)]
        daemon: Daemon,
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
    },
    /// Print a container's log.
    Logs {
        #[command(flatten)]
        daemon: Daemon,
        /// Go on as it grows.
        #[arg(short, long)]
        follow: bool,
        /// Container id, or the beginning of it.
        container: String,
    },
    /// Run a command in a container; its exit status becomes ours.
    Exec {
        #[command(flatten)]
        daemon: Daemon,
        /// Seconds after which the command is killed; 0: never.
        #[arg(short, long, default_value_t = 0)]
        timeout: u32,
        /// Container id, or the beginning of it.
        container: String,
        /// Command and arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Pods.
    Pod {
        #[command(subcommand)]
        command: PodCommand,
    },
    /// Images.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the default configuration.
    Default,
    /// Read the configuration and say what is wrong with it.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Run an image in a pod of its own and print its id.
    Run {
        #[command(flatten)]
        daemon: Daemon,
        /// The pod's name.
        #[arg(long, default_value = "")]
        name: String,
        /// Use the host's network.
        #[arg(long)]
        host_network: bool,
        /// Where the log goes.
        #[arg(long, default_value = "/var/log/criquet")]
        log_dir: PathBuf,
        /// The image; pulled when it is not there.
        image: String,
        /// Replaces the image's command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// List pods.
    Ls {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Stop and remove a pod with its containers.
    Rm {
        #[command(flatten)]
        daemon: Daemon,
        /// Pod sandbox id, or the beginning of it.
        pod: String,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Load an OCI or docker archive.
    Load {
        #[command(flatten)]
        daemon: Daemon,
        /// The archive.
        file: PathBuf,
    },
    /// Pull an image.
    Pull {
        #[command(flatten)]
        daemon: Daemon,
        /// Its name.
        image: String,
    },
    /// List images.
    Ls {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Remove an image with all its tags.
    Rm {
        #[command(flatten)]
        daemon: Daemon,
        /// Its name or id.
        image: String,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file; drop-ins are read from config.d beside it.
    #[arg(short, long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Daemon {
    /// The daemon's socket.
    #[arg(long, env = "CRIQUET_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config> {
        let path = self.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH));
        Config::load(path, self.config.is_some()).map_err(|error| Fault::invalid(error.to_string()))
    }
}

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("criquet: {fault}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Serve { file } => {
            let config = file.load()?;
            crate::telemetry::start(&config.log).map_err(Fault::invalid)?;
            let tokio = workers()?;
            tokio.block_on(crate::serve::serve(config))?;
            // A blocking task that hangs in the kernel must not keep the daemon from ending.
            tokio.shutdown_background();
            Ok(ExitCode::SUCCESS)
        }
        Command::Wipe { file, images } => {
            let (config, tokio) = (file.load()?, workers()?);
            let done = tokio.block_on(wipe::wipe(config, images));
            tokio.shutdown_background();
            done
        }
        Command::Check { file } => crate::cli::list::check(&file.load()?),
        Command::Config {
            command: ConfigCommand::Default,
        } => {
            let text = Config::default()
                .render()
                .map_err(|error| Fault::internal(error.to_string()))?;
            say(&text);
            Ok(ExitCode::SUCCESS)
        }
        Command::Config {
            command: ConfigCommand::Check { file },
        } => {
            file.load()?;
            say("the configuration is valid\n");
            Ok(ExitCode::SUCCESS)
        }
        Command::FaultPoints => {
            say(&crate::fault_point::list());
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            say(&format!("criquet {}\n", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
        client => {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .or_internal(|| "starting the runtime".into())?;
            tokio.block_on(ask(client))
        }
    }
}

/// Two: requests wait for shims and disks, not for processors.
fn workers() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("criquet")
        .enable_all()
        .build()
        .or_internal(|| "starting the runtime".into())
}

async fn ask(command: Command) -> Result<ExitCode> {
    match command {
        Command::Ps { daemon, all } => list::containers(&daemon.socket, all).await,
        Command::Logs {
            daemon,
            follow,
            container,
        } => list::logs(&daemon.socket, &container, follow).await,
        Command::Exec {
            daemon,
            timeout,
            container,
            command,
        } => pod::exec(&daemon.socket, container, command, timeout).await,
        Command::Pod {
            command:
                PodCommand::Run {
                    daemon,
                    name,
                    host_network,
                    log_dir,
                    image,
                    command,
                },
        } => {
            let run = pod::Run {
                name,
                host_network,
                log_dir,
                image,
                command,
            };
            // Boxed: the requests inside are large.
            Box::pin(pod::run(&daemon.socket, run)).await
        }
        Command::Pod {
            command: PodCommand::Ls { daemon },
        } => list::pods(&daemon.socket).await,
        Command::Pod {
            command: PodCommand::Rm { daemon, pod },
        } => pod::remove(&daemon.socket, pod).await,
        Command::Image {
            command: ImageCommand::Load { daemon, file },
        } => pod::load(&daemon.socket, &file).await,
        Command::Image {
            command: ImageCommand::Pull { daemon, image },
        } => pod::pull(&daemon.socket, image).await,
        Command::Image {
            command: ImageCommand::Ls { daemon },
        } => list::images(&daemon.socket).await,
        Command::Image {
            command: ImageCommand::Rm { daemon, image },
        } => pod::remove_image(&daemon.socket, image).await,
        Command::Serve { .. }
        | Command::Wipe { .. }
        | Command::Check { .. }
        | Command::Config { .. }
        | Command::Version
        | Command::FaultPoints => Err(Fault::internal("not a client's command")),
    }
}

/// Prints; a reader that has gone (`criquet ps | head`) is no error.
fn say(text: &str) {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).ok();
}
