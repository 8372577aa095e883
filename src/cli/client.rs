//! The connection to the daemon.

use std::path::{Path, PathBuf};

use criquet_proto::admin::admin_service_client::AdminServiceClient;
use criquet_proto::cri::image_service_client::ImageServiceClient;
use criquet_proto::cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::fault::{Fault, Kind, OrFault, Result};

/// As the daemon's.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The daemon's services.
pub(super) struct Client {
    pub(super) runtime: RuntimeServiceClient<Channel>,
    pub(super) image: ImageServiceClient<Channel>,
    pub(super) admin: AdminServiceClient<Channel>,
}

impl Client {
    /// Connects.
    pub(super) async fn connect(socket: &Path) -> Result<Self> {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never used: the connector knows the socket.
        let channel = Endpoint::from_static("http://criquet")
            .connect_with_connector(connector)
            .await
            .or_fault(Kind::Unavailable, || {
                format!("connecting to {socket:?} (does criquet serve there? see --socket)")
            })?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            image: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(channel),
        })
    }
}

/// What the daemon refused, in its own words.
pub(super) fn refused(status: Status) -> Fault {
    let kind = match status.code() {
        Code::NotFound => Kind::NotFound,
        Code::InvalidArgument => Kind::Invalid,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        _ => Kind::Internal,
    };
    Fault::new(kind, status.message())
}
