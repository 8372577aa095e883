//! AdminService: what an administrator asks beyond the CRI.

use std::path::Path;
use std::sync::Arc;

use criquet_proto::admin::admin_service_server::AdminService;
use criquet_proto::admin::{LoadImagesRequest, LoadImagesResponse, LoadedImage};
use tonic::{Request, Response, Status};

use super::image_service::fault;
use crate::fault::{Fault, Kind, OrFault};
use crate::runtime::Runtime;

/// The service.
#[derive(Debug, Clone)]
pub struct AdminCalls {
    /// What it serves.
    pub runtime: Arc<Runtime>,
}

#[tonic::async_trait]
impl AdminService for AdminCalls {
    async fn load_images(
        &self,
        request: Request<LoadImagesRequest>,
    ) -> Result<Response<LoadImagesResponse>, Status> {
        let path = &request.get_ref().path;
        if !Path::new(path).is_absolute() {
            return Err(Fault::invalid(format!("path {path:?} is not absolute")).into());
        }
        let archive =
            std::fs::File::open(path).or_fault(Kind::NotFound, || format!("opening the archive {path:?}"))?;
        let images = self.runtime.images.load(archive).await.map_err(fault)?;
        let images = images
            .iter()
            .map(|image| LoadedImage {
                id: image.id.clone(),
                repo_tags: image.repo_tags.clone(),
            })
            .collect();
        Ok(Response::new(LoadImagesResponse { images }))
    }
}
