//! The daemon: recovery, then the socket, until it is told to end. Ending touches no container.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criquet_proto::admin::admin_service_server::AdminServiceServer;
use criquet_proto::cri::image_service_client::ImageServiceClient;
use criquet_proto::cri::image_service_server::ImageServiceServer;
use criquet_proto::cri::runtime_service_client::RuntimeServiceClient;
use criquet_proto::cri::runtime_service_server::RuntimeServiceServer;
use criquet_proto::cri::{ImageSpec, ImageStatusRequest, ListPodSandboxRequest, PodSandboxFilter};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::service::Routes;
use tonic::transport::Endpoint;

use crate::config::Config;
use crate::cri::admin_service::AdminCalls;
use crate::cri::image_service::ImageCalls;
use crate::cri::runtime_service::Runtimes;
use crate::fault::{OrFault, Result};
use crate::notify::Notifier;
use crate::runtime::{Runtime, private_dir};
use crate::session::Sessions;
use crate::store::Table;

/// The size of a gRPC message, both ways, as the kubelet has it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// From a stream's upgrade to the last of its streams.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// A streaming URL is used at once or never.
const STREAM_TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Streaming sessions at once: each holds a few descriptors of the daemon's.
const STREAM_SESSIONS_MAX: usize = 2048;
/// The name of no pod and no image.
const NOBODY: &str = "nobody";

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What the daemon needs to start is not there: one sentence that says what to do.
pub async fn serve(config: Config) -> Result<()> {
    let socket = config.socket.clone();
    let stream_options = stream_options(&config);
    let runtime = Runtime::open(config).await?;
    let sessions = Arc::new(Sessions {
        runtime: Arc::clone(&runtime),
    });
    let streams = criquet_stream::Server::start(stream_options, sessions)
        .await
        .or_internal(|| "starting the streaming server (stream.address)".into())?;
    let listener = listen(&socket)?;
    let calls = RuntimeServiceServer::new(Runtimes {
        runtime: Arc::clone(&runtime),
        streams: streams.clone(),
    })
    .max_decoding_message_size(MESSAGE_BYTES_MAX)
    .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServiceServer::new(AdminCalls {
        runtime: Arc::clone(&runtime),
    });
    let images = ImageServiceServer::new(ImageCalls {
        runtime: Arc::clone(&runtime),
    })
    .max_decoding_message_size(MESSAGE_BYTES_MAX)
    .max_encoding_message_size(MESSAGE_BYTES_MAX);
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "criquet serves");
    let (tell_end, ending) = tokio::sync::watch::channel(false);
    let routes = Routes::new(calls)
        .add_service(images)
        .add_service(admin)
        .prepare();
    let mut signals = Signals::listen()?;
    let server = tokio::spawn(crate::grpc::serve(listener, routes, ending));
    let notifier = Notifier::from_environment();
    if notifier.is_watched() {
        notifier.ready(&progress(&socket, &runtime).await?).await;
    }
    tokio::select! {
        () = signals.ended() => {}
        () = notifier.watch(|| progress(&socket, &runtime)) => {}
    }
    tracing::info!("criquet ends; containers go on");
    notifier.ending().await;
    tell_end.send_replace(true);
    server.await.or_internal(|| "ending".into())?;
    streams.close().await;
    runtime.remove_empty_parent();
    Ok(())
}

/// Whether requests get answers: asks as a client does, through the socket and past the pods' and images' locks, and has
/// the store commit something. A store that refuses is one that answers: a restart would not empty a full disk. The
/// result is a line for people.
async fn progress(socket: &Path, runtime: &Arc<Runtime>) -> Result<String> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let doing = || format!("asking myself at {socket:?}");
    // The address is never used: the connector knows the socket.
    let channel = Endpoint::from_static("http://criquet")
        .connect_with_connector(connector)
        .await
        .or_internal(doing)?;
    let pods = ListPodSandboxRequest {
        filter: Some(PodSandboxFilter {
            id: NOBODY.into(),
            ..PodSandboxFilter::default()
        }),
    };
    RuntimeServiceClient::new(channel.clone())
        .list_pod_sandbox(pods)
        .await
        .or_internal(doing)?;
    let image = ImageStatusRequest {
        image: Some(ImageSpec {
            image: NOBODY.into(),
            ..ImageSpec::default()
        }),
        verbose: false,
    };
    ImageServiceClient::new(channel)
        .image_status(image)
        .await
        .or_internal(doing)?;
    let (pods, containers) = (runtime.sandboxes.all().len(), runtime.containers.all().len());
    Ok(match runtime.store.remove(Table::Sandboxes, NOBODY).await {
        Ok(()) => format!("{pods} pods, {containers} containers"),
        Err(error) => format!("{pods} pods, {containers} containers; records cannot be written: {error}"),
    })
}

fn stream_options(config: &Config) -> criquet_stream::Options {
    let stream = &config.stream;
    let tls = !stream.tls_cert.as_os_str().is_empty();
    criquet_stream::Options {
        address: stream.address,
        tls: tls.then(|| (stream.tls_cert.clone(), stream.tls_key.clone())),
        idle_timeout: Duration::from_secs(stream.idle_timeout_s),
        creation_timeout: STREAM_CREATION_TIMEOUT,
        token_lifetime: STREAM_TOKEN_LIFETIME,
        sessions_max: STREAM_SESSIONS_MAX,
    }
}

/// The lock of the root folder has made sure that no other daemon serves here: an old socket is a dead one.
fn listen(socket: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    // A folder that others use as well, such as /run, keeps its mode; the socket's own is enough.
    if let Some(dir) = socket.parent()
        && !dir.exists()
    {
        private_dir(dir)?;
    }
    let doing = || format!("listening at {socket:?}");
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).or_internal(doing),
        _ => {}
    }
    let listener = UnixListener::bind(socket).or_internal(doing)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).or_internal(doing)?;
    Ok(listener)
}

/// What ends the daemon.
struct Signals([Signal; 3]);

impl Signals {
    /// From now on they are kept for [`Signals::ended`].
    fn listen() -> Result<Self> {
        let on = |kind| signal(kind).or_internal(|| "listening for signals".into());
        Ok(Self([
            on(SignalKind::terminate())?,
            on(SignalKind::interrupt())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn ended(&mut self) {
        let [term, int, hup] = &mut self.0;
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                // A reload that other runtimes answer with death; what can change is read when it is used.
                _ = hup.recv() => tracing::info!("SIGHUP: hosts.toml and CNI files are read at each use; the rest needs a restart"),
            }
        }
    }
}
