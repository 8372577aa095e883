//! A CRI client whose calls wait: tests are plain functions.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criquet_proto::cri;
use criquet_proto::cri::image_service_client::ImageServiceClient;
use criquet_proto::cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// The largest message that kubelet accepts.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// No call of a test takes longer, not even a pull or a stop with its grace period.
const CALL: Duration = Duration::from_secs(300);

/// Both CRI services of one daemon. It finds a restarted daemon by itself.
pub struct Cri {
    threads: Runtime,
    channel: Channel,
}

macro_rules! calls {
    ($($client:ident.$name:ident($request:ident) -> $response:ident;)*) => {
        $(
            #[doc = concat!("The CRI call `", stringify!($name), "`.")]
            #[allow(clippy::result_large_err)]
            pub fn $name(&self, request: cri::$request) -> Result<cri::$response, Status> {
                let mut client = self.$client();
                self.call(async move { client.$name(request).await })
            }
        )*
    };
}

impl Cri {
    /// A client of the daemon at `socket`. Connects when first used.
    pub fn new(socket: &Path) -> Cri {
        let threads = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("tokio runtime");
        let socket: PathBuf = socket.to_path_buf();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let inside = threads.enter();
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        drop(inside);
        Cri { threads, channel }
    }

    /// The generated client of the runtime service, for streams and concurrent calls.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the image service.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Runs asynchronous work, as concurrent calls are.
    pub fn wait<F: Future>(&self, work: F) -> F::Output {
        self.threads.block_on(work)
    }

    #[allow(clippy::result_large_err)]
    fn call<T>(&self, work: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.threads.block_on(async {
            match tokio::time::timeout(CALL, work).await {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::new(
                    Code::DeadlineExceeded,
                    "the test's own limit of 300 s",
                )),
            }
        })
    }

    /// Like the plain call, with a deadline that the daemon is told.
    #[allow(clippy::result_large_err)]
    pub fn pull_image_within(
        &self,
        request: cri::PullImageRequest,
        limit: Duration,
    ) -> Result<String, Status> {
        let mut client = self.images();
        let mut request = Request::new(request);
        request.set_timeout(limit);
        self.call(async move { client.pull_image(request).await })
            .map(|answer| answer.image_ref)
    }

    calls! {
        runtime.version(VersionRequest) -> VersionResponse;
        runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        runtime.create_container(CreateContainerRequest) -> CreateContainerResponse;
        runtime.start_container(StartContainerRequest) -> StartContainerResponse;
        runtime.stop_container(StopContainerRequest) -> StopContainerResponse;
        runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        runtime.list_containers(ListContainersRequest) -> ListContainersResponse;
        runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        runtime.update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        runtime.exec(ExecRequest) -> ExecResponse;
        runtime.attach(AttachRequest) -> AttachResponse;
        runtime.port_forward(PortForwardRequest) -> PortForwardResponse;
        runtime.container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        runtime.list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        runtime.pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        runtime.update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        runtime.status(StatusRequest) -> StatusResponse;
        runtime.list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime.runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        runtime.update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
        images.list_images(ListImagesRequest) -> ListImagesResponse;
        images.image_status(ImageStatusRequest) -> ImageStatusResponse;
        images.pull_image(PullImageRequest) -> PullImageResponse;
        images.remove_image(RemoveImageRequest) -> RemoveImageResponse;
        images.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }
}
