//! ImageService.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use criquet_image::{Credentials, ErrorKind, Image};
use criquet_proto::cri::image_service_server::ImageService;
use criquet_proto::cri::{self, *};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::fault::{Fault, Kind};
use crate::plan::identity::{Account, image_user};
use crate::runtime::Runtime;

type Reply<T> = Result<Response<T>, Status>;

/// Images a message of StreamImages.
const STREAM_ITEMS: usize = 128;

/// The service.
#[derive(Debug, Clone)]
pub struct ImageCalls {
    /// What it serves.
    pub runtime: Arc<Runtime>,
}

#[tonic::async_trait]
impl ImageService for ImageCalls {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        Ok(Response::new(ListImagesResponse {
            images: self.list(request.get_ref().filter.as_ref()),
        }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Reply<BoxStream<StreamImagesResponse>> {
        let images = self.list(request.get_ref().filter.as_ref());
        let pieces: Vec<_> = images
            .chunks(STREAM_ITEMS)
            .map(|images| {
                Ok(StreamImagesResponse {
                    images: images.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Reply<ImageStatusResponse> {
        let request = request.get_ref();
        let name = name(request.image.as_ref())?;
        let image = self.runtime.images.find(name);
        let info = match &image {
            Some(image) if request.verbose => info(image),
            _ => HashMap::new(),
        };
        Ok(Response::new(ImageStatusResponse {
            image: image.map(|image| answer(&image)),
            info,
        }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image.as_ref())?;
        let handler = request
            .image
            .as_ref()
            .map(|image| image.runtime_handler.as_str())
            .unwrap_or_default();
        if !handler.is_empty()
            && !self
                .runtime
                .config
                .runtime
                .handlers
                .iter()
                .any(|known| known == handler)
        {
            return Err(Fault::invalid(format!("runtime handler {handler:?} is not known")).into());
        }
        let credentials = request.auth.as_ref().map(credentials).transpose()?;
        let pulled = self.runtime.images.pull(name, credentials).await.map_err(fault);
        // What unpacking took, on many threads, the allocator would keep: 14 MiB after an image of 200 MB.
        tokio::task::spawn_blocking(criquet_sys::heap::trim);
        let image = pulled?;
        Ok(Response::new(PullImageResponse {
            image_ref: image.id.clone(),
        }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Reply<RemoveImageResponse> {
        self.runtime
            .images
            .remove(name(request.get_ref().image.as_ref())?)
            .await
            .map_err(fault)?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Reply<ImageFsInfoResponse> {
        let usage = self.runtime.images.usage().await.map_err(fault)?;
        let images = filesystem(
            &self.runtime.config.root.join("images"),
            usage.bytes,
            usage.inodes,
        );
        let layers = self.runtime.writable_layers().await;
        let containers = filesystem(
            &self.runtime.config.root.join("containers"),
            layers.bytes,
            layers.inodes,
        );
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![containers],
        }))
    }
}

impl ImageCalls {
    fn list(&self, filter: Option<&ImageFilter>) -> Vec<cri::Image> {
        let wanted = filter
            .and_then(|filter| filter.image.as_ref())
            .map(|image| image.image.as_str())
            .unwrap_or_default();
        if wanted.is_empty() {
            return self
                .runtime
                .images
                .list()
                .iter()
                .map(|image| answer(image))
                .collect();
        }
        self.runtime
            .images
            .find(wanted)
            .iter()
            .map(|image| answer(image))
            .collect()
    }
}

fn filesystem(path: &std::path::Path, bytes: u64, inodes: u64) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: crate::id::now_ns(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: path.display().to_string(),
        }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    }
}

fn name(image: Option<&ImageSpec>) -> Result<&str, Fault> {
    match image.map(|image| image.image.as_str()) {
        None | Some("") => Err(Fault::invalid("the request names no image")),
        Some(name) => Ok(name),
    }
}

fn credentials(auth: &AuthConfig) -> Result<Credentials, Fault> {
    let mut credentials = Credentials {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identity_token.clone(),
        registry_token: auth.registry_token.clone(),
        server_address: auth.server_address.clone(),
    };
    if credentials.username.is_empty() && !auth.auth.is_empty() {
        // As in docker's config.json: base64 of NAME:PASSWORD. What it holds is never told.
        let (username, password) =
            decode(&auth.auth).ok_or_else(|| Fault::invalid("auth.auth is not base64 of NAME:PASSWORD"))?;
        credentials.username = username;
        credentials.password = password;
    }
    Ok(credentials)
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The class of an image error, for the gRPC code.
pub fn fault(error: criquet_image::Error) -> Fault {
    let kind = match error.kind() {
        ErrorKind::Invalid => Kind::Invalid,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::Denied => Kind::PermissionDenied,
        ErrorKind::Unavailable => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Fault::new(kind, error.to_string())
}

fn answer(image: &Image) -> cri::Image {
    // What is no valid user is told as a name, so that a pod which must not run as root is refused, not let in.
    let (uid, username) = match image_user(&image.config.user) {
        Ok((None, _)) => (Some(0), String::new()),
        Ok((Some(Account::Id(uid)), _)) => (Some(i64::from(uid)), String::new()),
        Ok((Some(Account::Name(name)), _)) => (None, name),
        Err(_) => (None, image.config.user.clone()),
    };
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec {
            image: image.id.clone(),
            ..ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

fn info(image: &Image) -> HashMap<String, String> {
    // The kubelet and crictl look for `imageSpec`, as containerd has it.
    let config: serde_json::Value = serde_json::from_str(&image.config_json).unwrap_or_default();
    let info = serde_json::json!({ "chainID": "", "imageSpec": config });
    HashMap::from([("info".to_owned(), info.to_string())])
}
