//! RuntimeService: each call is a request validated, an operation, an answer. Nothing else happens here.

use std::sync::Arc;
use std::time::Duration;

use criquet_proto::cri::runtime_service_server::RuntimeService;
use criquet_proto::cri::{self, *};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{
    container_answer, container_request, event_stream, metric_answer, sandbox_answer, sandbox_request,
};
use super::{stats_answer, status_answer};
use crate::fault::Fault;
use crate::runtime::Runtime;

type Reply<T> = Result<Response<T>, Status>;

/// The CRI version of this API.
const API_VERSION: &str = "v1";
/// The runtime's name in Version.
pub const RUNTIME_NAME: &str = "criquet";
/// The longest grace that a stop waits: longer ones would outlive any kubelet.
const GRACE_SECONDS_MAX: i64 = 10 * 365 * 24 * 60 * 60;
/// Items a message of a Stream* call: well below the size that a message may have.
const STREAM_ITEMS: usize = 128;
/// Pods a message of StreamPodSandboxMetrics: each is some ten thousand bytes a container.
const STREAM_METRICS: usize = 16;

/// The service.
#[derive(Debug, Clone)]
pub struct Runtimes {
    /// What it serves.
    pub runtime: Arc<Runtime>,
    /// Exec, attach and port-forward.
    pub streams: criquet_stream::Server,
}

fn answer<T>(value: T) -> Reply<T> {
    Ok(Response::new(value))
}

/// A list as a stream of messages.
fn in_pieces<T: Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Response<BoxStream<M>> {
    in_pieces_of(STREAM_ITEMS, items, message)
}

fn in_pieces_of<T: Send + 'static, M: Send + 'static>(
    size: usize,
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Response<BoxStream<M>> {
    let mut pieces = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        pieces.push(Ok(message(items.by_ref().take(size).collect())));
    }
    Response::new(Box::pin(tokio_stream::iter(pieces)))
}

#[tonic::async_trait]
impl RuntimeService for Runtimes {
    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        answer(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: RUNTIME_NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: API_VERSION.into(),
        })
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        answer(status_answer::status(&self.runtime, request.get_ref().verbose).await)
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Reply<RuntimeConfigResponse> {
        answer(status_answer::runtime_config(&self.runtime))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Reply<UpdateRuntimeConfigResponse> {
        // The pod's range comes from the CNI configuration here; what the kubelet knows of it is only noted.
        tracing::info!(config = ?request.get_ref().runtime_config, "the kubelet told its runtime configuration");
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Reply<RunPodSandboxResponse> {
        let config = sandbox_request::sandbox(request.get_ref())?;
        let pod_sandbox_id = self.runtime.run_sandbox(config).await?;
        answer(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Reply<StopPodSandboxResponse> {
        self.runtime
            .stop_sandbox(&request.get_ref().pod_sandbox_id)
            .await?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Reply<RemovePodSandboxResponse> {
        self.runtime
            .remove_sandbox(&request.get_ref().pod_sandbox_id)
            .await?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Reply<PodSandboxStatusResponse> {
        let request = request.get_ref();
        let sandbox = self.runtime.sandboxes.get(&request.pod_sandbox_id)?;
        answer(sandbox_answer::status_response(&sandbox, request.verbose))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Reply<ListPodSandboxResponse> {
        let items = sandbox_answer::list(&self.runtime, request.get_ref().filter.as_ref());
        answer(ListPodSandboxResponse { items })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Reply<BoxStream<StreamPodSandboxesResponse>> {
        let items = sandbox_answer::list(&self.runtime, request.get_ref().filter.as_ref());
        Ok(in_pieces(items, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Reply<CreateContainerResponse> {
        let request = request.get_ref();
        let sandbox = self.runtime.sandboxes.get(&request.pod_sandbox_id)?;
        let config = request
            .config
            .as_ref()
            .ok_or_else(|| Fault::invalid("the request has no config"))?;
        let config = container_request::container(config, &sandbox.config)?;
        let container_id = self.runtime.create_container(&sandbox.id, config).await?;
        answer(CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Reply<StartContainerResponse> {
        self.runtime
            .start_container(&request.get_ref().container_id)
            .await?;
        answer(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Reply<StopContainerResponse> {
        let request = request.get_ref();
        let grace = u64::try_from(request.timeout.clamp(0, GRACE_SECONDS_MAX)).unwrap_or_default();
        self.runtime
            .stop_container(&request.container_id, Duration::from_secs(grace))
            .await?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Reply<RemoveContainerResponse> {
        self.runtime
            .remove_container(&request.get_ref().container_id)
            .await?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Reply<ListContainersResponse> {
        let containers = container_answer::list(&self.runtime, request.get_ref().filter.as_ref());
        answer(ListContainersResponse { containers })
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Reply<BoxStream<StreamContainersResponse>> {
        let items = container_answer::list(&self.runtime, request.get_ref().filter.as_ref());
        Ok(in_pieces(items, |containers| StreamContainersResponse {
            containers,
        }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Reply<ContainerStatusResponse> {
        let request = request.get_ref();
        let container = self.runtime.containers.get(&request.container_id)?;
        answer(container_answer::status_response(
            &self.runtime,
            &container,
            request.verbose,
        ))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        let request = request.get_ref();
        let linux = request
            .linux
            .as_ref()
            .ok_or_else(|| Fault::invalid("the request has no linux resources"))?;
        let resources = super::resource_request::resources(linux)?;
        self.runtime
            .update_container(&request.container_id, resources)
            .await?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        let request = request.get_ref();
        // The kubelet has set the pod's cgroup itself; what it tells is kept for status answers.
        let overhead = request
            .overhead
            .as_ref()
            .map(super::resource_request::resources)
            .transpose()?;
        let resources = request
            .resources
            .as_ref()
            .map(super::resource_request::resources)
            .transpose()?;
        self.runtime
            .update_sandbox(&request.pod_sandbox_id, overhead, resources)
            .await?;
        answer(UpdatePodSandboxResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Reply<ReopenContainerLogResponse> {
        self.runtime.reopen_log(&request.get_ref().container_id).await?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = u64::try_from(request.timeout)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let output = self
            .runtime
            .exec_sync(&request.container_id, request.cmd, timeout)
            .await?;
        answer(ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Reply<ExecResponse> {
        let request = request.into_inner();
        let session = super::session_request::exec(&self.runtime, request)?;
        answer(ExecResponse {
            url: self.url(session)?,
        })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Reply<AttachResponse> {
        let request = request.into_inner();
        let session = super::session_request::attach(&self.runtime, request)?;
        answer(AttachResponse {
            url: self.url(session)?,
        })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Reply<PortForwardResponse> {
        let request = request.into_inner();
        let session = super::session_request::port_forward(&self.runtime, &request)?;
        answer(PortForwardResponse {
            url: self.url(session)?,
        })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Reply<ContainerStatsResponse> {
        let container = self.runtime.containers.get(&request.get_ref().container_id)?;
        let stats = stats_answer::container(&self.runtime, &container).await?;
        answer(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Reply<ListContainerStatsResponse> {
        let stats = stats_answer::containers(&self.runtime, request.get_ref().filter.as_ref()).await;
        answer(ListContainerStatsResponse { stats })
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Reply<BoxStream<StreamContainerStatsResponse>> {
        let items = stats_answer::containers(&self.runtime, request.get_ref().filter.as_ref()).await;
        Ok(in_pieces(items, |container_stats| StreamContainerStatsResponse {
            container_stats,
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Reply<PodSandboxStatsResponse> {
        let sandbox = self.runtime.sandboxes.get(&request.get_ref().pod_sandbox_id)?;
        let stats = stats_answer::sandbox(&self.runtime, &sandbox).await?;
        answer(PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Reply<ListPodSandboxStatsResponse> {
        let stats = stats_answer::sandboxes(&self.runtime, request.get_ref().filter.as_ref()).await;
        answer(ListPodSandboxStatsResponse { stats })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Reply<BoxStream<StreamPodSandboxStatsResponse>> {
        let items = stats_answer::sandboxes(&self.runtime, request.get_ref().filter.as_ref()).await;
        Ok(in_pieces(items, |pod_sandbox_stats| {
            StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Reply<ListMetricDescriptorsResponse> {
        answer(ListMetricDescriptorsResponse {
            descriptors: metric_answer::descriptors(),
        })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Reply<ListPodSandboxMetricsResponse> {
        answer(ListPodSandboxMetricsResponse {
            pod_metrics: metric_answer::pods(&self.runtime).await,
        })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<BoxStream<StreamPodSandboxMetricsResponse>> {
        let items = metric_answer::pods(&self.runtime).await;
        let message = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(in_pieces_of(STREAM_METRICS, items, message))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Reply<BoxStream<cri::ContainerEventResponse>> {
        Ok(Response::new(event_stream::open(&self.runtime)))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Reply<CheckpointContainerResponse> {
        Err(Fault::unimplemented("criquet does not checkpoint containers").into())
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Reply<CheckpointPodResponse> {
        Err(Fault::unimplemented("criquet does not checkpoint pods").into())
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
        Err(Fault::unimplemented("criquet does not restore pods").into())
    }
}

impl Runtimes {
    fn url(&self, session: criquet_stream::Session) -> Result<String, Fault> {
        self.streams.url(session).map_err(|error| match error.kind() {
            std::io::ErrorKind::QuotaExceeded => Fault::resource_exhausted(error.to_string()),
            _ => Fault::internal(format!("making a streaming URL: {error}")),
        })
    }
}
